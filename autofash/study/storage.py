"""Where studies are kept: a storage's URL, its file and folders, how it is opened, and what is said where it cannot be."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import RDBStorage
from sqlalchemy import Engine

from autofash import failpoints
from autofash.errors import LedgerError, ResourceError, SpaceError, UsageError, brief, without_secrets
from autofash.study.lock import StudyLock
from autofash.study.rows import SCHEMA, LeanStorage, has_tables, schema_version
from autofash.study.sole import SoleStorage
from autofash.study.soundness import REVISION, back_up, backup_of, check_schema, check_sound, damaged, impatient

LOCK_SECONDS = 120.0
DEFAULT_STORAGE = "sqlite:///studies/studies.db"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
# What SQLAlchemy raises where a database server does not answer, or has dropped the connection.
GONE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.PendingRollbackError)
DAMAGED = ("malformed", "not a database", "unsupported file format", "Could not decode")  # what SQLite says then
DATABASE_TROUBLES = {  # what the database says → fact, fix, code
    "readonly": ("the database cannot be written", "chmod u+rw on it and its folder", "E-DB-READONLY"),
    "unable to open": ("the database cannot be opened", "chmod u+rw on it and its folder", "E-DB-READONLY"),
    "Permission denied": ("the database's folder cannot be used", "chmod u+rwx on it", "E-DB-READONLY"),
    "I/O error": ("the disk below the database fails", "the same command, once it is mended", "E-DB-DISK"),
    "Input/output error": ("the disk below the database fails", "the same command, once it is mended", "E-DB-DISK"),
    "locked": (
        "the database was locked for two minutes",
        "again, when the program that holds it is done",
        "E-DB-LOCKED",
    ),
}


def open_reader(storage: str) -> Engine | None:
    """What reads the ledger behind a URL, without Optuna; None where there is none yet. Each connection closes after its use."""
    path = sqlite_path(storage)
    if path is not None and not path.exists():
        return None
    waiting = {} if path is None else {"timeout": LOCK_SECONDS}
    reader = sqlalchemy.create_engine(storage, poolclass=sqlalchemy.NullPool, connect_args=waiting)
    with reader.connect() as connection:
        if not has_tables(connection):
            return None
        check_schema(connection, storage, redacted(storage), f"autofash studies --upgrade{storage_argument(storage)}")
        if schema_version(connection) != SCHEMA:
            open_storage(storage)  # raises where Optuna cannot read it either
    return reader


def examine(storage: str) -> None:
    """Refuse a ledger that cannot be trusted, and keep a backup of a SQLite file that can. Under the creation lock."""
    path = sqlite_path(storage)
    if path is not None and path.exists():
        check_sound(path, LOCK_SECONDS)
        back_up(path, backup_of(path))
    open_reader(storage)  # raises where its tables are older or newer than ours


def upgrade(storage: str) -> Path | None:
    """Bring a SQLite ledger of an older Optuna up to date, and return where it lies as it was; None where nothing is to be done.

    It is done on a copy, which then takes the ledger's place: cut short, it has changed nothing. No study may be searched
    meanwhile. Raises StudyBusy, LedgerError, UsageError for another database than SQLite.
    """
    path = sqlite_path(storage)
    if path is None:
        raise UsageError(
            f"{redacted(storage)} is not a SQLite file, whose backup autofash could keep",
            "pg_dump, or whatever backs it up, and then: optuna storage upgrade --storage URL",
        )
    with ledger_errors(storage), ExitStack() as locked:
        if not path.exists():
            return None
        locked.enter_context(filelock.FileLock(path.parent / ".creation.lock"))
        for folder in (found.parent for found in path.parent.glob("*/search.lock")):
            locked.callback(StudyLock(folder, folder.name).release)
        check_sound(path, LOCK_SECONDS)
        with closing(sqlite3.connect(path)) as connection:
            [revision] = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if revision == REVISION:
            return None
        kept, beside = path.with_name(f"{path.name}.{revision}"), path.with_name(f".{path.name}.upgraded")
        back_up(path, beside)
        upgraded = RDBStorage(f"sqlite:///{beside}", skip_compatibility_check=True)
        upgraded.upgrade()
        upgraded.engine.dispose()
        back_up(path, kept)
        beside.rename(path)
    return kept


def open_storage(storage: str, *, write: bool = False, sole: bool = False) -> LeanStorage:
    """Optuna's storage behind a URL. A writer of SQLite syncs every commit in full; everybody waits two minutes for a lock.

    sole: for the one writer of a study.
    """
    path, kind = sqlite_path(storage), SoleStorage if sole else LeanStorage
    if path is None:
        # A writer keeps its connections, and a server drops those that lie idle.
        return kind(storage, engine_kwargs={"pool_pre_ping": True} if sole else {"poolclass": sqlalchemy.NullPool})
    if write and not path.exists():
        _create_database(path)
    opened = kind(storage, engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})
    if write:
        sqlalchemy.event.listen(opened.engine, "connect", _pragmas)
        opened.engine.dispose()  # connections from before the listener
    return opened


def _create_database(path: Path) -> None:
    """Make an empty ledger beside its place, and rename it: no reader ever finds half a schema. Under the creation lock."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    os.close(os.open(beside, os.O_CREAT | os.O_RDWR, 0o600))
    RDBStorage(f"sqlite:///{beside}").engine.dispose()
    failpoints.reach("study")
    beside.rename(path)
    failpoints.reach("study")


def _pragmas(connection: Any, _: Any) -> None:
    # A rollback journal, not WAL, which corrupts on reset in SQLite 3.7.0 to 3.51.2.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = FULL")


def sqlite_path(storage: str) -> Path | None:
    """The file behind a SQLite URL; None for another database. Raises UsageError where the URL is none."""
    try:
        url = sqlalchemy.make_url(storage)
    except sqlalchemy.exc.ArgumentError:
        raise UsageError(f"--storage {storage!r} is no database URL", DEFAULT_STORAGE) from None
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise UsageError("--storage in memory would lose every trial", DEFAULT_STORAGE)
    return Path(url.database)


def artifacts(storage: str) -> Path:
    """The folder of the studies' artifacts: beside the SQLite file, or ./studies for another database."""
    path = sqlite_path(storage)
    return path.parent if path is not None else Path("studies")


def artifact_store(storage: str) -> Path:
    """The folder of Optuna's artifacts of all studies; its name can be no study's."""
    return artifacts(storage) / ".artifacts"


def storage_argument(storage: str) -> str:
    """What names a storage at the end of a command line: nothing where it is the default one."""
    return "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(redacted(storage, url=True))}"


def redacted(storage: str, *, url: bool = False) -> str:
    """The URL without its password, for messages; a SQLite file as its path, unless a URL is wanted."""
    path = sqlite_path(storage)
    if path is not None:
        return without_secrets(storage) if url else str(path)
    return without_secrets(sqlalchemy.make_url(storage).render_as_string(hide_password=True))  # ?password=… too


def confirmation_name(study: str) -> str:
    """The name of the study that holds a study's confirmation; no user's study can bear it."""
    return f"{study}@confirm"


def is_confirmation(name: str) -> bool:
    """Whether a study's name is that of a confirmation."""
    return name.endswith("@confirm")


def check_name(name: str, storage: str) -> None:
    """Raise UsageError unless the name can be a study's and its folder's: letters, digits, _ . -, at most 64, no dot in front."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{brief(name)} cannot be a study's name: letters, digits, _ . and - only, at most 64",
            f"--study {fitting_name(without_secrets(name))}",
        )
    path = sqlite_path(storage)
    if path is not None and name.startswith(path.name):
        raise UsageError(f"{name!r} is the database's own name, and cannot be a study's", f"--study {path.stem}-1")


def fitting_name(name: str) -> str:
    """The nearest that can be a study's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip(".")[:64] or "my-study"


@contextmanager
def ledger_errors(storage: str) -> Iterator[None]:
    """Turn what the database says into one line with a fix."""
    path, where = sqlite_path(storage), redacted(storage)
    try:
        with impatient(path, where):
            yield
    except ImportError as error:
        raise LedgerError(
            f"the database's driver is not installed: {error}", "pip install 'autofash[postgresql]'", where=where
        ) from error
    except UnicodeDecodeError as error:  # in the names of tables and columns
        raise damaged(path, str(error), where) from error
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, OSError) as error:
        # Optuna says no more than that there was an error; its cause says which.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        text = without_secrets(str(getattr(cause, "orig", None) or cause), of=storage)
        if "disk is full" in text or "No space left" in text:
            raise ResourceError(
                "the disk is full", "the same command, once there is room", where=where, code="E-DISK-FULL"
            ) from error
        if path is None and isinstance(cause, GONE):
            raise LedgerError(
                f"the database cannot be reached: {text.splitlines()[0][:200]}",
                "the same command, once it can",
                where=where,
                code="E-DB-LOST",
            ) from error
        if any(word in text for word in DAMAGED):
            raise damaged(path, text.splitlines()[0][:200], where) from error
        fact, fix, code = next(
            (told for word, told in DATABASE_TROUBLES.items() if word in text),
            (f"the database refuses: {text.splitlines()[0][:200]}", "--storage with another database", "E-DB"),
        )
        raise LedgerError(fact, fix, where=where, code=code) from error


@contextmanager
def understood(storage: str) -> Iterator[None]:
    """While rows of the ledger are read: what makes no sense was damaged, for we wrote it otherwise."""
    try:
        yield
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError, SpaceError) as error:
        what = f"what it says makes no sense ({type(error).__name__}: {str(error)[:100]})"
        raise damaged(sqlite_path(storage), what, redacted(storage)) from error
