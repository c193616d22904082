"""What a user's own code describes is trained as its author meant it: real KerasTuner, real Keras, the real digits."""

import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from autofash import data, hypermodels
from autofash.checkpoint import Checkpoint
from autofash.errors import InfeasibleConfig
from autofash.executors import ProcessExecutor
from autofash.hypermodels import source, training
from autofash.records import Ending, EpochReport, ModelBuilt, Outcome, Suggest, TrialSpec, Value, Verdict
from tests.contracts.test_executor import everything

pytestmark = pytest.mark.keras
MODELS = Path(__file__).with_name("models.py")
Answer = Callable[[Suggest], Value]


def spec(
    name: str, trial: int = 0, epochs: int = 2, pixels: str = "unit", flat: bool = False, **params: Value
) -> TrialSpec:
    folder = data.prepare("digits", Path(), seed=0, validation=1 / 6).folder
    config = {"family": "hypermodel", "hypermodel": f"{MODELS}:{name}", "pixels": pixels, "flat": flat, **params}
    return TrialSpec(trial, config, seed=7, epochs=epochs, data=folder, task="autofash.hypermodels:run_trial")


def least(asked: Suggest) -> Value:
    """The first value of a choice, the lowest of a range, False."""
    param = asked.param
    return param["values"][0] if "values" in param else param.get("low", False)


def most(asked: Suggest) -> Value:
    """The last value of a choice, the highest of a range, False."""
    param = asked.param
    return param["values"][-1] if "values" in param else param.get("high", False)


class Told:
    """Answers a trial, and keeps what it said."""

    def __init__(self, answer: Answer = least, pause_after: int = 99, stop_after: int = 99) -> None:
        self.said: list[Suggest | ModelBuilt | EpochReport] = []
        self._answer, self._pause, self._stop = answer, pause_after, stop_after

    def __call__(self, said: Suggest | ModelBuilt | EpochReport) -> Verdict:
        self.said.append(said)
        if isinstance(said, Suggest):
            return Verdict.suggest(self._answer(said))
        epoch = said.epoch if isinstance(said, EpochReport) else 0
        if epoch >= self._pause:
            return Verdict.pause("others first")
        return Verdict.stop("enough") if epoch >= self._stop else Verdict.go()

    @property
    def asked(self) -> dict[str, dict[str, object]]:
        return {said.name: dict(said.param) for said in self.said if isinstance(said, Suggest)}

    @property
    def reports(self) -> list[EpochReport]:
        return [said for said in self.said if isinstance(said, EpochReport)]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    # take_resources wants a process that has run nothing yet; here others have
    monkeypatch.setattr(training, "take_resources", lambda given: keras.utils.set_random_seed(given.seed))


def run(given: TrialSpec, told: Told | None = None) -> Told:
    told = told or Told()
    hypermodels.run_trial(given, told)
    return told


def test_kerastuners_getting_started_example_learns_as_it_is() -> None:
    told = run(
        spec("build_model", epochs=3), Told(lambda asked: least(asked) if asked.name == "num_layers" else most(asked))
    )
    assert told.asked["units_0"] == {"type": "int", "low": 32, "high": 512, "step": 32, "log": False, "when": {}}
    assert list(told.asked) == ["num_layers", "units_0", "activation", "dropout", "lr"], "each is asked for once"
    assert [report.epoch for report in told.reports] == [1, 2, 3]
    assert told.reports[-1].accuracy > 0.5 and told.reports[-1].images == 3 * 1197


def test_parameters_ask_only_where_their_conditions_are_met() -> None:
    flat = run(spec("Network", epochs=1), Told(lambda asked: "mlp" if asked.name == "kind" else least(asked))).asked
    conv = run(spec("Network", epochs=1), Told(lambda asked: "cnn" if asked.name == "kind" else least(asked))).asked
    assert list(flat) == ["kind", "dense/units", "batch_size"] and list(conv) == ["kind", "filters", "batch_size"]
    assert flat["dense/units"]["log"] is True


def test_a_fit_of_ones_own_gets_what_kerastuner_would_give_it(capsys: pytest.CaptureFixture[str]) -> None:
    told = run(spec("Network", pixels="raw"))
    assert "validated uint8 (1197, 8, 8, 1) int64" in capsys.readouterr().out
    built = next(said for said in told.said if isinstance(said, ModelBuilt))
    assert not built.settled, "its fit asked for the batch size after this"
    assert [report.epoch for report in told.reports] == [1, 2]


def test_two_calls_of_fit_share_the_epochs_of_a_trial() -> None:
    assert [report.epoch for report in run(spec("TwoPhases", epochs=5)).reports] == [1, 2, 3, 4, 5]


def test_a_trial_that_is_stopped_in_its_first_call_of_fit_makes_no_second() -> None:
    assert [report.epoch for report in run(spec("TwoPhases", epochs=5), Told(stop_after=1)).reports] == [1]


def test_a_trial_that_paused_after_its_first_call_of_fit_goes_on_with_its_second(tmp_path: Path) -> None:
    given = TrialSpec(**{**_fields(spec("TwoPhases", epochs=4)), "checkpoint": str(tmp_path / "checkpoint")})
    assert [report.epoch for report in run(given, Told(pause_after=2)).reports] == [1, 2]
    assert [report.epoch for report in run(given).reports] == [3, 4]


def test_a_fit_that_reads_its_history_is_left_where_its_training_is_over() -> None:
    told = run(spec("Guide", epochs=3))
    assert [report.epoch for report in told.reports] == [1, 2, 3], "it names epochs, and is given the study's"
    assert len(run(spec("Guide", epochs=3), Told(stop_after=2)).reports) == 2


def test_a_refit_gives_a_fit_of_ones_own_its_validation_data_and_one_that_was_killed_goes_on(tmp_path: Path) -> None:
    found, kept = data.load(spec("Guide").data), Checkpoint(tmp_path)
    first, second = Told(), Told()
    hypermodels.refitted(spec("Guide"), *arrays(found), 10, first, epochs=2, checkpoint=kept)
    hypermodels.refitted(spec("Guide"), *arrays(found), 10, second, epochs=3, checkpoint=kept)
    assert [[report.epoch for report in told.reports] for told in (first, second)] == [[1, 2], [3]]


def test_a_loss_may_stand_in_a_list() -> None:
    first, last = run(spec("listed", epochs=4)).reports[::3]
    assert last.loss < first.loss < 3.0


def test_a_weight_that_no_layer_holds_is_kept_with_the_others(tmp_path: Path) -> None:
    images, labels = np.zeros((32, 8, 8), dtype=np.float32), np.zeros(32, dtype=np.int64)
    model, again = source.load(f"{MODELS}:holding")(None), source.load(f"{MODELS}:holding")(None)
    for each, epochs in ((model, 3), (again, 1)):
        each.fit(images, labels, epochs=epochs, batch_size=32, verbose=0)
    Checkpoint(tmp_path).save(model, 3)
    assert Checkpoint(tmp_path).restore(again) == 3 and float(again.steps) == 3.0


def test_a_training_loop_of_ones_own_reports_once_at_its_end() -> None:
    [report] = run(spec("OwnLoop")).reports
    assert report.epoch == 1 and report.accuracy > 0.1


def test_an_optuna_style_function_is_compiled_and_fed_flat_and_standardized() -> None:
    told = run(spec("define", pixels="standardized", flat=True, epochs=3), Told(most))
    assert told.asked["act"] == {"type": "choice", "values": ["relu", "None"], "when": {}}
    assert told.reports[-1].accuracy > 0.5


def test_a_paused_trial_goes_on_from_its_checkpoint_and_asks_for_nothing_that_it_knows(tmp_path: Path) -> None:
    given = TrialSpec(**{**_fields(spec("build_model", epochs=3)), "checkpoint": str(tmp_path / "checkpoint")})
    first = run(given, Told(pause_after=1))
    known = {name: least(Suggest(0, name, param)) for name, param in first.asked.items()}
    second = run(TrialSpec(**{**_fields(given), "config": {**given.config, **known}}))
    assert [report.epoch for report in first.reports + second.reports] == [1, 2, 3]
    assert second.asked == {} and second.reports[0].accuracy > first.reports[0].accuracy


def arrays(found: data.SearchData) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    return found.train_images, found.train_labels, (found.validation_images, found.validation_labels)


def _fields(given: TrialSpec) -> dict[str, object]:
    return {name: getattr(given, name) for name in given.__dataclass_fields__}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", r"models\.py:\d+: KeyError: 'nothing'"),
        ("five_classes", r"puts out \(5,\), and the data have 10 classes"),
        ("forgetful", r"it returned NoneType, no keras\.Model"),
        ("NOTHING", r"it is a int"),
        ("leaves", r"models\.py:\d+: SystemExit: no arguments were given"),
        ("define", r"does not take images of \(8, 8, 1\).*--flat"),
    ],
)
def test_what_a_users_code_does_wrong_is_one_line_that_names_it(name: str, told: str) -> None:
    with pytest.raises(InfeasibleConfig) as error:
        run(spec(name))
    assert re.search(told, str(error.value)) and "\n" not in str(error.value)


def test_what_is_kept_of_a_refit_takes_pixels_and_answers_as_the_trained_model_does(tmp_path: Path) -> None:
    told = run(spec("Network", epochs=1))
    params = {name: least(Suggest(0, name, param)) for name, param in told.asked.items()}
    given, found = spec("Network", **params), data.load(spec("Network").data)
    whole = hypermodels.refitted(given, *arrays(found), 10, told, epochs=2, checkpoint=Checkpoint(tmp_path))
    probabilities = whole.predict(found.validation_images, verbose=0)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5), "the user's model puts out logits"
    whole.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(found.validation_images, verbose=0)
    assert np.array_equal(again, probabilities)


def test_a_refit_does_not_make_up_parameters(tmp_path: Path) -> None:
    found = data.load(spec("Network").data)
    with pytest.raises(InfeasibleConfig, match="asks for kind"):
        hypermodels.refitted(
            spec("Network"),
            *arrays(found),
            10,
            Told(),
            epochs=1,
            checkpoint=Checkpoint(tmp_path),
        )


def test_its_processes_are_forked_with_kerastuner_loaded(tmp_path: Path) -> None:
    made = ProcessExecutor("autofash.hypermodels", log=tmp_path / "log.txt")
    try:
        made.submit(spec("TwoPhases", epochs=1))
        [*_, end] = everything(made)
        assert made.started_as == "fork"
        assert isinstance(end, Outcome) and end.ending is Ending.DONE, end
    finally:
        made.close()


@pytest.mark.parametrize("name", ["HyperResNet", "HyperXception"])
def test_kerastuners_own_hypermodels_build_on_small_colour_pictures(name: str) -> None:
    told = Told()
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    given = TrialSpec(
        **{
            **_fields(spec("build_model")),
            "config": {**spec("build_model").config, "hypermodel": f"keras_tuner.applications:{name}"},
        }
    )
    built = training.build(given, images, 10, lambda asked, param: told(Suggest(0, asked, param.model_dump())).value)
    assert told.asked and built.whole.predict(images, verbose=0).shape == (16, 10)


def test_a_hypermodel_that_makes_no_classifier_is_refused_in_one_line() -> None:
    images = np.zeros((16, 32, 32, 3), np.uint8)
    config = {**spec("build_model").config, "hypermodel": "keras_tuner.applications:HyperImageAugment"}
    told = Told()
    with pytest.raises(InfeasibleConfig, match=r"puts out \(32, 32, 3\), and the data have 10 classes"):
        training.build(
            TrialSpec(**{**_fields(spec("build_model")), "config": config}),
            images,
            10,
            lambda asked, param: told(Suggest(0, asked, param.model_dump())).value,
        )
