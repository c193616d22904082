"""Whether a ledger can be trusted, asked before a search begins: where it lies, its damage, its tables' version, its backup."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Connection, column, select, table

from autofash.errors import LedgerError
from autofash.manifest import sync

log = logging.getLogger("autofash")

REVISION = "v3.2.0.a"  # of Optuna's tables, all that we read by plain SQL
# On these, locks are known to fail, and SQLite without locks loses what was written (sqlite.org/faq.html#q5).
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "fuse.sshfs"})
MOUNTS = Path("/proc/self/mountinfo")  # Linux; elsewhere nobody is asked
WARN_SECONDS = 5.0  # of waiting for a lock


def check_schema(connection: Connection, storage: str, where: str, upgrade: str) -> None:
    """Raise LedgerError where Optuna's tables are older or newer than those that this autofash knows; nothing is changed.

    upgrade: the command that brings them up to date.
    """
    revision = read_revision(connection)
    if revision in (REVISION, None):  # None: their making was cut short, and Optuna will end it
        return
    ours = f"{REVISION} of Optuna {optuna.__version__}"
    if revision in RDBStorage(storage, skip_compatibility_check=True, skip_table_creation=True).get_all_versions():
        raise LedgerError(
            f"its tables are of version {revision}, older than {ours}", upgrade, where=where, code="E-DB-OLDER"
        )
    raise LedgerError(
        f"its tables are of version {revision}, newer than {ours}",
        "pip install --upgrade autofash",
        where=where,
        code="E-DB-NEWER",
    )


def read_revision(connection: Connection) -> str | None:
    """The version of Optuna's tables; None where their making was cut short."""
    version = table("alembic_version", column("version_num"))
    if not sqlalchemy.inspect(connection).has_table(version.name):
        return None
    return connection.execute(select(version.c.version_num)).scalar()


def check_sound(path: Path, patience_seconds: float) -> None:
    """Raise LedgerError where a SQLite file is damaged, as far as SQLite can tell; the file stays as it is."""
    if path.stat().st_size == 0 and backup_of(path).exists():
        raise damaged(path, "the file is empty")
    with closing(sqlite3.connect(path, timeout=patience_seconds)) as connection:
        try:
            [said] = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:
            raise  # it is locked, say: nothing is known of its state
        except sqlite3.DatabaseError as error:
            said = str(error)
    if said != "ok":
        raise damaged(path, said.splitlines()[0][:200])


def damaged(path: Path | None, what: str, where: str = "") -> LedgerError:
    """The error of a damaged ledger, with the backup of the last search where there is one."""
    kept = backup_of(path) if path is not None else None
    return LedgerError(
        f"the database is damaged, and was not touched: {what}",
        f"cp {kept} {path}, the ledger as the last search found it"
        if kept is not None and kept.exists()
        else "a copy of it, or --storage with a new file",
        where=where or str(path),
        code="E-DB-CORRUPT",
    )


def backup_of(path: Path) -> Path:
    """Where the backup of a SQLite ledger lies; its name can be no study's."""
    return path.with_name(f"{path.name}.backup")


def back_up(path: Path, place: Path) -> None:
    """Copy a sound SQLite ledger, whoever may be writing it; beside its place, then renamed."""
    beside = place.with_name(f".{place.name}.new")
    beside.unlink(missing_ok=True)
    os.close(os.open(beside, os.O_CREAT | os.O_RDWR, 0o600))
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(beside)) as copy:
            source.backup(copy)  # waits for a lock as long as it takes
        sync(beside)
        beside.rename(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def check_local(path: Path) -> None:
    """Raise LedgerError where a SQLite file lies, or would lie, on a network file system."""
    kind = file_system(path)
    if kind in NETWORK:
        raise LedgerError(
            f"it lies on a network file system ({kind}), where SQLite's locks do not hold",
            "--storage sqlite:////a/local/folder/studies.db, or a PostgreSQL URL",
            where=str(path),
            code="E-DB-NETWORK",
        )


def file_system(path: Path) -> str:
    """The kind of file system that holds a path, which need not exist; empty where the system does not say."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    whole, found = path.resolve(), (0, "")
    for line in lines:
        mount, _, told = line.partition(" - ")
        place = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount.split()[4]))  # \040 is a space
        if whole.is_relative_to(place) and len(place.parts) >= found[0]:  # of two at one place the later one counts
            found = (len(place.parts), told.split()[0])
    return found[1]


@contextmanager
def impatient(path: Path | None, where: str) -> Iterator[None]:
    """Whatever waits in here for a lock of a SQLite file says so after five seconds, once."""
    me = threading.get_ident()
    if path is None or me in _waiting:
        yield
        return
    _waiting[me] = (time.monotonic(), path, where)
    if not any(thread.name == _watch.__name__ for thread in threading.enumerate()):
        threading.Thread(target=_watch, name=_watch.__name__, daemon=True).start()
    try:
        yield
    finally:
        del _waiting[me]


_waiting: dict[int, tuple[float, Path, str]] = {}  # by thread: since when (monotonic), and for which file


def _watch() -> None:
    """Look again and again; a thread for each thing that may wait would cost more than most of them do."""
    told: set[tuple[float, Path, str]] = set()
    while True:
        time.sleep(WARN_SECONDS / 5)
        waiting = set(list(_waiting.values()))  # a list first: it is made at one go, whatever other threads do
        late = {found for found in waiting - told if time.monotonic() - found[0] > WARN_SECONDS}
        for _, path, where in late:
            _say_if_locked(path, where)
        told = (told & waiting) | late


def _say_if_locked(path: Path, where: str) -> None:
    """Slow is not locked: a large study takes its time."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=0, uri=True)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        if "locked" in str(error):
            log.warning(
                "autofash: warning[W-DB-LOCKED]: %s: another program has locked it; waiting for up to two minutes",
                where,
            )
