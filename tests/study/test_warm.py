"""What a study learns from another one: hints to its sampler, and never trials of its own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from autofash.errors import StudyMismatch, StudyMissing, UsageError
from autofash.importing import import_keras_tuner
from autofash.records import Ending, Outcome, State, StudySettings, Suggest
from autofash.space import IMPORTED, BoolParam, ChoiceParam, FloatParam, Hypermodel, Space
from autofash.study import StudyWriter, list_studies, load_study
from autofash.study.importances import importances
from autofash.study.samplers import BoundedTPE, as_seen
from autofash.study.warm import fitted, shown_trials, warm_start
from tests.study.test_writer import SETTINGS, SPACE, STORAGE, report
from tests.tuner_projects import entry, project, trial

TPE = replace(SETTINGS, sampler="tpe")


def run(writer: StudyWriter, *curve: float, ending: Ending = Ending.DONE) -> int:
    asked = writer.ask()
    assert asked is not None
    for epoch, value in enumerate(curve, 1):
        writer.observe(report(asked.number, epoch, value))
    writer.tell(Outcome(asked.number, ending))
    return asked.number


@pytest.fixture
def old() -> str:
    """A study of twelve trials and one that failed; the eighth is the best."""
    writer = StudyWriter("old", STORAGE, SETTINGS, target=12)
    for number in range(12):
        run(writer, 0.3, 0.9 if number == 7 else 0.4 + 0.02 * number)
        if number == 3:
            run(writer, 0.5, ending=Ending.FAILED)
    writer.close()
    return "old"


def settings_of(space: Space, **other: Any) -> StudySettings:
    fields = {"space": space.name, "space_table": space.table(), "space_fingerprint": space.fingerprint}
    return replace(TPE, **fields, **other)


def learnt(settings: StudySettings = TPE, source: str = "old", name: str = "new") -> Mapping[str, Any]:
    found = warm_start(source, name, STORAGE, settings)
    assert found is not None
    return found


def test_hints_are_no_trials_of_the_study_and_nothing_that_counts_or_ranks_meets_them(old: str) -> None:
    writer = StudyWriter("new", STORAGE, TPE, target=5, learnt=learnt())
    assert writer.finished() == 0 and len(writer.trials()) == 3  # the runs that wait
    study = load_study("new")
    assert [standing.state for standing in study.standings()] == [State.WAITING] * 3
    assert study.leaderboard() == [] and study.summary().complete == 0 and importances(study) == {}
    assert next(found for found in list_studies() if found.name == "new").best is None
    assert len(study.hints) == 12 and study.hints[0].value == 0.9
    best = load_study("old").best()
    assert (study.hints[0].config, study.hints[0].curve) == (best.config, best.curve)
    assert study.hints[0].origin == f"imported from old trial {best.number}"
    writer.close()


def test_the_best_three_run_first_and_count_because_they_run(old: str) -> None:
    writer = StudyWriter("new", STORAGE, TPE, target=5, learnt=learnt())
    numbers = [run(writer, 0.1) for _ in range(5)]
    assert numbers == [0, 1, 2, 3, 4] and writer.finished() == 5 and writer.ask() is None
    writer.close()
    ranked = load_study("old").leaderboard(3)
    records = load_study("new").trials()
    assert [record.config for record in records[:3]] == [record.config for record in ranked]
    assert [record.origin for record in records[:3]] == [f"warm start: old trial {record.number}" for record in ranked]
    assert records[3].origin == "sampled" and load_study("new").best().value == 0.1


def test_the_sampler_sees_them_before_the_studys_own_trials_at_once(old: str) -> None:
    study = load_study("old")
    hints = shown_trials(learnt()["trials"], study.space)
    fresh = optuna.create_study(direction="maximize")
    seen = as_seen(fresh, (), hints).get_trials()
    assert [found.number for found in seen] == list(range(-12, 0)) and fresh.get_trials() == []
    sampler = BoundedTPE(seed=0)
    space = sampler.infer_relative_search_space(as_seen(fresh, (), hints), fresh.ask())
    assert set(space) == {"learning_rate", "width"}  # with none to learn from, there would be nothing to draw jointly


def test_with_hints_tpe_proposes_nearer_to_the_best_than_without(tmp_path: Path) -> None:
    import math

    values = [10 ** (-4 + 3 * n / 29) for n in range(30)]
    told = [
        trial(n, 0.9 - 0.2 * abs(math.log10(value) + 2), {"learning_rate": value, "width": 8}, KERAS)
        for n, value in enumerate(values)
    ]
    import_keras_tuner(project(tmp_path / "p", *told), "old")

    def distance(name: str, hints: Mapping[str, Any] | None) -> float:
        writer = StudyWriter(name, STORAGE, TPE, target=50, learnt=hints)
        asked = [writer.ask() for _ in range(13)][3:]
        writer.close()
        return sum(abs(math.log10(float(a.config["learning_rate"])) + 2) for a in asked if a is not None) / len(asked)

    assert distance("warm", learnt(name="warm")) < distance("cold", None)


KERAS = [
    entry("Float", "learning_rate", min_value=1e-4, max_value=1e-1, step=None, sampling="log"),
    entry("Choice", "width", values=[8, 16]),
]


def test_it_is_done_once_and_a_resumed_search_needs_neither_the_word_nor_the_old_study(old: str) -> None:
    StudyWriter("new", STORAGE, TPE, target=5, learnt=learnt()).close()
    assert warm_start("old", "new", STORAGE, TPE) is None
    writer = StudyWriter("new", STORAGE, TPE, target=5)
    assert len(writer.trials()) == 3 and len(writer.read.hints) == 12
    assert len(writer._proposals.hints()) == 12
    writer.close()
    with pytest.raises(UsageError, match="the study new has learnt from old, and a study does so once"):
        warm_start("other", "new", STORAGE, TPE)


def test_a_writer_that_is_told_twice_queues_nothing_twice(old: str) -> None:
    told = learnt()
    StudyWriter("new", STORAGE, TPE, target=5, learnt=told).close()
    writer = StudyWriter("new", STORAGE, TPE, target=5, learnt=told)
    assert len(writer.trials()) == 3
    writer.close()


def test_only_trials_whose_whole_config_is_one_of_the_spaces_count(old: str) -> None:
    narrow = Space("cnn", {**SPACE.params, "width": ChoiceParam(values=[16, 32])}, name="narrow")
    found = learnt(settings_of(narrow))
    assert 0 < found["fit"] < found["of"] == 12
    assert {hint["config"]["width"] for hint in found["trials"]} == {16}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"family": "cnn", "learning_rate": 0.01, "width": 8}, ""),
        ({"family": "cnn", "learning_rate": 0.5, "width": 8}, "learning_rate lies outside of the space"),
        ({"family": "cnn", "width": 8}, "learning_rate is not named"),
        ({"family": "cnn", "learning_rate": 0.01, "width": True}, "width lies outside of the space"),
        ({"family": "cnn", "learning_rate": 0.01, "width": 8, "dropout": 0.1}, "dropout is not in the space"),
        ({"family": "mlp", "learning_rate": 0.01, "width": 8}, "its configs are others"),
    ],
)
def test_a_config_fits_where_every_active_parameter_is_named_and_nothing_else(config: dict[str, Any], why: str) -> None:
    assert fitted(SPACE, SPACE, config)[1] == why


def test_a_parameter_that_would_not_be_active_fits_nowhere() -> None:
    space = Space(
        "cnn",
        {"flip": BoolParam(), "learning_rate": FloatParam(low=1e-4, high=0.1, log=True, when={"flip": [True]})},
    )
    foreign = Space(IMPORTED, space.params)
    assert fitted(space, foreign, {"flip": False}) == ({"flip": False}, "")
    assert fitted(space, foreign, {"flip": True})[1] == "learning_rate is not named"
    assert fitted(space, foreign, {"flip": False, "learning_rate": 0.01})[1] == "learning_rate is not in the space"


def test_what_cannot_be_learnt_from_is_refused_in_one_line(old: str) -> None:
    with pytest.raises(StudyMissing, match="there is no study 'odl'. Try: old"):
        warm_start("odl", "new", STORAGE, TPE)
    with pytest.raises(StudyMismatch, match="nothing to learn from old: it was searched on other data, digits"):
        warm_start("old", "new", STORAGE, replace(TPE, data_fingerprint="e" * 64))
    with pytest.raises(StudyMismatch, match="its objective is accuracy, not macro_f1"):
        warm_start("old", "new", STORAGE, replace(TPE, objective="macro_f1"))
    other = Space("cnn", {**SPACE.params, "flip": BoolParam()}, name="other")
    with pytest.raises(StudyMismatch, match="12 of its 12 trials: flip is not named"):
        warm_start("old", "new", STORAGE, settings_of(other))
    StudyWriter("empty", STORAGE, TPE, target=5).close()
    with pytest.raises(StudyMismatch, match="it has no finished trial"):
        warm_start("empty", "new", STORAGE, TPE)
    with pytest.raises(UsageError, match="names the study itself"):
        warm_start("old", "old", STORAGE, TPE)


def test_a_keras_tuner_project_is_learnt_from_though_its_data_are_unknown(tmp_path: Path) -> None:
    told = [trial(n, 0.5 + n / 10, {"learning_rate": 0.01, "width": 8 * (n + 1)}, KERAS) for n in range(2)]
    import_keras_tuner(project(tmp_path / "p", *told), "old")
    found = learnt()
    assert found["imported"] and found["fit"] == 2
    writer = StudyWriter("new", STORAGE, TPE, target=5, learnt=found)
    asked = writer.ask()
    assert asked is not None
    assert asked.config == {"family": "cnn", "learning_rate": 0.01, "width": 16}
    assert asked.origin == "warm start: old trial 1"
    writer.close()


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc"])
def test_a_sampler_that_does_not_learn_runs_the_best_first_and_every_config_all_the_same(
    sampler: str, old: str
) -> None:
    space = Space(
        "cnn", {"learning_rate": ChoiceParam(values=[0.01]), "width": ChoiceParam(values=[8, 16])}, name="few"
    )
    source = StudyWriter("few", STORAGE, settings_of(space, sampler="grid"), target=1)
    run(source, 0.5)
    source.close()
    settings = settings_of(space, sampler=sampler)
    writer = StudyWriter("new", STORAGE, settings, target=5, learnt=learnt(settings, "few"))
    configs = []
    while (asked := writer.ask()) is not None:
        writer.observe(report(asked.number, 1, 0.5))
        writer.tell(Outcome(asked.number, Ending.DONE))
        configs.append(asked.config["width"])
    writer.close()
    assert sorted(configs) == [8, 16] and configs[0] == load_study("few").best().config["width"]


HYPERMODEL = Space("hypermodel", {}, name="build", hypermodel=Hypermodel("my_model.py:build"))


def test_a_hypermodel_is_asked_for_the_best_first_and_learns_as_its_parameters_show_themselves(tmp_path: Path) -> None:
    space = [*KERAS, entry("Fixed", "classes", value=10)]
    told = [trial(n, 0.5 + n / 20, {"learning_rate": 0.01, "width": 8, "classes": 10}, space) for n in range(9)]
    import_keras_tuner(project(tmp_path / "p", *told), "old")
    settings = settings_of(HYPERMODEL)
    writer = StudyWriter("new", STORAGE, settings, target=9, learnt=learnt(settings))
    asked = writer.ask()
    assert asked is not None and asked.origin == "warm start: old trial 8"
    assert writer._proposals.hints() == []
    rate, width = FloatParam(low=1e-4, high=1e-1, log=True), ChoiceParam(values=[8, 16])
    assert writer.suggest(Suggest(asked.number, "learning_rate", rate.model_dump())).value == 0.01
    assert writer.suggest(Suggest(asked.number, "width", width.model_dump())).value == 8
    assert len(writer._proposals.hints()) == 9
    writer.close()


def test_a_queued_value_that_the_hypermodel_does_not_know_is_drawn_instead(tmp_path: Path) -> None:
    space = [KERAS[0], entry("Choice", "width", values=[32, 64])]
    told = trial(0, 0.5, {"learning_rate": 5.0, "width": 32}, space)
    import_keras_tuner(project(tmp_path / "p", told), "old")
    settings = settings_of(HYPERMODEL)
    writer = StudyWriter("new", STORAGE, settings, target=9, learnt=learnt(settings))
    asked = writer.ask()
    assert asked is not None
    rate, width = FloatParam(low=1e-4, high=1e-1, log=True), ChoiceParam(values=[8, 16])
    assert rate.holds(writer.suggest(Suggest(asked.number, "learning_rate", rate.model_dump())).value)
    assert width.holds(writer.suggest(Suggest(asked.number, "width", width.model_dump())).value)
    assert writer._proposals.hints() == []
    writer.close()
