"""The ledger's rows, read by plain SQL.

Optuna makes an object of every row that it reads, which takes ten times as long and five times the memory, and half a second goes
into opening its storage (docs/LOG.md). So reading goes this way; what is written, Optuna writes, but for what `study.sole` does.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    String,
    TableClause,
    case,
    cast,
    column,
    exists,
    func,
    select,
    table,
)
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from autofash import failpoints
from autofash.study.rungs import EARLY

SCHEMA = 12  # of Optuna's tables, all that are named here
STUDIES = table("studies", column("study_id"), column("study_name"))
STUDY_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
TRIALS = table(
    "trials",
    column("trial_id"),
    column("number"),
    column("study_id"),
    column("state"),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
PARAMS = table(
    "trial_params",
    column("param_id"),
    column("trial_id"),
    column("param_name"),
    column("param_value"),
    column("distribution_json"),
)
VALUES = table("trial_values", column("trial_id"), column("objective"), column("value"), column("value_type"))
REPORTED = table(
    "trial_intermediate_values",
    column("trial_id"),
    column("step"),
    column("intermediate_value"),
    column("intermediate_value_type"),
)
USER_ATTRIBUTES, SYSTEM_ATTRIBUTES = (
    table(name, column("trial_id"), column("key"), column("value_json"))
    for name in ("trial_user_attributes", "trial_system_attributes")
)
NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}  # such a value's column is empty


class LeanStorage(RDBStorage):
    """Optuna's storage, but for how it reads trials, and that it may commit several changes at once."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(url, engine_kwargs)
        self._bound: Connection | None = None  # of a commit of several changes that is under way
        self._failed: BaseException | None = None  # what first went wrong in it
        sqlalchemy.event.listen(self.engine, "handle_error", self._note_failure)

    @contextmanager
    def at_once(self, passage: str) -> Iterator[None]:
        """Commit all that is written within at its end, or nothing. Within another one, it is that one's to commit.

        Optuna commits each parameter of a trial by itself. passage: the failpoint that is passed before the commit and after.
        """
        if self._bound is not None:
            yield
            return
        self._failed = None
        with self.engine.begin() as connection:
            self.remove_session()
            self.scoped_session.configure(bind=connection)
            self._bound = connection
            try:
                yield
            except (StorageInternalError, SQLAlchemyError) as error:
                # Optuna tries some things again, which then fail because the transaction is over, not because the disk is full.
                if self._failed is None:
                    raise
                raise self._failed from error
            finally:
                self._bound = None
                self.remove_session()
                self.scoped_session.configure(bind=self.engine)
            failpoints.reach(passage)
        failpoints.reach(passage)

    def _note_failure(self, context: ExceptionContext) -> None:
        self._failed = self._failed or context.sqlalchemy_exception

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial of this id. Raises KeyError."""
        for trial in self._read(TRIALS.c.trial_id == trial_id):
            return trial
        raise KeyError(f"there is no trial of the id {trial_id}")

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        # Private, but all that Optuna reads of many trials passes here, and there is no public way to put a leaner reader in its
        # place. Should a later Optuna call it otherwise, a test says so. The arguments are those of its cache.
        new = TRIALS.c.trial_id > trial_id_greater_than
        wanted = sqlalchemy.or_(new, TRIALS.c.trial_id.in_(included_trial_ids)) if included_trial_ids else new
        found = self._read(sqlalchemy.and_(TRIALS.c.study_id == study_id, wanted))
        return [trial for trial in found if states is None or trial.state in states]

    def _read(self, wanted: ColumnElement[bool]) -> list[FrozenTrial]:
        with self._connected() as connection:
            return read_trials(connection, wanted)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection whose changes are committed at the end, or with all others of `at_once`."""
        if self._bound is not None:
            yield self._bound
        else:
            with self.engine.begin() as connection:
                yield connection


def has_tables(connection: Connection) -> bool:
    """Whether Optuna has made its tables there."""
    return sqlalchemy.inspect(connection).has_table(STUDIES.name)


def schema_version(connection: Connection) -> int | None:
    """Of Optuna's tables; None where their making was cut short."""
    version = table("version_info", column("schema_version"))
    return connection.execute(select(version.c.schema_version)).scalar()


def read_studies(connection: Connection, name: str | None = None) -> dict[str, tuple[int, dict[str, Any]]]:
    """Number and attributes of every study by its name, or of the one that bears this name."""
    named = select(STUDIES.c.study_id, STUDIES.c.study_name)
    if name is not None:
        named = named.where(STUDIES.c.study_name == name)
    rows = named.add_columns(STUDY_ATTRIBUTES.c.key, STUDY_ATTRIBUTES.c.value_json).outerjoin(
        STUDY_ATTRIBUTES, STUDY_ATTRIBUTES.c.study_id == STUDIES.c.study_id
    )
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for study, bearing, key, told in connection.execute(rows.order_by(STUDIES.c.study_id)):
        _, attributes = found.setdefault(bearing, (study, {}))
        if key is not None:
            attributes[key] = json.loads(told)
    return found


def read_standings(connection: Connection, study: int) -> Iterator[tuple[int, TrialState, bool, float | None]]:
    """Number, state, whether it is paused, and best epoch of a study's trials, by number.

    Without those that only repeat a finished config. Before an epoch's end, the early look is the best there is.
    """
    repeats = exists().where(USER_ATTRIBUTES.c.trial_id == TRIALS.c.trial_id, USER_ATTRIBUTES.c.key == "duplicate_of")
    reported = select(func.max(REPORTED.c.intermediate_value)).where(REPORTED.c.trial_id == TRIALS.c.trial_id)
    best = func.coalesce(reported.where(REPORTED.c.step != EARLY).scalar_subquery(), reported.scalar_subquery())
    noted = select(USER_ATTRIBUTES.c.value_json).where(
        USER_ATTRIBUTES.c.trial_id == TRIALS.c.trial_id, USER_ATTRIBUTES.c.key == "paused"
    )
    state = cast(TRIALS.c.state, String)  # a type of its own in PostgreSQL
    pause = case((state == TrialState.RUNNING.name, noted.scalar_subquery()))
    rows = select(TRIALS.c.number, TRIALS.c.state, pause, best).where(TRIALS.c.study_id == study, ~repeats)
    for number, state, paused, value in connection.execute(rows.order_by(TRIALS.c.trial_id)):
        yield number, TrialState[state], paused is not None and not json.loads(paused)["runs"], value


def read_trials(connection: Connection, wanted: ColumnElement[bool]) -> list[FrozenTrial]:
    """Trials that meet a condition on the columns of TRIALS, in the order of their making. Equal distributions are one object."""
    trials = connection.execute(select(TRIALS).where(wanted).order_by(TRIALS.c.trial_id)).all()
    if not trials:
        return []
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial, name, value, kind in _rows(connection, wanted, PARAMS, "param_name", "param_value", "distribution_json"):
        distribution = distributions[trial][sys.intern(name)] = _distribution(kind)
        params[trial][sys.intern(name)] = distribution.to_external_repr(value)
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, objective, value, kind in _rows(connection, wanted, VALUES, "objective", "value", "value_type"):
        values[trial][objective] = NOT_FINITE.get(kind, value)
    reported: dict[int, dict[int, float]] = defaultdict(dict)
    for trial, step, value, kind in _rows(
        connection, wanted, REPORTED, "step", "intermediate_value", "intermediate_value_type"
    ):
        reported[trial][step] = NOT_FINITE.get(kind, value)
    noted: list[dict[int, dict[str, Any]]] = []
    for attributes in (USER_ATTRIBUTES, SYSTEM_ATTRIBUTES):
        noted.append(defaultdict(dict))
        for trial, key, told in _rows(connection, wanted, attributes, "key", "value_json"):
            noted[-1][trial][sys.intern(key)] = json.loads(told)
    return [
        FrozenTrial(
            number=row.number,
            state=TrialState[row.state],
            value=None,
            values=[values[row.trial_id][objective] for objective in sorted(values[row.trial_id])] or None,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=params[row.trial_id],
            distributions=distributions[row.trial_id],
            user_attrs=noted[0][row.trial_id],
            system_attrs=noted[1][row.trial_id],
            intermediate_values=reported[row.trial_id],
            trial_id=row.trial_id,
        )
        for row in trials
    ]


def _rows(connection: Connection, wanted: ColumnElement[bool], found: TableClause, *names: str) -> Iterator[Any]:
    """Those columns of a table's rows that belong to such trials, each after its trial's id, in the order of their making."""
    columns = (found.c[name] for name in ("trial_id", *names))
    joined = found.join(TRIALS, TRIALS.c.trial_id == found.c.trial_id)
    rows = select(*columns).select_from(joined).where(wanted)
    # Where order matters, it is that of a trial's parameters.
    return iter(connection.execute(rows.order_by(PARAMS.c.param_id) if found is PARAMS else rows))


@lru_cache(maxsize=1024)
def _distribution(told: str) -> Any:
    return json_to_distribution(told)


def _local(moment: datetime | None) -> datetime | None:
    """Optuna keeps UTC, and shows local time without saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
