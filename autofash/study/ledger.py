"""The ledger: where studies are kept, and what can be read from them without disturbing anyone."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine

from autofash import failpoints
from autofash.errors import (
    LedgerError,
    NoTrial,
    ResourceError,
    SpaceError,
    StudyMismatch,
    StudyMissing,
    UsageError,
    brief,
    unknown,
    without_secrets,
)
from autofash.records import Config, EpochReport, Standing, State, StudySettings, StudySummary, TrialRecord
from autofash.space import IMPORTED, source_digest, space_from_table
from autofash.study.lock import StudyLock
from autofash.study.rows import (
    SCHEMA,
    TRIALS,
    LeanStorage,
    has_tables,
    read_standings,
    read_studies,
    read_trials,
    schema_version,
)
from autofash.study.rungs import EARLY
from autofash.study.sole import SoleStorage
from autofash.study.soundness import (
    REVISION,
    back_up,
    backup_of,
    check_schema,
    check_sound,
    damaged,
    impatient,
)

log = logging.getLogger("autofash")
optuna.logging.set_verbosity(optuna.logging.ERROR)

FORMAT = 1
LOCK_SECONDS = 120.0
MOST_NUMBERS = 1_000  # in one query
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
STATES = {
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
    TrialState.RUNNING: State.RUNNING,
    TrialState.WAITING: State.WAITING,
}


class Study:
    """One study as the ledger has it. Reading only, but for what a refit notes: openings of the test set, and pictures."""

    def __init__(self, name: str, storage: str) -> None:
        """Raises StudyMissing with the nearest name, LedgerError where the database cannot be read."""
        self.name, self.storage = name, storage
        with ledger_errors(storage):
            reader = open_reader(storage)
            if reader is None:
                raise StudyMissing(
                    f"there is no study {name!r}: {redacted(storage)} does not exist yet", "autofash search --trials 50"
                )
            with understood(storage), reader.connect() as connection:
                found = read_studies(connection, name).get(name)
                if found is None:
                    fact, fix = unknown("study", name, read_studies(connection))
                    raise StudyMissing(fact, fix)
        self._reader = reader
        self.number, attributes = found  # the study's number in its storage
        if attributes.get("format") != FORMAT:
            raise StudyMissing(
                f"the study {name!r} was not written by autofash, or by a newer one (format {attributes.get('format')})",
                "another study; `autofash studies` lists them",
            )
        with understood(storage):
            self.settings = StudySettings(**attributes["settings"])
            table = dict(self.settings.space_table)
            if "seen" in attributes:  # parameters of a hypermodel that have shown themselves
                table["params"] = {**table["params"], **attributes["seen"]}
            self.space = space_from_table(table, name=self.settings.space, where=self.settings.space)

    @cached_property
    def _study(self) -> optuna.Study:
        """The study as Optuna has it, for what only Optuna can do: it takes half a second to open."""
        return optuna.load_study(study_name=self.name, storage=open_storage(self.storage))

    @property
    def target(self) -> int:
        """Trials that were asked for in all."""
        return int(self._attributes["target"])

    def warn_if_model_changed(self) -> None:
        """Say so where the file of a user's own model is not the one that the last search ran."""
        searched = str(self.runs[-1].get("model_sha256", "")) if self.runs else ""
        if self.space.hypermodel and searched not in ("", source_digest(self.space.hypermodel)):
            source = self.space.hypermodel.source
            log.warning(
                "autofash: warning[W-MODEL-CHANGED]: %s is not as it was when %s was searched", source, self.name
            )

    @property
    def folder(self) -> Path:
        """Where the study's artifacts lie."""
        return artifacts(self.storage) / self.name

    @property
    def imported(self) -> bool:
        """Whether another program searched it: it can be looked at and learnt from, and holds no models."""
        return self.space.family == IMPORTED

    @property
    def arguments(self) -> str:
        """What names this study on a command line: its name, and its storage where that is not the default one."""
        return f"{self.name}{storage_argument(self.storage)}"

    @property
    def openings(self) -> list[dict[str, Any]]:
        """Every opening of the test set: when, by which command, for which trial, with which result."""
        return list(self._attributes.get("heldout", []))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Every search that worked on this study: when it began, and with which sampler, pruner, workers and versions."""
        return list(self._attributes.get("runs", []))

    @property
    def warm_start(self) -> Mapping[str, Any] | None:
        """What the study was told of another one's trials when it began, as study.warm has it; None where nothing."""
        return self._attributes.get("warm_start")

    @property
    def hints(self) -> list[TrialRecord]:
        """The trials of another study that the sampler learns from, the best first; none of them is a trial of this one."""
        told = self.warm_start or {"trials": []}
        with understood(self.storage):
            found = [self._hint(hint, told["study"]) for hint in told["trials"]]
        return sorted(found, key=lambda hint: (hint.state is not State.COMPLETE, -(hint.value or 0.0), hint.number))

    def _hint(self, hint: Mapping[str, Any], source: str) -> TrialRecord:
        looks = {int(epoch): float(value) for epoch, value in hint["looks"].items()}
        curve = {epoch: looks[epoch] for epoch in sorted(looks) if epoch != EARLY}
        best = max(curve, key=lambda epoch: (curve[epoch], -epoch)) if curve else None
        return TrialRecord(
            number=int(hint["trial"]),
            state=State.COMPLETE if hint["complete"] else State.PRUNED,
            config=self.space.expand({**self.space.begun(), **hint["config"]}),
            value=curve[best] if best is not None else looks.get(EARLY),
            best_epoch=best,
            curve=tuple(curve.values()),
            reports=(),
            seconds=0.0,
            why="",
            seed=0,
            origin=f"imported from {source} trial {hint['trial']}",
        )

    def finished_trials(self) -> list[FrozenTrial]:
        """The finished trials that have reported, as Optuna has them: for a study that learns from this one."""
        with self._reading() as connection:
            found = read_trials(connection, TRIALS.c.study_id == self.number)
        counted = (TrialState.COMPLETE, TrialState.PRUNED)
        return [trial for trial in found if trial.state in counted and trial.intermediate_values]

    @property
    def validation_images(self) -> int | None:
        """How many images every validation score was measured on; None where no search has noted it."""
        return next((int(run["validation_images"]) for run in reversed(self.runs) if "validation_images" in run), None)

    def trials(self) -> list[TrialRecord]:
        """Every trial, by number. Those that would only have repeated a finished config are left out."""
        with self._reading() as connection:
            return self._records(read_trials(connection, TRIALS.c.study_id == self.number))

    def trials_of(self, numbers: Sequence[int]) -> list[TrialRecord]:
        """The trials of these numbers, in their order, without those that are not there."""
        found: dict[int, TrialRecord] = {}
        with self._reading() as connection:
            for start in range(0, len(numbers), MOST_NUMBERS):
                some = TRIALS.c.number.in_(numbers[start : start + MOST_NUMBERS])
                read = self._records(read_trials(connection, (TRIALS.c.study_id == self.number) & some))
                found.update({record.number: record for record in read})
        return [found[number] for number in numbers if number in found]

    def trial(self, number: int) -> TrialRecord:
        """The trial of this number. Raises UsageError when there is none."""
        for record in self.trials_of([number]):
            return record
        known = [standing.number for standing in self.standings()]
        has = f"0 to {max(known)}" if known else "none yet"
        raise UsageError(f"{self.name} has no trial {number}", f"--trial with a number from {has}")

    def standings(self) -> list[Standing]:
        """Every trial, without its config and curve: the leaderboard, then the others, each with the best first."""
        with self._reading() as connection:
            return _standings(connection, self.number)

    def leaderboard(self, most: int | None = None) -> list[TrialRecord]:
        """Complete trials, at most this many, the best first; of two alike the earlier one."""
        return self.trials_of([standing.number for standing in self.standings() if standing.ranks][:most])

    def best(self) -> TrialRecord:
        """The best complete trial. Raises NoTrial."""
        ranked = self.leaderboard(1)
        if not ranked:
            raise NoTrial(f"{self.name} has no complete trial yet", f"autofash search --study {self.arguments}")
        return ranked[0]

    def summary(self) -> StudySummary:
        """One line about the study."""
        return _summary(self.name, self._attributes, self.standings())

    def note_opening(self, opening: dict[str, Any]) -> int:
        """Write into the ledger that the test set is about to be opened, and return the opening's place for `note_result`.

        Refitting's, which keeps every other refit of the study out; a search writes other attributes.
        """
        with ledger_errors(self.storage):
            opened = open_storage(self.storage, write=True)
            study = optuna.load_study(study_name=self.name, storage=opened)
            openings = [*study.user_attrs.get("heldout", []), opening]
            with opened.at_once("attrs"):
                study.set_user_attr("heldout", openings)
        return len(openings) - 1

    def note_result(self, opening: int, result: dict[str, Any]) -> None:
        """Write beside an opening what it showed."""
        with ledger_errors(self.storage):
            opened = open_storage(self.storage, write=True)
            study = optuna.load_study(study_name=self.name, storage=opened)
            openings = list(study.user_attrs["heldout"])
            openings[opening] = {**openings[opening], **as_json(result)}
            with opened.at_once("attrs"):
                study.set_user_attr("heldout", openings)

    @property
    def pictures(self) -> set[str]:
        """Names of the pictures that are attached to the study."""
        return {meta.filename for meta in optuna.artifacts.get_all_artifact_meta(self._study)}

    def attach(self, picture: Path) -> None:
        """Keep a picture as an artifact of the study, which Optuna dashboard shows, in place of one that bore this name."""
        store_folder = artifact_store(self.storage)
        with ledger_errors(self.storage):
            store_folder.mkdir(parents=True, exist_ok=True)
            store = optuna.artifacts.FileSystemArtifactStore(store_folder)
            study = optuna.load_study(study_name=self.name, storage=open_storage(self.storage, write=True))
            known = optuna.artifacts.get_all_artifact_meta(study)
            before = next((meta.artifact_id for meta in known if meta.filename == picture.name), None)
            if before is None:
                optuna.artifacts.upload_artifact(
                    artifact_store=store, file_path=str(picture), study_or_trial=study, storage=study._storage
                )
            else:
                with picture.open("rb") as content:
                    store.write(before, content)

    @property
    def _attributes(self) -> dict[str, Any]:
        with self._reading() as connection:
            attributes = read_studies(connection, self.name)[self.name][1]
            _ = (
                int(attributes["target"]),
                [dict(told) for key in ("runs", "heldout") for told in attributes.get(key, [])],
            )
            return attributes

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with ledger_errors(self.storage), understood(self.storage), self._reader.connect() as connection:
            yield connection

    def _records(self, trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
        return [self.record(trial) for trial in trials if "duplicate_of" not in trial.user_attrs]

    def record(self, trial: FrozenTrial) -> TrialRecord:
        """An Optuna trial in our terms."""
        noted, said = trial.user_attrs, reports_of(trial)
        looks = trial.intermediate_values
        curve = {epoch: value for epoch, value in looks.items() if epoch != EARLY}
        best = max(curve, key=lambda epoch: (curve[epoch], -epoch)) if curve else None
        pause = noted.get("paused", {})
        paused = trial.state is TrialState.RUNNING and pause.get("runs") is False
        seconds = float(noted.get("seconds", pause.get("seconds", 0.0)))
        if not all(
            map(math.isfinite, (seconds, *looks.values()))
        ):  # a report that is not finite ends its trial, and is no look
            raise ValueError(f"trial {trial.number} has a number that is not finite")
        return TrialRecord(
            number=trial.number,
            state=State.PAUSED if paused else STATES[trial.state],
            config=self.config_of(trial),
            value=curve[best] if best is not None else looks.get(EARLY),
            best_epoch=best,
            curve=tuple(curve[epoch] for epoch in sorted(curve)),
            reports=tuple(report for report in said if report.epoch != EARLY),
            seconds=seconds,
            why=str(noted.get("why", pause["why"] if paused else "")),
            seed=int(noted.get("seed", 0)),
            origin=str(noted.get("origin", "sampled")),
            ended=trial.datetime_complete.astimezone() if trial.datetime_complete else None,
            early=next((report for report in said if report.epoch == EARLY), None),
            continues=int(noted["continues"]) if "continues" in noted else None,
            repeats=noted.get("duplicate_of"),
        )

    def config_of(self, trial: FrozenTrial) -> Config:
        """The config that a trial's model is built from, "family" included; what is known of it, for one that waits."""
        # A hypermodel asks for what it wants, which may be less than it was queued with.
        whole = self.space.hypermodel is not None and trial.state.is_finished() and trial.params
        params = trial.params if whole else {**noted_config(trial), **trial.params}
        if not params:
            return {}
        return self.space.expand({**self.space.begun(), **params})


def reports_of(trial: FrozenTrial) -> list[EpochReport]:
    """What a trial said, the early look included, as far as the ledger has it."""
    return [EpochReport(**report) for report in trial.user_attrs.get("reports", [])]


def noted_config(trial: FrozenTrial) -> Config:
    """The parameters that a queued trial is to have."""
    queued: Config = trial.user_attrs.get("queued", {})
    return queued


def load_study(name: str | None = None, storage: str = DEFAULT_STORAGE) -> Study:
    """The study of this name, or the one last updated. Raises StudyMissing, LedgerError."""
    if name is not None:
        return Study(name, storage)
    with _reading(storage) as connection:
        found = read_studies(connection) if connection else {}
        moments = {
            name: _updated(attributes)
            for name, (_, attributes) in found.items()
            if attributes.get("format") == FORMAT and not is_confirmation(name)
        }
    if not moments:
        raise StudyMissing(f"there is no study yet in {redacted(storage)}", "autofash search --trials 50")
    return Study(max(moments, key=lambda name: moments[name]), storage)


def list_studies(storage: str = DEFAULT_STORAGE) -> list[StudySummary]:
    """Every study of a storage, the one last updated first. Raises LedgerError where the database cannot be read."""
    with _reading(storage) as connection:
        if connection is None:
            return []
        summaries = [
            _summary(name, attributes, _standings(connection, number))
            for name, (number, attributes) in read_studies(connection).items()
            if attributes.get("format") == FORMAT
        ]
    return sorted(summaries, key=lambda summary: summary.updated, reverse=True)


def study_names(storage: str) -> set[str]:
    """Names of all studies of a storage, without reading a trial. Raises LedgerError."""
    with _reading(storage) as connection:
        found = read_studies(connection) if connection else {}
    # One whose making was cut short has no format yet: whoever comes next makes it whole.
    return {name for name, (_, attributes) in found.items() if "format" in attributes}


@contextmanager
def _reading(storage: str) -> Iterator[Connection | None]:
    """A connection to the ledger; None where there is none yet."""
    with ledger_errors(storage), understood(storage):
        reader = open_reader(storage)
        with reader.connect() if reader else nullcontext() as connection:
            yield connection


def _standings(connection: Connection, study: int) -> list[Standing]:
    found = [
        Standing(number, State.PAUSED if paused else STATES[state], value)
        for number, state, paused, value in read_standings(connection, study)
    ]
    return sorted(found, key=lambda standing: (not standing.ranks, -(standing.value or 0.0), standing.number))


def _summary(name: str, attributes: Mapping[str, Any], standings: Sequence[Standing]) -> StudySummary:
    count = Counter(standing.state for standing in standings)
    return StudySummary(
        name=name,
        dataset=attributes["settings"]["dataset"],
        space=attributes["settings"]["space"],
        trials=int(attributes["target"]),
        complete=count[State.COMPLETE],
        pruned=count[State.PRUNED],
        paused=count[State.PAUSED],
        failed=count[State.FAILED],
        best=standings[0].value if standings and standings[0].ranks else None,
        updated=_updated(attributes),
    )


def _updated(attributes: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(attributes["updated"]).astimezone()


def create_or_load(name: str, opened: LeanStorage, settings: StudySettings, target: int) -> optuna.Study:
    """The Optuna study of this name for its writer, made with these settings where it does not exist yet."""
    study = optuna.create_study(study_name=name, storage=opened, direction="maximize", load_if_exists=True)
    if "format" in study.user_attrs:
        return study
    failpoints.reach("study")
    if study.get_trials(deepcopy=False):
        raise StudyMismatch(
            f"the study {name} is there already, and was not written by autofash", "--study with another name"
        )
    with opened.at_once("study"), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's major version is pinned
        study.set_metric_names([f"validation {settings.objective.replace('_', ' ')} (fraction, 0 to 1)"])
        study.set_user_attr("settings", asdict(settings))
        study.set_user_attr("target", target)
        study.set_user_attr("updated", datetime.now().astimezone().isoformat())
        study.set_user_attr("format", FORMAT)  # with it, the study counts as made
    return study


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


def as_json(value: object) -> Any:
    """The value as plain JSON types, which is all that a ledger's attribute may hold."""
    return json.loads(json.dumps(value))
