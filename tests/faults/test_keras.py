"""The faults that matter most once more, on trials that train real Keras models; the fakes' tests are many, these are few."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autofash.records import State
from autofash.study import load_study
from tests.cli.test_commands import AUTOFASH
from tests.executors.test_processes import alive, until
from tests.faults import searching
from tests.faults.invariant import broken
from tests.faults.searching import STUDY, assert_one_line

pytestmark = pytest.mark.keras
STARTING_SECONDS = 300.0  # that Keras may take, on cores that others use
SEARCH = (
    "search",
    "--dataset",
    "digits",
    "--space",
    "mlp",
    "--no-starters",
    "--workers",
    "1",
    "--pruner",
    "none",
    "--epochs",
    "40",
)


def trial_of(search: subprocess.Popen[str], other_than: int = 0) -> int:
    """The process of a trial that trains."""
    found: list[int] = []

    def begun() -> bool:
        servers = psutil.Process(search.pid).children()
        found[:] = [child.pid for server in servers for child in server.children() if child.pid != other_than]
        return bool(found)

    assert until(begun, seconds=STARTING_SECONDS), "no trial began"
    time.sleep(1.0)
    return found[0]


def test_real_trials_and_searches_that_are_killed_and_interrupted_cost_nothing_that_was_finished() -> None:
    search = searching.started([*AUTOFASH, *SEARCH, "--trials", "4", "--quiet"])
    killed = trial_of(search)
    os.kill(killed, signal.SIGKILL)
    trial_of(search, other_than=killed)
    search.send_signal(signal.SIGINT)
    asked = time.monotonic()
    code, _, err = searching.end(search)
    assert code == 130 and time.monotonic() - asked < 10
    warning, interrupted = err.splitlines()
    assert warning.startswith("autofash: warning[W-WORKER-KILLED]: trial 0: its process was killed by signal 9")
    assert_one_line(interrupted + "\n", "E-INTERRUPTED", "are kept", "autofash search --study digits-mlp")
    first = load_study(STUDY).trial(0)
    assert first.state is State.FAILED and "perhaps for want of memory" in first.why
    assert not broken("studies/studies.db", STUDY, said=err)

    search = searching.started([*AUTOFASH, *SEARCH, "--trials", "4", "--quiet"])
    trial_of(search)
    family = psutil.Process(search.pid).children(recursive=True)
    search.kill()
    searching.end(search)
    assert until(lambda: not any(alive(process) for process in family), seconds=2.0)

    search = searching.started([*AUTOFASH, *SEARCH, "--trials", "2", "--quiet"])
    code, _, err = searching.end(search)
    assert (code, err) == (0, "")
    assert not broken("studies/studies.db", STUDY, workers=(), finished=2)
    retries = [trial for trial in load_study(STUDY).trials() if trial.seed == first.seed and trial.finished]
    assert [trial.config for trial in retries] == [first.config], "with its config and its seed, once"


REFIT = """
import sys
from autofash import errors, load_study
from autofash.cli import complain
from autofash.refitting import refit
try:
    refit(load_study(), epochs=int(sys.argv[1]))
except errors.AutofashError as error:
    complain(error)
    sys.exit(error.exit_code)
"""
ON_A_SMALL_DISK = """
cp -a studies whole
mount -t tmpfs -o size=64m none studies || exit 99
cp -a whole/. studies
mount -o remount,size=$(($(du -sk studies | cut -f1) + 40))k studies
"$@" 2 > full.out 2> full.err
echo $? > full.code
cp -a studies/. full
mount -o remount,size=64m studies
"$@" 2 > mended.out 2> mended.err
echo $? > mended.code
cp -a studies/. mended
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_export_onto_a_full_disk_leaves_the_earlier_one_byte_by_byte_and_goes_on_once_there_is_room() -> None:
    assert searching.search(arguments=[*searching.USUAL, "--trials", "2"])[0] == 0  # by fakes: what is refitted is real
    command = [sys.executable, "-c", REFIT]
    assert subprocess.run([*command, "1"], check=False).returncode == 0
    before = contents(Path("studies", STUDY, "best"))
    for folder in ("full", "mended"):
        Path(folder).mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", *command], capture_output=True, check=False
    )
    if not Path("full.code").exists():
        pytest.skip(f"this machine lets nobody mount a disk of his own: {done.stderr.decode()[:200]}")
    assert Path("full.code").read_text() == "6\n"
    assert_one_line(Path("full.err").read_text(), "E-DISK-FULL", "once there is room")
    assert contents(Path("full", STUDY, "best")) == before
    assert not broken("full/studies.db", STUDY, here=Path("full").absolute())
    assert (Path("mended.code").read_text(), Path("mended.err").read_text()) == ("0\n", "")
    assert contents(Path("mended", STUDY, "best")).keys() == before.keys()
    assert contents(Path("mended", STUDY, "best")) != before
    assert not broken("mended/studies.db", STUDY, workers=(), finished=2, here=Path("mended").absolute())
