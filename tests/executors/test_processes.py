"""The fork server, on real processes: what dies with whom, and what it costs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from autofash.errors import ResourceError
from autofash.executors import ProcessExecutor
from autofash.records import Ending, EpochReport, Outcome, Started, TrialSpec, Verdict
from tests.contracts.test_executor import everything, spec


@pytest.fixture
def executor() -> Iterator[ProcessExecutor]:
    made = ProcessExecutor("tests.fakes", log=Path("server.log"))
    yield made
    made.close()


def details(executor: ProcessExecutor, trial: int = 0) -> dict[str, object]:
    executor.submit(spec(trial, "tell_about_itself"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome)
    return dict(end.details)


def alive(process: psutil.Process | int) -> bool:
    """Whether it runs; an orphan that has died waits for the system's init to take note, which may take seconds."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: object, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def started(executor: ProcessExecutor, trial: int = 0, task: str = "spin") -> int:
    """Process id of a trial that has made its first report and got its answer."""
    executor.submit(spec(trial, task))
    pid = 0
    while True:
        for event in executor.events(0.5):
            if isinstance(event, Started):
                pid = event.pid
            if isinstance(event, EpochReport):
                executor.reply(event.trial, Verdict.go())
                return pid


def test_each_trial_is_a_fresh_child_of_the_server_outside_the_terminals_session(executor: ProcessExecutor) -> None:
    first, second = details(executor, 0), details(executor, 1)
    assert executor.server is not None
    assert first["pid"] != second["pid"] and first["parent"] == second["parent"] == executor.server.pid
    assert first["session"] == executor.server.pid != os.getsid(0)
    assert executor.started_as == "fork"


def test_a_killed_trial_is_an_outcome_that_names_the_signal_and_the_others_go_on(executor: ProcessExecutor) -> None:
    victim = started(executor, 0)
    executor.submit(spec(1))
    os.kill(victim, signal.SIGKILL)
    events = everything(executor, trials=2)
    ends = {event.trial: event for event in events if isinstance(event, Outcome)}
    assert ends[0].ending is Ending.DIED and "signal 9" in ends[0].reason and "memory" in ends[0].reason
    assert ends[1].ending is Ending.DONE


def test_when_the_server_dies_its_trials_are_lost_and_the_next_one_gets_a_new_server(executor: ProcessExecutor) -> None:
    trial = started(executor)
    assert executor.server is not None
    dead = executor.server.pid
    os.kill(dead, signal.SIGKILL)
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.ending is Ending.LOST
    assert until(lambda: not alive(trial))
    assert details(executor, 1)["parent"] != dead


def test_a_server_that_dies_again_and_again_is_given_up(executor: ProcessExecutor) -> None:
    with pytest.raises(ResourceError, match="again and again"):
        for trial in range(10):
            started(executor, trial)
            assert executor.server is not None
            os.kill(executor.server.pid, signal.SIGKILL)
            everything(executor)


def test_a_trial_that_is_submitted_again_is_not_taken_for_its_first_process(executor: ProcessExecutor) -> None:
    for _ in range(5):
        executor.submit(spec(0))
        end = everything(executor)[-1]
        assert isinstance(end, Outcome) and end.ending is Ending.DONE


def test_a_trial_leaves_no_temporary_file_and_the_executor_none_of_those_that_were_killed(
    executor: ProcessExecutor,
) -> None:
    executor.submit(spec(0, "leave_files_behind"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome)
    scratch = Path(end.details["place"]).parent.parent
    assert scratch.name.startswith("autofash-") and not list(scratch.iterdir())
    executor.submit(spec(1, "leave_files_behind"))
    everything(executor)
    assert len(list(scratch.iterdir())) == 1
    executor.close()
    assert not scratch.exists()


def test_closing_kills_busy_trials_and_the_server_within_moments(executor: ProcessExecutor) -> None:
    trial = started(executor)
    assert executor.server is not None
    server = executor.server.pid
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 2
    assert until(lambda: not alive(trial) and not alive(server))


def test_a_preload_that_cannot_be_imported_is_told_in_one_line() -> None:
    executor = ProcessExecutor("tests.no_such_module")
    with pytest.raises(ResourceError, match=r"tests.no_such_module cannot be imported: ModuleNotFoundError"):
        everything(executor)


def test_what_a_trial_prints_goes_to_its_log_and_nowhere_else(
    executor: ProcessExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    executor.submit(TrialSpec(0, {}, 5, 1, "", task="tests.fakes:learn", log=str(Path("log.txt").absolute())))
    everything(executor)
    assert Path("log.txt").read_text() == "trial 0 learns with seed 5\n"
    assert capfd.readouterr().out == ""


def test_a_failing_trials_traceback_is_in_its_log(executor: ProcessExecutor) -> None:
    executor.submit(TrialSpec(0, {}, 5, 1, "", task="tests.fakes:raise_an_error", log=str(Path("log.txt").absolute())))
    everything(executor)
    assert "Traceback" in Path("log.txt").read_text() and "out of order" in Path("log.txt").read_text()


def test_a_trial_gets_its_own_device(executor: ProcessExecutor) -> None:
    executor.submit(TrialSpec(0, {}, 5, 1, "", task="tests.fakes:tell_about_itself", device="1"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.details["device"] == "1"


def test_a_module_that_starts_threads_is_not_forked_but_started_afresh() -> None:
    Path("threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "from tests.fakes import *\n"
    )
    executor = ProcessExecutor("threaded")
    executor.submit(spec())
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.ending is Ending.DONE and executor.started_as == "spawn"
    executor.close()


DRIVER = """
import sys
from autofash.executors import ProcessExecutor
from autofash.records import EpochReport, Started, Verdict
from tests.contracts.test_executor import spec
executor = ProcessExecutor("tests.fakes")
executor.submit(spec(0, "spin"))
while True:
    for event in executor.events(0.5):
        if isinstance(event, Started):
            print(executor.server.pid, event.pid, flush=True)
        if isinstance(event, EpochReport):
            executor.reply(0, Verdict.go())
"""


def test_a_busy_trial_and_the_server_die_with_a_killed_coordinator_within_two_seconds_and_the_next_removes_their_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = Path("tmp").absolute()
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    coordinator = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert coordinator.stdout is not None
    server, trial = map(int, coordinator.stdout.readline().split())
    time.sleep(0.3)
    coordinator.kill()
    coordinator.wait()
    coordinator.stdout.close()
    assert until(lambda: not alive(trial) and not alive(server), seconds=2.0)
    [left] = scratch.iterdir()
    with closing(ProcessExecutor("tests.fakes")) as first, closing(ProcessExecutor("tests.fakes")) as second:
        for executor in (first, second):
            executor.submit(spec())
            everything(executor)
        assert left not in scratch.iterdir() and len(list(scratch.iterdir())) == 2, "only what is nobody's is removed"
    assert not list(scratch.iterdir())


def test_a_server_that_still_imports_dies_with_its_coordinator_too() -> None:
    Path("slow.py").write_text("import time\ntime.sleep(60)\n")
    program = "from autofash.executors import ProcessExecutor; print(ProcessExecutor('slow').server.pid); input()"
    coordinator = subprocess.Popen(
        [sys.executable, "-uc", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with coordinator:
        assert coordinator.stdout is not None
        server = int(coordinator.stdout.readline())
        time.sleep(0.5)
        coordinator.kill()
    assert until(lambda: not alive(server), seconds=2.0)


def test_two_hundred_trials_leave_no_process_no_descriptor_and_no_memory_behind(executor: ProcessExecutor) -> None:
    assert executor.server is not None

    def run(first: int, count: int) -> None:
        for trial in range(first, first + count):
            executor.submit(spec(trial))
            everything(executor)

    run(0, 50)
    server, here = psutil.Process(executor.server.pid), psutil.Process()
    before = (server.num_fds(), here.num_fds(), server.memory_info().rss)
    run(50, 150)
    assert until(lambda: not server.children())
    assert (server.num_fds(), here.num_fds()) == before[:2]
    assert server.memory_info().rss <= 1.05 * before[2]
