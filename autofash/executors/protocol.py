"""What every executor promises, and how a task's name becomes a function."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Sequence
from typing import Protocol

from autofash.errors import AutofashError
from autofash.records import Ending, Outcome, Said, Started, Task, TrialSpec, Verdict

DISK_ERRORS = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EIO") if hasattr(errno, name)
}  # EDQUOT: not on Windows
Event = Started | Said | Outcome


class Executor(Protocol):
    """Runs trials. A trial gives one Started, whatever it has to say, each waiting for a reply, and one Outcome, the last."""

    def submit(self, spec: TrialSpec) -> None:
        """Run this trial at once. Raises ResourceError where no process can be had."""

    def events(self, timeout_seconds: float) -> Sequence[Event]:
        """What has happened; waits for the first event at most this long."""

    def reply(self, trial: int, verdict: Verdict) -> None:
        """Answer a trial's report; a trial that is gone is passed over."""

    def close(self) -> None:
        """End every running trial and free everything. May be called twice."""


def resolve(task: str) -> Task:
    """The function that a name such as "autofash.training:run_trial" stands for."""
    module, _, name = task.partition(":")
    function: Task = getattr(importlib.import_module(module), name)
    return function


def ending(error: Exception) -> Ending:
    """How a task that raises this has ended: it failed, unless its disk did."""
    return Ending.DISK if isinstance(error, OSError) and error.errno in DISK_ERRORS else Ending.FAILED


def reason(error: BaseException) -> str:
    """An exception as one line: our own as they are, any other with its type."""
    if isinstance(error, AutofashError):
        return str(error)
    # TensorFlow's first line is often no more than "Graph execution error:".
    text = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
