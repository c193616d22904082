"""A search over parameters that show themselves only while a trial builds: real processes and files, no Keras."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autofash import loop
from autofash.confirming import confirm
from autofash.errors import NoTrial, SpaceError, StudyMismatch, UsageError
from autofash.loop import SearchEnded, SearchEvent, TrialEnded
from autofash.records import State
from autofash.request import SearchRequest
from autofash.study import Study, load_study
from autofash.study.proposals import epochs_of
from tests.faults.invariant import broken

SAMPLERS = ["tpe", "random", "qmc", "cmaes"]


@pytest.fixture(autouse=True)
def model(workplace: Path) -> Path:
    """A file as a user has one; its trials are stand-ins, so that it is looked at, and not run."""
    path = workplace / "my_model.py"
    path.write_text("def build_model(hp):\n    raise NotImplementedError\n")
    return path


def search(task: str = "ask_and_learn", **settings: object) -> tuple[Study, list[SearchEvent]]:
    events: list[SearchEvent] = []
    asked = {"dataset": "digits", "hypermodel": "my_model.py:build_model", "trials": 6, "epochs": 3, **settings}
    return loop.search(SearchRequest(**asked), [events.append], task=f"tests.fakes:{task}"), events


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_parameters_that_it_did_not_know_of(sampler: str) -> None:
    study, _ = search(sampler=sampler, trials=12)
    finished = [trial for trial in study.trials() if trial.finished]
    assert len(finished) == 12
    for trial in finished:
        assert 1e-4 <= trial.config["learning_rate"] <= 1e-1
        assert ("filters" in trial.config) == (trial.config["kind"] == "cnn")
    assert len({tuple(trial.config.items()) for trial in finished}) == 12


@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("sampler", ["random", "bayesian", "hyperband"])
def test_kerastuners_oracles_propose_parameters_once_they_have_shown_themselves(sampler: str) -> None:
    study, _ = search(engine="keras-tuner", sampler=sampler, trials=14, epochs=4, workers=2)
    finished = [trial for trial in study.trials() if trial.finished]
    assert len(finished) == 14
    for trial in finished:
        assert 1e-4 <= trial.config["learning_rate"] <= 1e-1
        assert ("filters" in trial.config) == (trial.config["kind"] == "cnn")
    rates = sorted(trial.config["learning_rate"] for trial in finished if trial.continues is None)
    assert len(set(rates)) == len(rates)
    continued = [trial for trial in finished if trial.continues is not None]
    assert bool(continued) == (sampler == "hyperband")
    assert len({trial.continues for trial in continued}) == len(continued), "nobody is promoted twice"
    for trial in continued:
        before = study.trial(trial.continues)
        assert before.config == trial.config and trial.curve[: len(before.curve)] == before.curve


@pytest.mark.usefixtures("lent")
def test_a_grid_passes_over_parameters_that_a_trial_does_not_ask_for() -> None:
    study, _ = search(engine="keras-tuner", sampler="grid", trials=14, epochs=1, workers=2)
    finished = [trial for trial in study.trials() if trial.finished]
    assert len(finished) == 14 and len({tuple(trial.config.items()) for trial in finished}) == 14


@pytest.mark.usefixtures("lent")
def test_an_oracle_knows_of_the_parameters_that_queued_trials_showed() -> None:
    search(study="old", sampler="random", trials=4)
    study, _ = search(study="new", engine="keras-tuner", sampler="bayesian", warm_start="old", trials=5, workers=1)
    trials = study.trials()
    assert [trial.origin.startswith("warm start") for trial in trials] == [True, True, True, False, False]
    assert all(trial.finished and "learning_rate" in trial.config for trial in trials)


def test_a_file_here_that_is_named_like_a_library_is_not_taken_for_it(workplace: Path) -> None:
    for name in ("random", "json", "keras"):
        (workplace / f"{name}.py").write_text("raise SystemExit('not the library')\n")
    study, _ = search(trials=2)
    assert [trial.state for trial in study.trials()] == [State.COMPLETE] * 2


def test_the_space_of_a_study_is_what_its_trials_have_shown() -> None:
    study, _ = search(trials=12)
    seen = load_study(study.name).space
    assert set(seen.params) == {"learning_rate", "kind", "filters"}
    assert seen.fingerprint != seen.declared.fingerprint == study.settings.space_fingerprint


def test_tpe_learns_from_the_parameters_that_showed_themselves() -> None:
    def middling(sampler: str) -> list[float]:
        study, _ = search(study=sampler, sampler=sampler, trials=40, pruner="none", workers=1)
        return sorted(trial.value or 0.0 for trial in study.trials() if trial.number >= 20)[8:12]

    assert min(middling("tpe")) > max(middling("random"))


def test_a_resumed_search_knows_its_model_and_repeats_nothing() -> None:
    search(study="mine", trials=5)
    study, _ = search(study="mine", hypermodel=None, dataset=None, epochs=None, trials=10)
    finished = [trial for trial in study.trials() if trial.finished]
    assert len(finished) == 10 and len({tuple(trial.config.items()) for trial in finished}) == 10


@pytest.mark.parametrize(
    "changed",
    [{"pixels": "raw"}, {"flat": True}, {"hypermodel": "other.py:build_model"}, {"hypermodel": None, "space": "mlp"}],
)
def test_a_study_is_not_resumed_with_another_model_or_fed_otherwise(changed: dict[str, object], model: Path) -> None:
    model.with_name("other.py").write_text(model.read_text())
    search(study="mine", trials=2)
    with pytest.raises(StudyMismatch, match=r"another space: .*--new-study"):
        search(study="mine", trials=4, **changed)


def test_a_parameter_with_a_name_that_a_config_has_already_is_refused_not_answered_with_that() -> None:
    with pytest.raises(SpaceError, match="cannot be called pixels"):
        search("ask_for_pixels")


def test_bounds_may_move_and_the_space_grows_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    search(study="mine", trials=8)
    monkeypatch.setenv("AUTOFASH_FAKE_FILTERS", "64")
    study, _ = search(study="mine", trials=16)
    assert load_study("mine").space.params["filters"].high == 64
    assert sum(trial.finished for trial in study.trials()) == 16


def test_a_parameter_that_becomes_another_kind_ends_the_search_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    search("ask_alike", study="mine", trials=1)
    with pytest.raises(SpaceError, match=r"half was .*, and is \{.*\} now.*--new-study") as error:
        search("ask_otherwise", study="mine", trials=2)
    assert error.value.code == "E-SPACE-MISMATCH"
    search("ask_alike", study="mine", trials=2)  # and nothing is lost by it


def test_a_config_that_repeats_is_given_up_and_a_space_without_another_ends_the_search() -> None:
    study, events = search("ask_alike", trials=5, pruner="none")
    assert sum(trial.finished for trial in study.trials()) == 2
    assert isinstance(events[-1], SearchEnded) and events[-1].why == "the space has nothing left to try"
    given_up = [event.record for event in events if isinstance(event, TrialEnded) and event.record.repeats is not None]
    finished = {trial.number for trial in study.trials() if trial.finished}
    assert given_up and all(record.repeats in finished and record.state is State.FAILED for record in given_up)


def test_a_killed_search_resumes_with_the_same_parameters(workplace: Path) -> None:
    order = "from tests.hypermodels.test_searching import search; search(study='mine', trials=30, epochs=6)"
    environment = {**os.environ, "AUTOFASH_FAKE_SECONDS": "0.05"}
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", order], env=environment, start_new_session=True)
        time.sleep(2.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    study, _ = search(study="mine", trials=30, epochs=6)
    assert broken("sqlite:///studies/studies.db", "mine", finished=30) == []
    retried = [trial for trial in study.trials() if trial.origin.startswith("retry of")]
    for trial in retried:
        first = study.trial(int(re.findall(r"\d+", trial.origin)[0]))
        assert first.config.items() <= trial.config.items() and first.seed == trial.seed


def test_a_config_is_what_was_asked_for_not_what_was_queued() -> None:
    first, _ = search(study="first", trials=6, pruner="none")
    searched = first.trials()
    study, _ = search("ask_for_half", study="second", warm_start="first", trials=3, pruner="none")
    queued = [trial for trial in study.trials() if trial.origin.startswith("warm start")]
    assert queued and all("learning_rate" in trial.config for trial in searched)
    assert all("kind" in trial.config and "learning_rate" not in trial.config for trial in queued if trial.finished)


def test_a_confirmation_runs_configs_that_the_search_has_shown() -> None:
    study, _ = search(trials=6, pruner="none")
    confirmed = confirm(study, top=2, seeds=2, task="tests.fakes:ask_and_learn")
    assert {found.record.number for found in confirmed} == {trial.number for trial in study.leaderboard()[:2]}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"hypermodel": "my_model.py:buildmodel"},
            r"my_model\.py: there is no function or class 'buildmodel'.*my_model\.py:build_model",
        ),
        ({"hypermodel": "my_model.py"}, r"my_model\.py:build_model"),
        ({"hypermodel": "none.py:build"}, r"none\.py: cannot be read"),
        ({"hypermodel": "no_such_package.models:build"}, r"names no module"),
        ({"hypermodel": ""}, r"names no module"),
        ({"pixels": "bytes"}, r"no way to feed pixels 'bytes'.*raw, standardized, unit"),
        ({"sampler": "grid"}, r"shows its parameters only while it builds"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_starts(settings: dict[str, object], told: str) -> None:
    with pytest.raises(SpaceError, match=told):
        search(**settings)


def test_a_file_that_is_not_python_is_named_with_its_line(model: Path) -> None:
    model.write_text("import keras\ndef build_model(hp:\n")
    with pytest.raises(SpaceError, match=r"my_model\.py:2: not Python"):
        search()


def test_a_model_may_be_named_wherever_a_module_names_one(model: Path) -> None:
    model.write_text(
        "try:\n    import keras\nexcept ImportError:\n    def spare(hp): ...\n"
        "if True:\n    def branched(hp): ...\n"
        "one, (two, three) = ..., (..., ...)\ntold: object = ...\n"
    )
    for name in ("spare", "branched", "one", "three", "told"):
        study, _ = search(study=name, hypermodel=f"my_model.py:{name}", trials=1)
        assert [trial.state for trial in study.trials()] == [State.COMPLETE]


def test_a_package_here_is_found_and_not_run_by_the_search(workplace: Path) -> None:
    package = workplace / "mine_alone"
    (package / "nets").mkdir(parents=True)
    for file in ("__init__.py", "nets/__init__.py", "nets/small.py"):
        (package / file).write_text("raise SystemExit('run')\n")
    study, _ = search(hypermodel="mine_alone.nets.small:build_model", trials=1)
    assert study.trials()[0].state is State.COMPLETE and study.runs[-1]["model_sha256"]
    with pytest.raises(SpaceError, match="names no module"):
        search(study="other", hypermodel="mine_alone.nets.large:build_model")


def test_what_is_no_file_or_nested_without_end_is_refused_in_one_line(model: Path) -> None:
    model.write_text(f"build_model = {'-' * 20_000}1\n")
    with pytest.raises(SpaceError, match=r"my_model\.py: not Python: .+\. Try: mend that line"):
        search()
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(SpaceError, match=r"my_model\.py: is no file"):
        search()


def test_a_parameter_of_a_users_code_that_is_called_epochs_is_its_own_affair() -> None:
    assert epochs_of({"family": "hypermodel", "epochs": "few"}, 5) == 5
    assert epochs_of({"family": "mlp", "epochs": 3}, 5) == 3


def test_a_space_and_a_model_exclude_each_other_and_feeding_goes_with_a_model() -> None:
    with pytest.raises(UsageError, match="--space and --hypermodel exclude each other"):
        search(space="mlp")
    with pytest.raises(UsageError, match="--hypermodel FILE"):
        search(hypermodel=None, flat=True)


def test_a_model_file_that_was_changed_since_is_told_of(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(study="mine", trials=2)
    search(study="mine", trials=3)
    assert not caplog.messages
    model.write_text(model.read_text() + "# another\n")
    search(study="mine", trials=4)
    assert [line for line in caplog.messages if "W-MODEL-CHANGED" in line and "my_model.py" in line]


def test_a_model_that_fails_each_time_fails_the_search_with_its_reason() -> None:
    with pytest.raises(NoTrial, match="KeyError"):
        search("ask_in_vain", trials=3)
