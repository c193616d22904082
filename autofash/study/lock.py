"""Who may write a study: the one process that holds its lock. The system frees a dead holder's lock, so no clock is involved."""

from __future__ import annotations

import os
import time
from pathlib import Path

import filelock
import psutil

from autofash.errors import StudyBusy

NOTED_SECONDS = 2  # that a new holder may take to note who it is


class StudyLock:
    """The lock of one study, held from construction until `release`."""

    def __init__(self, folder: Path, name: str) -> None:
        """folder: the study's artifacts. Raises StudyBusy with the holder's process id."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = filelock.FileLock(folder / "search.lock")
        self._holder = folder / "search.pid"
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StudyBusy(
                f"process {_named(folder) or 'unknown'} is searching the study {name}",
                "wait for it, or --study with another name",
            ) from None
        self._holder.write_text(str(os.getpid()))

    def release(self) -> None:
        """Let others write. May be called twice."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            self._lock.release()


def _named(folder: Path) -> int | None:
    """The holder, who may have the lock since a moment ago only, and its note may be a dead one's until then."""
    for _ in range(NOTED_SECONDS * 20):
        found = holder(folder)
        if found is not None and psutil.pid_exists(found):
            return found
        time.sleep(0.05)
    return None


def holder(folder: Path) -> int | None:
    """Process id of the holder, as it noted it; None where nobody did."""
    try:
        return int((folder / "search.pid").read_text())
    except (OSError, ValueError):
        return None
