"""Trials that hang, are killed, outgrow the machine or run out of disk: each costs itself, and the search goes on or says why."""

import os
import signal
import time
from pathlib import Path

import pytest

from autofash import loop
from autofash.errors import NoTrial
from autofash.executors import ProcessExecutor, processes
from autofash.records import Ending, Outcome, State
from autofash.study import load_study
from tests.contracts.test_executor import everything, spec
from tests.faults import searching
from tests.faults.searching import STARTED, USUAL, assert_kept, assert_one_line
from tests.test_loop import search


def test_a_trial_that_hangs_is_asked_to_end_then_made_to_and_fails_for_its_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert processes.GRACE_SECONDS == 10
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1.0)
    began = time.monotonic()
    study, _ = search("hang", trials=3, patience_seconds=2.0, pruner="none", workers=2)
    assert time.monotonic() - began < 60
    states = [trial.state for trial in study.trials()]
    assert states.count(State.COMPLETE) == 3
    hung = [trial for trial in study.trials() if trial.state is State.FAILED]
    assert hung and all(trial.why == "timeout: it said nothing for 2 s; --patience allows more" for trial in hung)
    assert not [trial for trial in study.trials() if trial.origin.startswith("retry")], "it would only hang again"
    logs = {trial.number: (study.folder / f"trials/{trial.number}/log.txt").read_text() for trial in hung}
    deaf = [trial for trial in hung if "was asked to end" in logs[trial.number]]
    assert deaf and all(trial.seconds >= 3 for trial in deaf), "SIGKILL came a second after SIGTERM"


def test_a_hung_trial_that_hears_ends_by_sigterm() -> None:
    executor = ProcessExecutor("tests.fakes", patience_seconds=1.0)
    executor.submit(spec(0, "spin"))
    began = time.monotonic()
    end = everything(executor)[-1]
    executor.close()
    assert isinstance(end, Outcome) and end.ending is Ending.FAILED and end.reason.startswith("timeout")
    assert time.monotonic() - began < processes.GRACE_SECONDS


def test_a_trial_that_is_slow_but_speaks_is_never_given_up() -> None:
    study, _ = search("be_slow", trials=2, epochs=4, patience_seconds=2.0, pruner="none")
    assert [trial.state for trial in study.trials()] == [State.COMPLETE] * 2
    assert all(trial.seconds > 2.5 for trial in study.trials())


def test_time_in_which_the_whole_machine_stood_still_is_nobodys_silence() -> None:
    """As when a container is frozen, or a laptop sleeps: the search's own process stands still too."""
    executor = ProcessExecutor("tests.fakes", patience_seconds=3.0)
    executor.submit(spec(0, "be_slow", epochs=2))
    executor.events(0.5)
    time.sleep(4.0)  # nobody looks, as if nobody could
    ends = [event for event in everything(executor) if isinstance(event, Outcome)]
    executor.close()
    assert ends[0].ending is Ending.DONE, ends


def test_the_patience_is_an_hour_unless_the_command_says_otherwise() -> None:
    assert loop.PATIENCE_SECONDS == 3600
    code, _, err = searching.search(arguments=[*USUAL, "--patience", "soon"])
    assert code == 2 and "'soon' is no duration. Try: --patience 30m" in err
    code, _, err = searching.search(arguments=[*USUAL, "--patience", "0s"])
    assert code == 2
    assert_one_line(err, "E-USAGE", "--patience 0s is not above 0")


def test_a_model_that_is_too_large_is_pruned_before_it_is_built_and_says_by_how_much() -> None:
    study, _ = search("outgrow_the_machine", trials=4, pruner="none")
    pruned = [trial for trial in study.trials() if trial.state is State.PRUNED]
    assert [trial.state for trial in study.trials()].count(State.COMPLETE) == 2 and len(pruned) == 2
    for trial in pruned:
        assert trial.why.startswith(
            "too large: to train 1,000,000,000,000 parameters takes 14,901.2 GiB, and a trial has "
        )
        assert trial.value is None and trial.curve == ()


def test_a_trial_that_gets_no_more_memory_fails_alone() -> None:
    study, _ = search("ask_for_too_much", trials=3, pruner="none")
    states = {trial.number: trial.state for trial in study.trials()}
    assert sum(state is State.COMPLETE for state in states.values()) == 3
    failed = [trial for trial in study.trials() if trial.state is State.FAILED]
    assert failed and all("MemoryError" in trial.why for trial in failed)


def test_a_trial_that_finds_the_disk_full_ends_the_search_at_once_and_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_MARKS", str(tmp_path))
    code, out, err = searching.search("find_the_disk_full")
    assert code == 6
    assert_one_line(err, "E-DISK-FULL", "the disk is full", "once there is room")
    assert sum(trial.state is State.FAILED for trial in load_study().trials()) <= 2, "not one config after the other"
    assert_kept(out, err)
    (tmp_path / "room").touch()
    code, more, err = searching.search("find_the_disk_full")
    assert (code, err) == (0, "")
    assert_kept(out + more, err, finished=12)


def test_a_killed_trial_is_a_warning_where_nothing_else_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_MARKS", str(tmp_path))
    code, out, err = searching.search("die_once", [*USUAL, "--quiet", "--workers", "1"])
    lines = err.splitlines()
    assert code == 0 and len(lines) == 12, "each config was killed once, and none twice"
    told = ": its process was killed by signal 9 (SIGKILL), perhaps for want of memory"
    assert all(line.startswith("autofash: warning[W-WORKER-KILLED]: trial ") and line.endswith(told) for line in lines)
    assert_kept(out, err, finished=12)


def test_a_search_in_which_nothing_can_be_built_says_so_in_one_line() -> None:
    with pytest.raises(NoTrial, match="no trial was completed: too large: to train") as caught:
        search("never_fit", trials=3, pruner="none")
    assert caught.value.exit_code == 5


def test_a_worker_that_is_killed_at_any_moment_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.2")
    process = searching.begin()
    out = ""
    for _ in range(4):
        out += searching.read_until(process, STARTED)
        pid = searching.pids(out)[-1]
        time.sleep(0.1)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker
    code, rest, err = searching.end(process)
    assert (code, err) == (0, "")
    assert_kept(out + rest, err, finished=12)
    killed = [trial for trial in load_study().trials() if trial.state is State.FAILED]
    assert 1 <= len(killed) <= 4 and all("signal 9" in trial.why for trial in killed)
