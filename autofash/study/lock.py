"""Who may write a study: the one process that holds its lock. The system frees a dead holder's lock, so no clock is involved.

A SQLite file has its lock beside it. A study in PostgreSQL may be searched from any machine: there the server holds a lock too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import psutil
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import Connection

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


class ServerLock:
    """A lock of a PostgreSQL server, which it frees when it finds the holder gone; nothing with another database."""

    def __init__(self, storage: str, name: str) -> None:
        """name: of what is locked. Raises StudyBusy."""
        self._connection = _session(storage)
        if self._connection is None:
            return
        taken = self._connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(name)})
        if not taken.scalar():
            self.release()
            raise StudyBusy(
                f"another process, perhaps on another machine, is searching the study {name}",
                "wait for it, or --study with another name",
            )

    def release(self) -> None:
        """Let others write. May be called twice."""
        if self._connection is not None:
            with suppress(sqlalchemy.exc.SQLAlchemyError):  # it is lost, and its lock with it
                self._connection.close()
            self._connection = None


@contextmanager
def creating(storage: str, folder: Path) -> Iterator[None]:
    """One process creates at a time: several at once crash Optuna's schema creation."""
    with filelock.FileLock(folder / ".creation.lock"):
        connection = _session(storage)
        try:
            if connection is not None:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _key("")})
            yield
        finally:
            if connection is not None:
                connection.close()


def _session(storage: str) -> Connection | None:
    """A session of its own with a PostgreSQL server, which ends with its connection; None with another database."""
    if sqlalchemy.make_url(storage).get_backend_name() != "postgresql":
        return None
    engine = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    connection = engine.connect()
    # A machine that vanished without a word has let go half a minute later, not after the usual two hours.
    for setting, seconds in (("idle", 10), ("interval", 5), ("count", 4)):
        connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{setting} = {seconds}"))
    return connection


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"autofash/{name}".encode()).digest()[:8], "big", signed=True)


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
