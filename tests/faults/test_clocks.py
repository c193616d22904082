"""The wall clock may jump: it is noted and shown, and decides nothing."""

import ast
import itertools
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from autofash import loop
from autofash.records import State
from autofash.report import gather
from autofash.request import SearchRequest
from autofash.study import ledger, list_studies, writer
from tests.cli.test_commands import autofash
from tests.conftest import ROOT
from tests.test_loop import search

# Where the wall clock is read, to be noted or shown; nothing else is done with it.
NOTED = {
    ("autofash/cli/terminal.py", "ago"),
    ("autofash/refitting.py", "_now"),
    ("autofash/report/facts.py", "gather"),
    ("autofash/study/imports.py", "add_foreign"),
    ("autofash/study/ledger.py", "create_or_load"),
    ("autofash/study/writer.py", "_now"),
}
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime", "ctime", "st_mtime", "getmtime"}
OWNERS = {"datetime", "date", "time"}


def readings(path: Path) -> set[tuple[str, str]]:
    """The functions of a file in which the wall clock is read."""
    found = set()
    for scope in ast.walk(ast.parse(path.read_text())):
        if not isinstance(scope, ast.FunctionDef | ast.Module):
            continue
        for node in ast.walk(scope):
            if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
                owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
                if owner in OWNERS or node.attr in ("st_mtime", "getmtime"):
                    found.add((str(path.relative_to(ROOT)), getattr(scope, "name", "")))
    return {place for place in found if place[1]} or found


def test_the_wall_clock_is_read_only_where_it_is_noted_or_shown() -> None:
    found = set().union(*(readings(path) for path in (ROOT / "autofash").rglob("*.py")))
    assert found == NOTED


class JumpingClock(datetime):
    """A clock that is put an hour forward and two back, at every look."""

    hours = itertools.cycle([0, 1, -1])

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        """The time as a user who turns the clock reads it."""
        return datetime.now(tz) + timedelta(hours=next(cls.hours))


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna.storages._rdb.storage

    for module in (optuna.storages._rdb.storage, ledger, writer):
        monkeypatch.setattr(module, "datetime", JumpingClock)


@pytest.mark.usefixtures("jumping")
def test_a_clock_that_jumps_by_an_hour_fails_no_trial_ends_no_search_and_makes_no_time_negative() -> None:
    study, events = search(trials=5, pruner="none", budget_seconds=1800.0, patience_seconds=1800.0)
    ends = events[-1]
    assert isinstance(ends, loop.SearchEnded) and ends.why == "all 5 trials are finished" and ends.seconds > 0
    assert [trial.state for trial in study.trials()] == [State.COMPLETE] * 5
    assert all(trial.seconds >= 0 for trial in study.trials())
    study, _ = search(trials=8, pruner="none")
    assert sum(trial.finished for trial in study.trials()) == 8
    facts = gather(study)
    assert all(entry.elapsed is not None and entry.elapsed >= 0 for entry in facts.history)
    assert facts.cost.searching_seconds is not None and facts.cost.searching_seconds >= 0
    assert [summary.name for summary in list_studies()] == [study.name]
    for command in ("show", "studies", "report"):
        assert autofash(command).returncode == 0


def test_a_budget_is_counted_by_a_clock_that_nobody_can_turn(jumping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    events: list[loop.SearchEvent] = []
    request = SearchRequest(dataset="digits", space="mlp", trials=500, epochs=3, budget_seconds=6.0, pruner="none")
    loop.search(request, [events.append], task="tests.fakes:learn")
    ends = events[-1]
    assert isinstance(ends, loop.SearchEnded) and "budget of 6 s is used up" in ends.why and 6 <= ends.seconds < 60
