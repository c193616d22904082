"""`autofash search` over a fake trainer (tests.faults.command), in a process that a test may stop, starve, bind and look into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.faults.invariant import broken

STUDY = "digits-mlp"
STORAGE = "sqlite:///studies/studies.db"
USUAL = ("search", "--dataset", "digits", "--space", "mlp", "--trials", "12", "--epochs", "3", "--pruner", "none")
TOLD, STARTED = '{"event": "TrialEnded"', '{"event": "Started"'
PATIENCE_SECONDS = 120.0  # with a process that may share its core with others


def command(arguments: Sequence[str] = USUAL) -> list[str]:
    """What starts such a search."""
    return [sys.executable, "-m", "tests.faults.command", *arguments]


def begin(task: str = "learn", arguments: Sequence[str] = USUAL) -> subprocess.Popen[str]:
    """Start it, each trial of which does what this fake does."""
    return started(command(arguments), AUTOFASH_FAKE=task)


def started(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A process whose words are read."""
    told = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told)


def search(task: str = "learn", arguments: Sequence[str] = USUAL) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a whole one."""
    return end(begin(task, arguments))


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one that is under way, as far as nobody has read them."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def read_until(process: subprocess.Popen[str], begins: str, count: int = 1) -> str:
    """What it prints up to the line that is the so-manyth to begin like this."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        count -= line.startswith(begins)
        if not count:
            return read
    raise AssertionError(f"it ended without {begins}: {read} {process.stderr.read() if process.stderr else ''}")


def acknowledged(out: str) -> list[Mapping[str, Any]]:
    """The trials whose end it has told of."""
    return [json.loads(line)["record"] for line in out.splitlines() if line.startswith(TOLD)]


def pids(out: str) -> list[int]:
    """The processes of the trials that it has told of, in their order."""
    return [json.loads(line)["pid"] for line in out.splitlines() if line.startswith(STARTED)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that it has started, and those that these have."""
    return psutil.Process(process.pid).children(recursive=True)


def assert_kept(
    out: str,
    err: str,
    *,
    finished: int | None = None,
    workers: Collection[int] | None = None,
    folder: Path = Path("studies"),
) -> None:
    """The invariant; finished: the total of a rerun that has come to its end, and then there are no workers."""
    workers = () if workers is None and finished is not None else workers
    found = broken(
        folder / "studies.db",
        STUDY,
        acknowledged=acknowledged(out),
        workers=workers,
        finished=finished,
        said=err,
        here=folder.parent,
    )
    assert not found, "\n".join(found)


def assert_one_line(err: str, code: str, *parts: str) -> None:
    """The whole of stderr is one error of this code, with these words in it and something to try."""
    assert err.startswith(f"autofash: error[{code}]: ") and err.count("\n") == 1 and "Try: " in err, err
    assert all(part in err for part in parts), err


def bound_by_rights(command: Sequence[str]) -> list[str]:
    """The command without root's way around the rights of files, where the tests run as root."""
    return [*(["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []), *command]
