"""KerasTuner's oracles over the ledger: rebuilt from it alone, honouring their brackets, on real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from autofash import loop
from autofash.errors import ResourceError, UsageError
from autofash.loop import SearchEvent, TrialBegan, TrialEnded, TrialReported
from autofash.records import Ending, EpochReport, Outcome, State, StudySettings, Value
from autofash.request import SearchRequest
from autofash.space import ChoiceParam, FloatParam, IntParam, Space, load_space
from autofash.study import Study, StudyWriter, leaders, load_study, oracles
from autofash.study.oracles import Helper, Oracle
from autofash.study.samplers import sampler_of
from autofash.study.writer import Asked
from tests.fakes import accuracy_of
from tests.test_loop import coordinator, family, finish, line_of

SPACE = Space(
    "mlp",
    {
        "depth": IntParam(low=1, high=3),
        "width": ChoiceParam(values=[8, 16, 32]),
        "learning_rate": FloatParam(low=1e-4, high=1e-1, log=True),
    },
)
SETTINGS = StudySettings(
    "digits", "d", "mine", SPACE.table(), SPACE.fingerprint, "kt-hyperband", "none", "accuracy", 9, 0, 0.1, False
)
# What KerasTuner's own oracle does by itself: bracket, round, epochs and first epoch of each trial.
OWN = """
import json, sys, tempfile, warnings
import keras_tuner
hp = keras_tuner.HyperParameters()
hp.Float("x", 0.0, 1.0)
objective = keras_tuner.Objective("o", "max")
oracle = keras_tuner.oracles.HyperbandOracle(objective, max_epochs=9, hyperband_iterations=2, hyperparameters=hp, seed=1)
oracle._set_project_dir(tempfile.mkdtemp(), "p")
oracle.verbose = 0
told = []
for _ in range(int(sys.argv[1])):
    trial = oracle.create_trial("worker")
    values = trial.hyperparameters.values
    told.append([values["tuner/round"], values["tuner/epochs"], values["tuner/initial_epoch"]])
    oracle.update_trial(trial.trial_id, {"o": values["x"]})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
json.dump(told, sys.stdout)
"""


def opened(sampler: str = "kt-hyperband", name: str = "s", target: int = 100) -> StudyWriter:
    return StudyWriter(name, "sqlite:///studies/studies.db", replace(SETTINGS, sampler=sampler), target=target)


def asked(writer: StudyWriter) -> Asked | None:
    """The next trial, however long the oracle thinks."""
    while (found := writer.ask()) is None and writer.waits:
        pass
    return found


def run(writer: StudyWriter, trial: Asked, ending: Ending = Ending.DONE) -> None:
    """Train it as `tests.fakes.learn` does."""
    for epoch in range(len(trial.reports) + 1, (trial.until or trial.epochs) + 1):
        value = accuracy_of(trial.config, epoch)
        writer.observe(EpochReport(trial.number, epoch, value, value, 0, value, 0, epoch, float(epoch)))
    writer.tell(Outcome(trial.number, ending, "" if ending is Ending.DONE else "the fake is out of order"))


def ran(writer: StudyWriter, most: int) -> Iterator[Asked]:
    while most and (found := asked(writer)) is not None:
        run(writer, found)
        most -= 1
        yield found


def search(task: str = "learn", **settings: object) -> tuple[Study, list[SearchEvent]]:
    events: list[SearchEvent] = []
    request = SearchRequest(
        **{
            "dataset": "digits",
            "space": "mlp",
            "epochs": 9,
            "engine": "keras-tuner",
            "sampler": "hyperband",
            **settings,
        }
    )
    return loop.search(request, [events.append], task=f"tests.fakes:{task}"), events


def trained(events: list[SearchEvent]) -> list[tuple[int, int]]:
    return [(event.report.trial, event.report.epoch) for event in events if isinstance(event, TrialReported)]


def assert_no_epoch_was_trained_twice(study: Study, epochs: list[tuple[int, int]]) -> None:
    """epochs: trial and epoch of every report. Those of a trial and of what it continues are all there, once."""
    own: dict[int, list[int]] = {}
    for trial, epoch in epochs:
        own.setdefault(trial, []).append(epoch)
    by_number = {trial.number: trial for trial in study.trials()}
    for trial in by_number.values():
        if trial.state is State.COMPLETE:
            before = by_number[trial.continues].curve if trial.continues is not None else ()
            assert own[trial.number] == list(range(len(before) + 1, len(trial.curve) + 1)), trial
            assert trial.curve[: len(before)] == before
            assert [said.epoch for said in trial.reports] == list(range(1, len(trial.curve) + 1))


def test_brackets_are_those_of_kerastuners_own_hyperband(lent: None) -> None:
    done = subprocess.run([sys.executable, "-c", OWN, "30"], capture_output=True, text=True, check=True)
    writer = opened()
    ours = []
    for trial in ran(writer, 30):
        note = writer._study.get_trials()[trial.number].user_attrs["proposal"]
        ours.append([note["round"], trial.until or trial.epochs, len(trial.reports)])
    writer.close()
    assert ours == json.loads(done.stdout)
    assert [epochs for _, epochs, _ in ours[:13]] == [1] * 9 + [3] * 3 + [9]


@pytest.mark.parametrize("sampler", ["kt-random", "kt-hyperband", "kt-grid"])
def test_an_oracle_that_is_opened_again_and_again_proposes_what_a_whole_one_does_and_nothing_twice(
    sampler: str, lent: None
) -> None:
    space = Space("mlp", {**SPACE.params, "learning_rate": ChoiceParam(values=[1e-3, 1e-2, 1e-1])})
    settings = replace(SETTINGS, sampler=sampler, space_table=space.table(), space_fingerprint=space.fingerprint)
    proposed: dict[str, list[tuple[object, ...]]] = {"whole": [], "cut": []}
    for name, times in (("whole", 1), ("cut", 5)):
        for _ in range(times):
            writer = StudyWriter(name, "sqlite:///studies/studies.db", settings, target=100)
            for trial in ran(writer, 20 // times):
                proposed[name].append((str(trial.config), trial.seed, trial.until, trial.origin))
            writer.close()
    assert proposed["cut"] == proposed["whole"] and len(proposed["whole"]) == 20
    new = [config for config, *_, origin in proposed["cut"] if origin == "sampled"]
    assert len(set(new)) == len(new)


def test_a_gaussian_process_that_is_resumed_goes_on_from_all_that_was_tried(lent: None) -> None:
    drawn: dict[str, list[dict[str, Value]]] = {}
    for name, times in (("whole", 1), ("cut", 2)):
        drawn[name] = []
        for _ in range(times):
            writer = opened("kt-bayesian", name)
            drawn[name] += [dict(trial.config) for trial in ran(writer, 12 // times)]
            writer.close()
    assert drawn["cut"] == drawn["whole"] and len({str(config) for config in drawn["whole"]}) == 12
    best = [abs(float(config["learning_rate"]) - 2e-3) for config in drawn["whole"]]
    assert min(best[9:]) < sorted(best[:9])[4], "it has learnt where the best ones lie"


def test_an_oracle_whose_process_is_killed_goes_on_as_if_nothing_had_been(
    lent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[tuple[object, ...]]] = {}
    for name, kill in (("whole", None), ("killed", 11)):
        if kill is not None:
            monkeypatch.setattr(oracles, "Helper", Helper)  # one of its own
        writer = opened(name=name)
        drawn[name] = []
        for place, trial in enumerate(ran(writer, 14)):
            drawn[name].append((str(trial.config), trial.until, trial.origin))
            if place == kill:
                assert writer._proposals.oracle is not None and writer._proposals.oracle._helper is not None
                os.kill(writer._proposals.oracle._helper.pid, signal.SIGKILL)
        writer.close()
    assert drawn["killed"] == drawn["whole"] and len(drawn["whole"]) == 14
    assert "trial" in drawn["whole"][9][2], "the tenth continues another"


def test_a_kerastuner_that_cannot_be_imported_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("keras_tuner").mkdir()
    Path("keras_tuner/__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
    writer = opened()
    with pytest.raises(ResourceError, match="KerasTuner cannot be used: ImportError: broken. Try: look into"):
        asked(writer)
    writer.close()


def test_while_a_round_waits_for_results_nothing_begins_and_the_space_is_not_called_exhausted(lent: None) -> None:
    space = Space("mlp", {"width": ChoiceParam(values=[8, 16, 32])})
    settings = replace(SETTINGS, space_table=space.table(), space_fingerprint=space.fingerprint)
    writer = StudyWriter("s", "sqlite:///studies/studies.db", settings, target=100)
    begun = [asked(writer) for _ in range(3)]
    while writer.ask() is None and not writer._proposals.said.idle:
        pass
    assert writer.waits
    for trial in begun:
        assert trial is not None
        run(writer, trial)
    assert asked(writer) is None and not writer.waits
    writer.close()


@pytest.mark.parametrize("sampler", ["kt-random", "kt-grid"])
def test_every_config_of_a_fixed_space_is_proposed_once(sampler: str, lent: None) -> None:
    space = load_space("baselines")
    settings = replace(SETTINGS, sampler=sampler, space_table=space.table(), space_fingerprint=space.fingerprint)
    writer = StudyWriter("s", "sqlite:///studies/studies.db", settings, target=100)
    names = [trial.config["config"] for trial in ran(writer, 9)]
    writer.close()
    assert sorted(names) == sorted(space.configs)


def test_a_failed_trial_leaves_its_bracket_and_another_takes_its_place(lent: None) -> None:
    writer = opened()
    for _ in range(18):
        trial = asked(writer)
        assert trial is not None
        run(writer, trial, Ending.FAILED if trial.number in (2, 5, 11) else Ending.DONE)
    trials = writer.trials()
    writer.close()
    assert [len(trial.curve) for trial in trials if trial.state is State.COMPLETE].count(1) >= 9
    assert trials[11].continues is not None, "a promoted one failed, and so did what it went on with"
    assert any(len(trial.curve) == 9 for trial in trials), "the bracket has come to its end all the same"


def test_a_promoted_trial_continues_from_its_predecessor_in_a_search_of_three_workers(lent: None) -> None:
    study, events = search(space="cnn", trials=30, workers=3)
    continued = [trial for trial in study.trials() if trial.continues is not None]
    assert len(continued) >= 5 and all(t.origin == f"continues trial {t.continues}" for t in continued)
    assert_no_epoch_was_trained_twice(study, trained(events))
    by_number = {trial.number: trial for trial in study.trials()}
    for trial in continued:
        before = by_number[trial.continues or 0]
        assert (trial.config, trial.seed) == (before.config, before.seed)
    assert {len(t.curve) for t in study.trials() if t.origin.startswith("starter")} == {9}, "starters train in full"
    kept = {int(place.parent.name) for place in study.folder.glob("trials/*/checkpoint")}
    assert kept.isdisjoint({trial.continues for trial in continued if trial.state is State.COMPLETE})
    assert len({str(trial.config) for trial in leaders(study)}) == len(leaders(study))


def test_a_trial_that_is_killed_while_it_continues_another_is_tried_again_from_the_same_checkpoint(
    lent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_MARKS", str(tmp_path))
    study, events = search("die_when_it_continues", trials=14, workers=1, starters=False)
    dead = [t for t in study.trials() if t.state is State.FAILED and t.continues is not None]
    assert dead and all("signal 9" in trial.why for trial in dead)
    for trial in dead:
        [again] = [other for other in study.trials() if other.origin == f"retry of {trial.number}"]
        assert (again.state, again.continues, again.seed) == (State.COMPLETE, trial.continues, trial.seed)
    assert_no_epoch_was_trained_twice(study, trained(events))


def test_a_promoted_trial_whose_predecessors_checkpoint_is_gone_trains_from_the_beginning(lent: None) -> None:
    study, _ = search(trials=9, workers=1, starters=False)
    for place in study.folder.glob("trials/*/checkpoint/*"):
        place.unlink()
    study, events = search(trials=11, workers=1, starters=False)
    assert trained(events)[:3] == [(9, 1), (9, 2), (9, 3)]
    assert len(study.trial(9).curve) == 3


def test_a_coordinator_that_is_killed_in_a_promotion_resumes_it_and_its_brackets_and_its_helper_dies_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.1")
    settings = {
        "engine": "keras-tuner",
        "sampler": "hyperband",
        "pruner": None,
        "epochs": 9,
        "trials": 16,
        "workers": 1,
    }
    process = coordinator(starters=False, **settings)
    line_of(process, "EngineAwaited")  # it takes its time to start, which is said
    line_of(process, "Started 9 ")  # after nine trials of one epoch each, the first that continues another
    left = family(process)
    assert any("autofash.oracle_server" in " ".join(child.cmdline()) for child in left)
    process.kill()
    finish(process)
    gone, alive = psutil.wait_procs(left, timeout=5)
    assert gone and not alive
    assert sum(trial.finished for trial in load_study().trials()) >= 9
    code, said = finish(coordinator(starters=False, **settings))
    assert (code, said) == (0, "")
    study = load_study()
    trials = [trial for trial in study.trials() if trial.finished]
    assert len(trials) == 16
    [again] = [trial for trial in trials if trial.origin == "retry of 9"]
    assert again.continues == study.trial(9).continues is not None
    assert "goes on after epoch 1" in (study.folder / f"trials/{again.number}/log.txt").read_text()
    new = [str(trial.config) for trial in trials if trial.continues is None]
    assert len(set(new)) == len(new), "nothing was proposed twice"
    assert sorted(len(trial.curve) for trial in trials)[:12] == [1] * 9 + [3] * 3


def test_what_pauses_and_what_was_pruned_is_told_with_its_last_value_and_what_failed_as_failed(lent: None) -> None:
    study, _ = search(sampler="random", pruner="asha", trials=12, workers=1)
    told = {row["id"]: row for row in oracles.rows(study._study.get_trials())}
    for trial in study.trials():
        row = told[trial.number]
        assert row["status"] == "COMPLETED"
        assert row["value"] == (trial.curve[-1] if trial.state is State.PRUNED else trial.value)
    assert State.PRUNED in {trial.state for trial in study.trials()}


def test_a_parameter_that_shows_itself_late_is_drawn_and_proposed_from_then_on(lent: None) -> None:
    oracle = Oracle("kt-random", SPACE, 0, 9, Path("log.txt"))
    late = ChoiceParam(values=["relu", "gelu"], when={"depth": [1, 2, 3]})
    first = [oracle.draw("activation", late, seed) for seed in (1, 1, 2, 3, 4, 5, 6)]
    assert first[0] == first[1] and set(first) == {"relu", "gelu"}
    while (answer := oracle.ask(0, 5, [], 0)).later:
        pass
    oracle.close()
    assert answer.proposal is not None and answer.proposal.config["activation"] in ("relu", "gelu")


def test_hyperband_and_a_pruner_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="--pruner asha cannot be had with kt-hyperband.*Try: --pruner none"):
        search(pruner="asha")
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("engine", "name", "before", "found"),
    [
        (None, None, None, None),
        (None, "random", None, "random"),
        (None, None, "kt-grid", "kt-grid"),
        (None, "kt-grid", "tpe", "kt-grid"),
        ("keras-tuner", None, None, "kt-bayesian"),
        ("keras-tuner", None, "tpe", "kt-bayesian"),
        ("keras-tuner", None, "kt-random", "kt-random"),
        ("keras-tuner", "random", None, "kt-random"),
        ("keras-tuner", "kt-random", None, "kt-random"),
        ("optuna", None, "kt-random", None),
        ("optuna", "random", "kt-random", "random"),
    ],
)
def test_an_engines_sampler_has_a_name_of_its_own_in_the_ledger(
    engine: str | None, name: str | None, before: str | None, found: str | None
) -> None:
    assert sampler_of(engine, name, before) == found


@pytest.mark.parametrize(
    ("engine", "name", "message"),
    [
        (
            "keras-tuner",
            "tpe",
            "keras-tuner has no sampler 'tpe'. Try: --sampler with one of bayesian, random, hyperband, grid",
        ),
        (
            "optuna",
            "kt-grid",
            "optuna has no sampler 'kt-grid'. Try: --sampler with one of tpe, random, grid, qmc, cmaes",
        ),
        ("kerastuner", None, "there is no engine 'kerastuner'. Try: keras-tuner"),
    ],
)
def test_an_unknown_combination_is_one_line_with_what_there_is(engine: str, name: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sampler_of(engine, name, None)


@pytest.mark.keras
def test_real_trials_are_continued_by_kerastuners_hyperband(lent: None) -> None:
    events: list[SearchEvent] = []
    request = SearchRequest(
        dataset="digits",
        space="mlp",
        epochs=3,
        trials=5,
        workers=1,
        engine="keras-tuner",
        sampler="hyperband",
        starters=False,
    )
    study = loop.search(request, [events.append])
    continued = [trial for trial in study.trials() if trial.continues is not None]
    assert continued and all(len(trial.curve) == 3 for trial in continued)
    assert_no_epoch_was_trained_twice(study, trained(events))
    assert sum(isinstance(event, TrialEnded) for event in events) == 5
    assert {event.epochs for event in events if isinstance(event, TrialBegan)} == {1, 3}
