"""Reading a study, without disturbing anyone."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from autofash.errors import LedgerError, StudyMissing
from autofash.records import Ending, Outcome, Standing, State
from autofash.study import StudyWriter, ledger, list_studies, load_study, storage
from tests.study.test_writer import STORAGE, opened, report, run


@pytest.fixture
def writer() -> Iterator[StudyWriter]:
    """A study with a trial in every state but waiting: 0, 1 and 4 complete, 2 failed, 3 pruned, 5 runs."""
    found = opened()
    for value in (0.5, 0.9):
        run(found, 0.1, value)
    failed = found.ask()
    assert failed is not None
    found.tell(Outcome(failed.number, Ending.FAILED, "it broke"))
    pruned = found.ask()
    assert pruned is not None
    found.observe(report(pruned.number, 1, 0.3))
    found._open[pruned.number].stopped = "too low"
    found.tell(Outcome(pruned.number, Ending.DONE))
    run(found, 0.9)
    running = found.ask()
    assert running is not None
    found.observe(report(running.number, 1, 0.95))
    yield found
    found.close()


def test_standings_are_the_leaderboard_and_then_the_others_the_best_first(writer: StudyWriter) -> None:
    assert load_study("s").standings() == [
        Standing(1, State.COMPLETE, 0.9),
        Standing(4, State.COMPLETE, 0.9),
        Standing(0, State.COMPLETE, 0.5),
        Standing(5, State.RUNNING, 0.95),
        Standing(3, State.PRUNED, 0.3),
        Standing(2, State.FAILED, None),
    ]


def test_a_leaderboard_may_be_cut_and_the_rest_is_not_read(writer: StudyWriter) -> None:
    study = load_study("s")
    assert study.leaderboard(2) == study.leaderboard()[:2] == study.trials_of([1, 4])
    assert study.best() == study.trial(1)


def test_trials_come_in_the_order_in_which_they_are_named(writer: StudyWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_NUMBERS", 2)
    study = load_study("s")
    every = {record.number: record for record in study.trials()}
    assert study.trials_of([5, 99, 0, 3]) == [every[5], every[0], every[3]]


def test_reading_a_study_never_opens_optunas_storage(writer: StudyWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ledger, "open_storage")
    monkeypatch.delattr(storage, "open_storage")
    study = load_study()
    assert study.summary() == list_studies()[0]
    assert study.leaderboard() and study.trials() and study.trial(2).why == "it broke"
    assert study.target == 50 and not study.openings and not study.runs


def test_what_is_written_after_a_study_was_opened_is_read(writer: StudyWriter) -> None:
    study = load_study("s")
    before = study.summary()
    writer.tell(Outcome(5, Ending.DONE))
    assert (before.complete, study.summary().complete, study.best().number) == (3, 4, 5)


def test_a_database_without_tables_holds_no_study_and_is_not_touched() -> None:
    Path("studies").mkdir()
    Path("studies/studies.db").touch()
    assert list_studies(STORAGE) == []
    with pytest.raises(StudyMissing, match="does not exist yet"):
        load_study("s")
    assert Path("studies/studies.db").stat().st_size == 0


@pytest.mark.parametrize(
    ("cell", "content"),
    [
        ("study_user_attributes SET value_json = ? WHERE key = 'updated'", "1"),
        ("study_user_attributes SET value_json = ? WHERE key = 'updated'", '"yesterday"'),
        ("study_user_attributes SET value_json = ? WHERE key = 'target'", "1e999"),
        ("study_user_attributes SET value_json = ? WHERE key = 'settings'", "[]"),
        ("trial_user_attributes SET value_json = ? WHERE key = 'seconds'", "1e999"),
        ("trial_user_attributes SET value_json = ? WHERE key = 'seconds'", "{"),
        ("trial_intermediate_values SET intermediate_value = ? WHERE trial_id = 1", 1e999),
    ],
)
def test_a_ledger_that_says_what_cannot_be_is_damaged_and_no_crash(
    writer: StudyWriter, cell: str, content: str | float
) -> None:
    with contextlib.closing(sqlite3.connect("studies/studies.db", isolation_level=None)) as database:
        assert database.execute(f"UPDATE {cell}", (content,)).rowcount > 0
    with pytest.raises(LedgerError, match="what it says makes no sense") as caught:
        load_study(None).trials()
        list_studies()
    assert (caught.value.code, caught.value.exit_code) == ("E-DB-CORRUPT", 4)
