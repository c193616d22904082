"""The ledger and its one writer, on real SQLite files."""

import math
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autofash.errors import LedgerError, NoTrial, StudyBusy, StudyMismatch, StudyMissing, UsageError
from autofash.records import Ending, EpochReport, ModelBuilt, Outcome, State, StudySettings
from autofash.space import ChoiceParam, FloatParam, NamedConfig, Space
from autofash.study import Study, StudyWriter, list_studies, load_study
from autofash.study.proposals import seed_of
from autofash.study.samplers import as_seen
from autofash.study.writer import Asked

STORAGE = "sqlite:///studies/studies.db"
SPACE = Space(
    "cnn",
    {"learning_rate": FloatParam(low=1e-4, high=1e-1, log=True), "width": ChoiceParam(values=[8, 16])},
    name="mine",
)
SETTINGS = StudySettings(
    dataset="digits",
    data_fingerprint="d" * 64,
    space="mine",
    space_table=SPACE.table(),
    space_fingerprint=SPACE.fingerprint,
    sampler="random",
    pruner="none",
    objective="accuracy",
    epochs=3,
    seed=0,
    validation=1 / 6,
    starters=True,
)


def opened(
    settings: StudySettings = SETTINGS, target: int | None = None, starters: tuple[NamedConfig, ...] = ()
) -> StudyWriter:
    return StudyWriter("s", STORAGE, settings, target=target, starters=starters)


@pytest.fixture
def writer() -> Iterator[StudyWriter]:
    found = opened()
    yield found
    found.close()


def report(trial: int, epoch: int, objective: float) -> EpochReport:
    return EpochReport(trial, epoch, objective, objective, 0.5, objective, 0.5, 100 * epoch, float(epoch))


def run(writer: StudyWriter, *curve: float) -> int:
    """One trial that reports this curve and ends well."""
    asked = writer.ask()
    assert asked is not None
    for epoch, value in enumerate(curve, 1):
        writer.observe(report(asked.number, epoch, value))
    writer.tell(Outcome(asked.number, Ending.DONE))
    return asked.number


def test_a_trials_value_is_its_best_epoch(writer: StudyWriter) -> None:
    number = run(writer, 0.7, 0.9, 0.8)
    record = load_study("s").trial(number)
    assert (record.state, record.value, record.best_epoch, record.curve) == (State.COMPLETE, 0.9, 2, (0.7, 0.9, 0.8))
    assert record.reports[1].images == 200 and record.config["family"] == "cnn"


def test_the_best_is_complete_and_the_earlier_of_two_alike(writer: StudyWriter) -> None:
    run(writer, 0.5)
    first = run(writer, 0.8)
    run(writer, 0.8)
    assert load_study("s").best().number == first


def test_a_study_without_a_complete_trial_has_no_best(writer: StudyWriter) -> None:
    with pytest.raises(NoTrial, match="no complete trial yet"):
        load_study("s").best()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_the_trial_and_is_never_best(writer: StudyWriter, value: float) -> None:
    asked = writer.ask()
    assert asked is not None
    verdict = writer.observe(report(asked.number, 1, value))
    assert verdict.action == "stop" and "not finite" in verdict.why
    record = writer.tell(Outcome(asked.number, Ending.DONE))
    assert record.state is State.FAILED and "not finite" in record.why
    assert writer.finished() == 0


def test_a_trial_that_ends_without_a_report_fails(writer: StudyWriter) -> None:
    asked = writer.ask()
    assert asked is not None
    assert writer.tell(Outcome(asked.number, Ending.DONE)).why == "it ended without a report"


def test_the_death_of_its_process_costs_a_trial_one_of_two_attempts(writer: StudyWriter) -> None:
    first = writer.ask()
    assert first is not None
    assert writer.tell(Outcome(first.number, Ending.DIED, "killed by signal 9")).state is State.FAILED
    second = writer.ask()
    assert second is not None
    assert (second.config, second.seed, second.origin) == (first.config, first.seed, f"retry of {first.number}")
    writer.tell(Outcome(second.number, Ending.DIED, "killed by signal 9"))
    third = writer.ask()
    assert third is not None and third.origin == "sampled" and third.config != first.config


def test_a_lost_trial_is_queued_again_and_uses_no_attempt(writer: StudyWriter) -> None:
    asked = writer.ask()
    assert asked is not None
    for _ in range(5):
        writer.tell(Outcome(asked.number, Ending.LOST, "the server died"))
        again = writer.ask()
        assert again is not None and (again.config, again.seed) == (asked.config, asked.seed)
        asked = again


def test_a_failed_trial_is_not_tried_again(writer: StudyWriter) -> None:
    asked = writer.ask()
    assert asked is not None
    writer.tell(Outcome(asked.number, Ending.FAILED, "ValueError: no"))
    other = writer.ask()
    assert other is not None and other.origin == "sampled"


def test_whoever_opens_the_study_queues_what_a_dead_writer_left_running() -> None:
    dead = opened()
    left = [dead.ask(), dead.ask()]
    dead.close()  # its trials are still RUNNING in the ledger
    heir = opened()
    asked = [heir.ask(), heir.ask()]
    heir.close()
    assert [a and a.config for a in asked] == [a and a.config for a in left]
    assert [a and a.seed for a in asked] == [a and a.seed for a in left]
    assert not [trial for trial in load_study("s").trials() if trial.state is State.WAITING]


def test_a_sweep_that_is_itself_killed_queues_nothing_twice() -> None:
    dead = opened()
    asked = dead.ask()
    dead._proposals.add_again(
        dead._study.get_trials(deepcopy=False)[0], 0
    )  # what a sweep does first; then it is killed
    dead.close()
    heir = opened()
    again = heir.ask()
    other = heir.ask()
    heir.close()
    assert asked and again and other
    assert again.config == asked.config and other.config != asked.config


def test_a_trial_killed_before_it_had_a_config_is_not_queued() -> None:
    dead = opened()
    dead._study.ask()
    dead.close()
    heir = opened()
    assert not [trial for trial in heir.trials() if trial.state is State.WAITING]
    heir.close()


def test_a_trial_that_is_asked_for_is_in_the_ledger_whole_or_not_at_all(
    writer: StudyWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suggest_half(trial: optuna.Trial, space: Space) -> None:
        trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        assert writer._study.get_trials()[-1].params, "the writer itself sees what it has written"
        raise RuntimeError("cut short")

    writer._study.enqueue_trial({"learning_rate": 0.01, "width": 8})
    with monkeypatch.context() as cut:
        cut.setattr("autofash.study.proposals.suggest", suggest_half)
        with pytest.raises(RuntimeError, match="cut short"):
            writer.ask()
    assert [(trial.state, trial.config) for trial in load_study("s").trials()] == [(State.WAITING, {})]
    asked = writer.ask()
    assert asked is not None and asked.number == 0
    assert load_study("s").trial(0).config == asked.config == {"family": "cnn", "learning_rate": 0.01, "width": 8}


def test_the_same_seed_asks_for_the_same_configs_however_often_it_is_resumed() -> None:
    def configs(name: str, cuts: int) -> list[object]:
        found = []
        for _ in range(cuts):
            writer = StudyWriter(name, STORAGE, replace(SETTINGS, sampler="tpe"), target=12)
            for _ in range(12 // cuts):
                number = run_like(writer)
                found.append(writer.read.trial(number).config)
            writer.close()
        return found

    def run_like(writer: StudyWriter) -> int:
        asked = writer.ask()
        assert asked is not None
        writer.observe(report(asked.number, 1, 1 - abs(math.log10(float(asked.config["learning_rate"])) + 2.5) / 4))
        writer.tell(Outcome(asked.number, Ending.DONE))
        return asked.number

    assert configs("whole", 1) == configs("halves", 2) == configs("thirds", 3)


def test_seeds_of_trials_differ_and_fit_in_31_bits() -> None:
    seeds = {seed_of(study, trial) for study in range(10) for trial in range(1000)}
    assert len(seeds) > 9990 and max(seeds) < 2**31


def test_a_configs_own_epochs_are_fewer_than_the_studys_never_more_and_its_last_is_not_pruned() -> None:
    configs = {
        name: NamedConfig(name, {"family": "mlp", "epochs": epochs}) for name, epochs in (("long", 9), ("short", 1))
    }
    fixed = Space("fixed", {"config": ChoiceParam(values=list(configs))}, name="two", configs=configs)
    settings = replace(
        SETTINGS, space_table=fixed.table(), space_fingerprint=fixed.fingerprint, sampler="grid", pruner="asha"
    )
    writer = opened(settings)
    for expected, value, action, state in ((3, 0.9, "pause", State.PAUSED), (1, 0.5, "go", State.COMPLETE)):
        asked = writer.ask()
        assert asked is not None and asked.epochs == expected
        assert writer.observe(report(asked.number, 1, value)).action == action
        assert writer.tell(Outcome(asked.number, Ending.DONE)).state is state
    writer.close()


def test_a_study_whose_making_was_cut_short_is_made_whole_by_the_next_writer() -> None:
    opened(starters=(NamedConfig("good", {"family": "cnn", "learning_rate": 1e-3, "width": 8}),)).close()
    with sqlite3.connect("studies/studies.db") as ledger:
        ledger.execute("DELETE FROM study_user_attributes")
        ledger.execute("DELETE FROM trial_values")
    assert list_studies() == []
    with pytest.raises(StudyMismatch, match="was not written by autofash"):
        opened()
    with sqlite3.connect("studies/studies.db") as ledger:
        ledger.execute("DELETE FROM trial_user_attributes")
        ledger.execute("DELETE FROM trial_system_attributes")
        ledger.execute("DELETE FROM trials")
    writer = opened()
    assert writer.ask() is not None and [found.name for found in list_studies()] == ["s"]
    writer.close()


def test_starters_whose_queueing_was_cut_short_are_queued_once_each() -> None:
    starters = tuple(
        NamedConfig(str(width), {"family": "cnn", "learning_rate": 1e-3, "width": width}) for width in (8, 16)
    )
    opened(starters=starters[:1]).close()
    with sqlite3.connect("studies/studies.db") as ledger:
        ledger.execute("DELETE FROM study_user_attributes WHERE key = 'begun'")
    writer = opened(starters=starters)
    asked = [writer.ask() for _ in range(3)]
    writer.close()
    assert [one and one.origin for one in asked] == ["starter 8", "starter 16", "sampled"]


def test_starters_come_first_each_at_its_nearest_config_in_the_space_and_none_twice() -> None:
    good = NamedConfig("good", {"family": "cnn", "learning_rate": 1e-3, "width": 8, "dropout": 0.3})
    wide, wider = (
        NamedConfig(str(width), {"family": "cnn", "learning_rate": 1e-3, "width": width}) for width in (64, 99)
    )
    other = NamedConfig("other", {"family": "mlp", "learning_rate": 1e-3})
    writer = opened(starters=(good, wide, wider, other))
    asked = [writer.ask() for _ in range(3)]
    writer.close()
    assert [one and one.origin for one in asked] == ["starter good", "starter 64", "sampled"]
    assert [one and one.config["width"] for one in asked[:2]] == [8, 16]
    assert asked[0] and asked[0].config == {"family": "cnn", "learning_rate": 1e-3, "width": 8}


def test_a_config_that_is_finished_is_not_run_again() -> None:
    tiny = Space("cnn", {"width": ChoiceParam(values=[8, 16, 32])}, name="tiny")
    settings = replace(SETTINGS, space_table=tiny.table(), space_fingerprint=tiny.fingerprint)
    writer = opened(settings)
    asked: list[Asked] = []
    while (one := writer.ask()) is not None:
        asked.append(one)
        writer.observe(report(one.number, 1, 0.5))
        writer.tell(Outcome(one.number, Ending.DONE))
    writer.close()
    assert sorted(int(one.config["width"]) for one in asked) == [8, 16, 32]
    assert len(load_study("s").trials()) == 3, "trials that would only repeat are not shown"


def test_another_space_is_refused_with_the_difference(writer: StudyWriter) -> None:
    writer.close()
    other = Space(
        "cnn", {"learning_rate": FloatParam(low=1e-4, high=1e-2, log=True), "width": ChoiceParam(values=[8, 16])}
    )
    with pytest.raises(StudyMismatch) as caught:
        opened(replace(SETTINGS, space_table=other.table(), space_fingerprint=other.fingerprint))
    assert caught.value.code == "E-SPACE-MISMATCH" and caught.value.exit_code == 4
    assert (
        "learning_rate" in str(caught.value)
        and "high = 0.1" in str(caught.value)
        and "high = 0.01" in str(caught.value)
        and "--new-study" in str(caught.value)
    )


def test_other_data_are_refused_with_both_fingerprints(writer: StudyWriter) -> None:
    writer.close()
    with pytest.raises(StudyMismatch, match=r"digits dddddddddddd → digits eeeeeeeeeeee") as caught:
        opened(replace(SETTINGS, data_fingerprint="e" * 64))
    assert caught.value.code == "E-DATA-CHANGED"


@pytest.mark.parametrize(("name", "value"), [("epochs", 4), ("seed", 1), ("objective", "macro_f1")])
def test_settings_that_would_make_trials_incomparable_are_refused(
    writer: StudyWriter, name: str, value: object
) -> None:
    writer.close()
    with pytest.raises(StudyMismatch, match=f"{name} .* → {value}"):
        opened(replace(SETTINGS, **{name: value}))


def test_a_refused_writer_leaves_the_lock_free(writer: StudyWriter) -> None:
    writer.close()
    with pytest.raises(StudyMismatch):
        opened(replace(SETTINGS, seed=5))
    opened().close()


def test_a_second_writer_is_refused_with_the_process_id_of_the_first(writer: StudyWriter) -> None:
    import os

    with pytest.raises(StudyBusy, match=f"process {os.getpid()} is searching the study s"):
        opened()


def test_the_target_is_kept_until_another_is_asked_for() -> None:
    for target, expected in ((7, 7), (None, 7), (9, 9)):
        writer = opened(target=target)
        assert writer.target == expected
        writer.close()


def test_a_new_study_has_fifty_trials_unless_told_otherwise(writer: StudyWriter) -> None:
    assert writer.target == 50


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "x" * 65, "a\x1b[31m", "ä"])
def test_a_name_that_could_leave_the_folder_or_draw_on_the_terminal_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a study's name"):
        StudyWriter(name, STORAGE, SETTINGS, target=None)


def test_a_missing_study_suggests_the_nearest(writer: StudyWriter) -> None:
    with pytest.raises(StudyMissing, match="there is no study 'ss'. Try: s"):
        load_study("ss")


def test_no_study_at_all_says_how_to_begin() -> None:
    with pytest.raises(StudyMissing, match="autofash search"):
        load_study()
    assert list_studies() == [] and not Path("studies").exists(), "reading makes nothing"


def test_studies_are_listed_the_last_updated_first() -> None:
    for name in ("a", "b", "a2"):
        StudyWriter(name, STORAGE, SETTINGS, target=None).close()
    writer = StudyWriter("b", STORAGE, SETTINGS, target=None)
    run(writer, 0.5)
    writer.close()
    assert [summary.name for summary in list_studies()] == ["b", "a2", "a"]
    assert load_study().name == "b"


def test_every_commit_is_synced_in_full_in_a_rollback_journal(writer: StudyWriter) -> None:
    engine = writer._study._storage._backend.engine
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_the_ledger_is_the_owners_alone(writer: StudyWriter) -> None:
    assert Path("studies/studies.db").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_database_is_refused_and_not_touched() -> None:
    Path("studies").mkdir()
    Path("studies/studies.db").write_bytes(b"not a database, but long enough to look at" * 100)
    before = Path("studies/studies.db").read_bytes()
    for use in (opened, lambda: Study("s", STORAGE), list_studies):
        with pytest.raises(LedgerError) as caught:
            use()
        assert caught.value.code == "E-DB-CORRUPT"
    assert Path("studies/studies.db").read_bytes() == before


def test_a_database_of_another_optuna_is_refused(writer: StudyWriter) -> None:
    writer.close()
    with sqlite3.connect("studies/studies.db") as database:
        database.execute("UPDATE version_info SET schema_version = 99")
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(LedgerError):
        load_study("s")


@pytest.mark.parametrize("storage", ["no url", "sqlite://", "sqlite:///:memory:"])
def test_a_storage_that_keeps_nothing_is_refused(storage: str) -> None:
    with pytest.raises(UsageError):
        StudyWriter("s", storage, SETTINGS, target=None)


def test_openings_of_the_test_set_stand_in_the_ledger_even_without_a_result(writer: StudyWriter) -> None:
    study = load_study("s")
    number = study.note_opening({"when": "now", "trial": 3})
    assert load_study("s").openings == [{"when": "now", "trial": 3}]
    study.note_result(number, {"test_accuracy": 0.9})
    assert load_study("s").openings == [{"when": "now", "trial": 3, "test_accuracy": 0.9}]


def test_a_password_is_never_shown() -> None:
    from autofash.study.storage import redacted

    assert "secret" not in redacted("postgresql+psycopg://me:secret@db/optuna")


# -- trials that wait ------------------------------------------------------------------------------------------------------


def at_rungs(target: int = 20, images: int = 50_000) -> StudyWriter:
    settings = replace(SETTINGS, pruner="asha", sampler="random", epochs=6)
    return StudyWriter("s", STORAGE, settings, target=target, images=images)


def begin(writer: StudyWriter, work: float = 1e6) -> Asked:
    asked = writer.ask()
    assert asked is not None
    assert writer.built(ModelBuilt(asked.number, parameters=7, work=work)).action == "go"
    return asked


def look(writer: StudyWriter, asked: Asked, value: float) -> str:
    """Report an early look, and end the process where the verdict wants that."""
    said = EpochReport(asked.number, 0, value, value, 1.0, value, 1.0, images=8192, seconds=4.0)
    action = writer.observe(said).action
    if action != "go":
        writer.tell(Outcome(asked.number, Ending.DONE, seconds=5.0))
    return str(action)


def test_a_dear_config_is_put_off_until_the_search_can_afford_it_and_run_when_nothing_else_is_left() -> None:
    writer = at_rungs(target=3)
    dear = writer.ask()
    assert dear is not None
    verdict = writer.built(ModelBuilt(dear.number, parameters=7, work=1e9))
    assert verdict.action == "pause" and re.fullmatch(r"put off: its first rung would take \d+ s", verdict.why)
    assert writer.tell(Outcome(dear.number, Ending.DONE, seconds=1.0)).state is State.PAUSED
    others = [begin(writer), begin(writer)]
    assert [look(writer, asked, 0.5) for asked in others] == ["pause", "pause"]
    again = writer.ask()
    assert again is not None and again.number == dear.number and again.config == dear.config
    assert writer.built(ModelBuilt(dear.number, parameters=7, work=1e9)).action == "go"
    writer.close()


def test_a_writer_that_died_leaves_paused_trials_paused_and_those_it_had_put_off_too() -> None:
    writer = at_rungs()
    paused = [begin(writer) for _ in range(3)]
    assert [look(writer, *pair) for pair in zip(paused, (0.8, 0.7, 0.5), strict=True)] == ["pause"] * 3
    dear = writer.ask()
    assert dear is not None and writer.built(ModelBuilt(dear.number, parameters=7, work=1e9)).action == "pause"
    writer.tell(Outcome(dear.number, Ending.DONE))
    running = begin(writer)
    writer.close()  # as the system does with a dead process's
    writer = at_rungs()
    states = {trial.number: trial.state for trial in writer.trials()}
    assert [states[asked.number] for asked in (*paused, dear)] == [State.PAUSED] * 4
    assert states[running.number] is State.FAILED and State.WAITING in states.values()
    fourth = writer.ask()
    assert fourth is not None and fourth.origin == f"retry of {running.number}"
    assert look(writer, fourth, 0.6) == "pause"
    continued = writer.ask()
    assert continued is not None and continued.number == paused[0].number, "the best of four has earned it"
    assert [report.epoch for report in continued.reports] == [0]
    writer.close()


def test_a_continued_trial_whose_writer_died_is_paused_where_it_paused_before() -> None:
    writer = at_rungs()
    first = begin(writer)
    look(writer, first, 0.9)
    for value in (0.5, 0.4, 0.3):
        look(writer, begin(writer), value)
    again = writer.ask()
    assert again is not None and again.number == first.number
    assert State.RUNNING in {trial.state for trial in writer.trials()}
    writer.close()
    writer = at_rungs()
    [record] = [trial for trial in writer.trials() if trial.number == first.number]
    assert record.state is State.PAUSED and record.seconds == 5.0
    once_more = writer.ask()
    assert once_more is not None and once_more.number == first.number
    # Where its checkpoint was damaged, it begins anew and says again what it said before.
    assert look(writer, once_more, 0.9) == "go"
    assert writer.observe(EpochReport(first.number, 1, 0.91, 0.91, 0.3, 0.9, 0.3, 50_000, 20.0)).action == "pause"
    ended = writer.tell(Outcome(first.number, Ending.DONE, seconds=21.0))
    assert (ended.state, ended.curve, ended.seconds) == (State.PAUSED, (0.91,), 26.0)
    assert [report.seconds for report in ended.reports] == [25.0] and ended.early is not None
    writer.close()


def epoch_1(writer: StudyWriter, asked: Asked, value: float) -> str:
    said = EpochReport(asked.number, 1, value, value, 0.3, value, 0.3, images=50_000, seconds=20.0)
    return str(writer.observe(said).action)


def test_a_starter_that_is_ahead_of_all_goes_on_though_too_few_have_come_to_its_rung() -> None:
    settings = replace(SETTINGS, pruner="asha", sampler="random", epochs=6)
    starters = [
        NamedConfig(str(rate), {"family": "cnn", "learning_rate": rate, "width": 8}) for rate in (1e-3, 2e-3, 3e-3)
    ]
    writer = StudyWriter("s", STORAGE, settings, target=20, images=50_000, starters=starters)
    asked = [begin(writer) for _ in range(3)]
    assert [look(writer, *pair) for pair in zip(asked, (0.6, 0.5, 0.7), strict=True)] == ["go", "pause", "go"]
    assert [epoch_1(writer, *pair) for pair in ((asked[2], 0.8), (asked[0], 0.7))] == ["go", "pause"]
    writer.close()


def test_paused_trials_are_seen_as_pruned_by_the_sampler_and_as_running_by_nobody_but_the_ledger() -> None:
    writer = at_rungs()
    asked = begin(writer)
    look(writer, asked, 0.5)
    ledger = writer._study
    seen = as_seen(ledger, {asked.number})
    assert [trial.state for trial in ledger.get_trials()] == [TrialState.RUNNING]
    assert [(trial.state, trial.value) for trial in seen.get_trials()] == [(TrialState.PRUNED, 0.5)]
    assert seen.get_trials(states=(TrialState.RUNNING,)) == []
    assert [trial.state for trial in ledger.get_trials()] == [TrialState.RUNNING], "the ledger's own is as it was"
    writer.close()


def test_at_the_end_the_leaders_are_trained_on_and_what_is_paused_is_pruned_with_its_reason() -> None:
    writer = at_rungs(target=5)
    ended: dict[int, State] = {}
    while (asked := writer.ask()) is not None:
        value = 0.5 + asked.number / 100
        for epoch in range(len(asked.reports), 7):
            said = EpochReport(asked.number, epoch, value, value, 0.3, value, 0.3, 50_000 * epoch or 8192, 20.0 * epoch)
            if writer.observe(said).action != "go":
                break
        ended[asked.number] = writer.tell(Outcome(asked.number, Ending.DONE)).state
    assert {number for number, state in ended.items() if state is State.COMPLETE} == {2, 3, 4}
    settled = writer.settle()
    assert {record.number for record in settled} == {0, 1} and writer.finished() == 5
    assert all(record.state is State.PRUNED and record.why.startswith("early look: ") for record in settled)
    assert all(record.early is not None and record.curve == () for record in settled)
    writer.close()


def test_a_trial_that_is_stopped_at_its_early_look_is_pruned_and_never_failed() -> None:
    writer = at_rungs(target=8)
    for value in (0.9, 0.8, 0.7, 0.6):
        look(writer, begin(writer), value)
    best = writer.ask()
    assert best is not None and best.number == 0
    last = begin(writer)
    assert look(writer, last, 0.1) == "stop", "four are ahead, and no more than three will go on"
    [record] = [trial for trial in writer.trials() if trial.number == last.number]
    assert (record.state, record.value, record.curve) == (State.PRUNED, 0.1, ())
    assert record.why == "early look: 0.1000 is below the rung's best quarter, 0.9000"
    writer.close()


def test_what_is_read_in_short_of_a_trial_is_what_its_record_says() -> None:
    writer = at_rungs()
    for value in (0.9, 0.5, 0.4, 0.3):
        look(writer, begin(writer), value)
    going = writer.ask()
    assert going is not None
    writer.observe(EpochReport(going.number, 1, 0.6, 0.6, 0.3, 0.6, 0.3, 50_000, 20.0))
    begin(writer)
    short = {found.number: (found.state, found.value) for found in writer.read.standings()}
    assert short == {record.number: (record.state, record.value) for record in writer.trials()}
    assert short[going.number] == (State.RUNNING, 0.6), "an early look of 0.9 is not an epoch's figure"
    assert writer.read.summary().paused == 3
    writer.close()


def test_a_budget_that_would_end_with_nothing_complete_has_the_leader_trained_to_the_end() -> None:
    writer = at_rungs()
    first, second = begin(writer), begin(writer)
    assert [look(writer, first, 0.9), look(writer, second, 0.7)] == ["pause", "pause"]
    writer.ends_at = time.monotonic() + 60  # at its pace, the first has 142 s left to train
    asked = writer.ask()
    assert asked is not None and asked.number == first.number
    third = begin(writer)
    assert look(writer, third, 0.8) == "pause", "one leader is enough"
    for epoch in range(1, 7):
        said = EpochReport(first.number, epoch, 0.9, 0.9, 0.3, 0.9, 0.3, 50_000 * epoch, 20.0 * epoch)
        assert writer.observe(said).action == "go"
    assert writer.tell(Outcome(first.number, Ending.DONE)).state is State.COMPLETE
    writer.close()


def test_the_leader_of_a_short_budget_goes_on_without_a_pause() -> None:
    writer = at_rungs()
    writer.ends_at = time.monotonic() + 60
    assert look(writer, begin(writer), 0.5) == "go"
    writer.close()
