"""The numbers of a report, against what they are made of."""

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from autofash import manifest
from autofash.cli.terminal import plain
from autofash.confirming import confirm
from autofash.errors import NoTrial, UnsafeFile
from autofash.executors import InlineExecutor
from autofash.intervals import wilson
from autofash.records import State
from autofash.report import gather
from autofash.report.facts import _elapsed
from autofash.report.tested import calibration
from autofash.study import Study, load_study
from autofash.study.importances import FEWEST, importances
from tests.report.conftest import search
from tests.report.handmade import DIGITS, predictions, save


def test_the_figures_of_the_test_are_scikit_learns_of_the_same_predictions(study: Study) -> None:
    save(study)
    model = gather(study).tested
    assert model is not None
    probabilities, labels = predictions()
    guesses = probabilities.argmax(axis=1)
    assert model.accuracy == wilson(float((guesses == labels).mean()), len(labels))
    assert [list(row) for row in model.confusion] == confusion_matrix(labels, guesses).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(labels, guesses)
    for place, score in enumerate(model.classes):
        assert score.name == DIGITS[place] and score.support == support[place]
        found = (score.precision, score.recall, score.f1)
        assert found == pytest.approx((precision[place], recall[place], f1[place]))
    assert model.macro_f1 == pytest.approx(f1.mean())


def test_a_class_that_is_not_there_has_no_recall_and_one_that_is_never_named_no_precision(study: Study) -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 2, 2]]
    save(study, names=("a", "b", "c"), drawn=(probabilities, labels))
    model = gather(study).tested
    assert model is not None
    a, b, c = model.classes
    assert (a.precision, a.recall, a.f1) == (1.0, 1.0, 1.0)
    assert (b.precision, b.recall, b.f1) == (None, 0.0, 0.0)
    assert (c.precision, c.recall, c.f1) == (0.0, None, 0.0)


def test_the_most_confused_pair_comes_first_with_its_share_of_the_truth(study: Study) -> None:
    labels = np.repeat(np.arange(10), 10)
    guesses = labels.copy()
    guesses[30:34] = 5  # four of ten threes
    guesses[70:71] = 1
    save(study, drawn=(np.eye(10, dtype=np.float32)[guesses], labels))
    model = gather(study).tested
    assert model is not None
    found = [(pair.truth, pair.taken_for, pair.images, pair.share) for pair in model.pairs]
    assert found == [("3", "5", 4, 0.4), ("7", "1", 1, 0.1)]


def test_the_gallery_shows_the_surest_mistakes_first_and_hits_of_every_class(study: Study) -> None:
    save(study)
    model = gather(study).tested
    assert model is not None
    probabilities, labels = predictions()
    sureness = [picture.probability for picture in model.mistakes]
    assert sureness == sorted(sureness, reverse=True) and model.mistakes
    for picture in model.mistakes:
        assert picture.truth == DIGITS[labels[picture.row]] != picture.prediction
        assert picture.truth_probability == pytest.approx(float(probabilities[picture.row, labels[picture.row]]))
        assert picture.image.startswith("data:image/png;base64,")
    assert len({picture.truth for picture in model.hits[:8]}) == 8


def test_calibration_is_perfect_where_eighty_percent_sure_is_right_four_times_in_five() -> None:
    probabilities = np.tile(np.float32([0.8, 0.2]), (100, 1))
    labels = np.array([0] * 80 + [1] * 20)
    assert calibration(probabilities, labels).error == pytest.approx(0.0, abs=1e-6)


def test_calibration_tells_by_how_much_a_model_is_too_sure() -> None:
    probabilities = np.tile(np.float32([0.99, 0.01]), (100, 1))
    found = calibration(probabilities, np.array([0] * 50 + [1] * 50))
    assert found.error == pytest.approx(0.49) and found.confidence == pytest.approx(0.99)
    assert [part.images for part in found.bins] == [0] * 14 + [100]


def test_the_history_has_every_finished_trial_and_its_best_never_falls(study: Study) -> None:
    facts = gather(study)
    assert len(facts.history) == facts.finished == 24 and facts.pruned > 0
    bests = [point.best for point in facts.history if point.best is not None]
    assert bests == sorted(bests) and bests[-1] == study.best().value
    times = [point.elapsed for point in facts.history]
    assert None not in times and times == sorted(times, key=lambda time: time or 0.0)  # one worker


def test_a_pause_between_two_searches_is_no_time_of_searching(study: Study) -> None:
    record, noon = study.best(), datetime(2026, 11, 21, 12).astimezone()
    trials = [
        replace(record, number=0, seconds=10.0, ended=noon),
        replace(record, number=1, seconds=10.0, ended=noon + timedelta(seconds=5)),
        replace(record, number=2, seconds=10.0, ended=noon + timedelta(days=1)),
    ]
    assert _elapsed(trials) == {0: 10.0, 1: 15.0, 2: 25.0}


def test_the_parameter_that_the_fake_looks_at_is_the_most_important_and_conditional_ones_are_told_too(
    study: Study,
) -> None:
    found = importances(study)
    assert next(iter(found)) == "learning_rate" and sum(found.values()) == pytest.approx(1.0)
    assert any(study.space.params[name].when for name in found)
    assert gather(study).telling[0] == "learning_rate"


def test_too_few_trials_have_no_importances_and_the_facts_say_why(workplace: Path) -> None:
    study = search(trials=3, epochs=1)
    assert importances(study) == {}
    assert gather(study).no_importances == f"3 finished trials cannot tell: it takes {FEWEST}."


def test_the_cost_of_pruned_trials_is_counted_and_what_they_spared_is_estimated_at_their_pace(study: Study) -> None:
    facts = gather(study)
    trials = study.trials()
    pruned = [record for record in trials if record.state is State.PRUNED]
    assert facts.cost.trial_seconds == pytest.approx(sum(record.seconds for record in trials))
    assert facts.cost.saved_epochs == sum(4 - len(record.reports) for record in pruned) > 0
    assert facts.cost.saved_seconds == pytest.approx(0.1 * facts.cost.saved_epochs)  # the fake says 0.1 s an epoch
    assert sum(stop.trials for stop in facts.pruned_at) == len(pruned)
    assert all(stop.why for stop in facts.pruned_at)


def test_a_second_opening_of_the_test_set_is_said_aloud(study: Study) -> None:
    save(study)
    for trial in (0, 3):
        opening = study.note_opening({"when": "2026-11-21T14:05:00+00:00", "command": "a test", "trial": trial})
        study.note_result(opening, {"test_accuracy": 0.9})
        facts = gather(load_study(study.name))
        assert any("opened twice" in caveat for caveat in facts.caveats) == (trial == 3)
    assert [opening["trial"] for opening in facts.openings] == [0, 3]


def test_a_study_without_a_model_says_what_to_run(study: Study) -> None:
    facts = gather(study)
    assert facts.tested is None and "no tested model of it is saved" in facts.result
    assert facts.export_command == "autofash best digits-small --export"


def test_the_model_that_was_made_last_is_the_one_told_of(study: Study) -> None:
    save(study, "best", created="2026-11-21T14:05:00+00:00")
    save(study, "trial-0", created="2026-11-21T15:05:00+00:00", trial=0)
    save(study, "ensemble-2-tta", created="2026-11-21T14:35:00+01:00", members=[{"trial": 0}, {"trial": 1}], tta=True)
    facts = gather(study)
    assert facts.tested is not None and facts.tested.name == "trial-0"
    assert "autofash best digits-small --export --trial 0" in facts.reproduce.commands


def test_an_ensemble_is_named_by_its_members(study: Study) -> None:
    save(study, "ensemble-2-tta", members=[{"trial": 4}, {"trial": 7}], tta=True, exports={"onnx": {"bytes": 7}})
    facts = gather(study)
    assert facts.result.startswith("The mean of the models of trials 4, 7, each image seen mirrored too, names")
    assert "autofash best digits-small --export --ensemble 2 --tta --formats onnx" in facts.reproduce.commands


def test_a_folder_of_another_study_is_passed_over(study: Study) -> None:
    save(study, study="somebody-elses")
    assert gather(study).tested is None


def test_changed_predictions_are_refused(study: Study) -> None:
    place = save(study)
    with (place / manifest.PREDICTIONS).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(UnsafeFile, match="not what the manifest vouches for") as caught:
        gather(study)
    assert caught.value.code == "E-MODEL-INCOMPLETE" and caught.value.exit_code == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"created": 7},
        {"created": "yesterday"},
        {"metrics": None},
        {"metrics": [1]},
        {"classes": ["only", "two"]},
        {"classes": 7},
        {"members": [{}]},
        {"exports": {"onnx": 7}},
    ],
)
def test_a_manifest_that_does_not_describe_its_folder_is_refused_in_one_line(
    study: Study, wrong: dict[str, object]
) -> None:
    save(study)
    save(study, **wrong)
    with pytest.raises(UnsafeFile, match="autofash best --export"):
        gather(study)


def test_predictions_that_are_no_numbers_are_refused(study: Study) -> None:
    probabilities, labels = predictions()
    probabilities[3] = math.nan
    save(study, drawn=(probabilities, labels))
    with pytest.raises(UnsafeFile, match="does not describe"):
        gather(study)


def test_a_model_of_before_there_were_galleries_is_told_of_without_pictures(study: Study) -> None:
    place = save(study)
    manifest.write(place, manifest.read(place), [manifest.PREDICTIONS])
    model = gather(study).tested
    assert model is not None and (model.mistakes, model.hits) == ((), ()) and model.images == 300


def test_a_study_without_a_complete_trial_is_refused(workplace: Path) -> None:
    with pytest.raises(NoTrial):
        search(trials=1, budget_seconds=0.0)
    with pytest.raises(NoTrial, match="has no complete trial yet"):
        gather(load_study("digits-small"))


def test_the_facts_are_json(study: Study) -> None:
    save(study)
    told = json.loads(json.dumps(plain(gather(study)), allow_nan=False))
    assert told["study"] == "digits-small" and told["tested"]["accuracy"]["low"] < told["tested"]["accuracy"]["value"]


def test_confirmed_configs_are_ranked_over_their_seeds(study: Study) -> None:
    executor = InlineExecutor()
    try:
        confirm(study, top=2, seeds=2, task="tests.fakes:learn", executor=executor)
    finally:
        executor.close()
    facts = gather(study)
    assert [len(entry.values) for entry in facts.confirmed] == [2, 2]
    assert not any("Validation flatters" in caveat for caveat in facts.caveats)


def test_intervals_that_overlap_with_the_leaders_are_counted(study: Study) -> None:
    facts = gather(study)
    assert facts.validation_images == 240  # of the 1,437 of the digits that are not held out
    first = facts.leaders[0].accuracy
    assert facts.alike == sum(leader.accuracy.high >= first.low for leader in facts.leaders) > 1
    assert first == wilson(study.best().value or 0.0, 240)


def test_the_commands_make_such_a_study_again(workplace: Path) -> None:
    [command, *_] = gather(search(space="mlp", trials=1, epochs=2, seed=7, starters=False)).reproduce.commands
    assert command == (
        "autofash search --study digits-mlp --dataset digits --space mlp --trials 1 --epochs 2 --seed 7 --sampler tpe "
        "--pruner asha --objective accuracy --no-starters"
    )
