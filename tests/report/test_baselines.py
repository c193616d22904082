"""The five classics beside a study of their data set."""

from pathlib import Path

from autofash.report import gather
from autofash.space import load_space
from autofash.study import Study
from tests.report.conftest import CONFIG, SPACE, told
from tests.report.handmade import save


def test_the_classics_stand_with_their_claims_and_with_what_was_measured_here_where_it_was(workplace: Path) -> None:
    study = told(SPACE, [(CONFIG, [0.9])], name="fashion_mnist-small", dataset="fashion_mnist")
    assert [baseline.name for baseline in gather(study).baselines] == [
        "ann",
        "cnn",
        "dense-128",
        "dense-100",
        "dense-dropout",
    ]
    assert all(baseline.test_accuracy is None for baseline in gather(study).baselines)
    space = load_space("baselines")
    classics = told(space, [({"config": "ann"}, [0.9])], name="fashion_mnist-baselines", dataset="fashion_mnist")
    save(classics, "trial-0", metrics={"train_accuracy": 0.93, "test_accuracy": 0.88})
    measured = {baseline.name: baseline for baseline in gather(study).baselines}
    assert (measured["ann"].train_accuracy, measured["ann"].test_accuracy) == (0.93, 0.88)
    assert measured["dense-100"].claim == "99 %" and measured["dense-100"].test_accuracy is None


def test_another_data_set_has_no_classics(study: Study) -> None:
    assert gather(study).baselines == ()
