"""Where a process can be made to fail on purpose: just before and just after something becomes durable.

AUTOFASH_FAILPOINT="tell:kill" kills the process at the first passage of the point "tell", "tell:kill:3" at the third;
"manifest:enospc" fails there, and at every later passage, as a full disk does, "manifest:eio" as a broken one. A trial's process
counts its own passages. The tests of the faults work with it; unarmed, a passage is one look at a variable.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import dataclass

from autofash.errors import UsageError, unknown

VARIABLE = "AUTOFASH_FAILPOINT"
POINTS = {
    "study": "the ledger's file takes its place; the study and its settings are there",
    "ask": "a trial is in the ledger, with its config",
    "params": "a trial's config is written and not committed yet",
    "report": "a report is in the ledger, and a pause that follows from it",
    "artifact": "a checkpoint, a trained model or a step's result takes its place",
    "attrs": "a note is in the ledger: of a run, of an opening of the test set, of a queue, of a continuation",
    "tell": "a trial's end, or its pause, is in the ledger",
    "export": "a folder or a format of a model takes its place",
    "manifest": "a manifest takes its place",
}
ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}
ACTIONS = ("kill", *ERRORS)


@dataclass(slots=True)
class Failpoint:
    """What is armed: from the n-th passage of a point on, the process is killed, or an OSError raised."""

    name: str
    action: str
    left: int = 1  # passages until it fails, from 1

    def pass_by(self) -> None:
        """Fail where it is time to. Raises OSError."""
        self.left -= 1
        if self.left > 0:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = ERRORS[self.action]
        raise OSError(number, os.strerror(number))


def parse(told: str) -> Failpoint:
    """The failpoint that NAME:ACTION or NAME:ACTION:PASSAGE stands for. Raises UsageError."""
    name, _, rest = told.partition(":")
    action, _, passage = rest.partition(":")
    for kind, found, known in (("failpoint", name, POINTS), ("failpoint's action", action, ACTIONS)):
        if found not in known:
            fact, near = unknown(kind, found, known)
            raise UsageError(fact, near, where=VARIABLE)
    if not re.fullmatch(r"[1-9][0-9]{0,8}|", passage) or told.endswith(":"):
        raise UsageError(f"{passage!r} is no passage, counted from 1", f"{name}:{action}:1", where=VARIABLE)
    return Failpoint(name, action, int(passage or 1))


def arm() -> None:
    """Arm what the environment names, if anything. Raises UsageError where there is no such failpoint."""
    global _armed
    told = os.environ.get(VARIABLE)
    _armed = parse(told) if told else None


def reach(name: str) -> None:
    """Pass the point of this name: nothing happens unless it is armed. Raises OSError where it is made to."""
    if _armed is not None and _armed.name == name:
        _armed.pass_by()


_armed: Failpoint | None = None
