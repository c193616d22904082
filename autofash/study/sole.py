"""The ledger as its one writer has it: what it has read or written itself it knows, and need not read again.

Optuna's storage reads every unfinished trial again for each look at the trials, and looks up a trial and its study before each
parameter that it writes. Three quarters of what a trial took of the coordinator went there (docs/LOG.md). The rows are those that
Optuna would write; a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, TableClause, insert, update

from autofash.study.rows import PARAMS, SYSTEM_ATTRIBUTES, TRIALS, USER_ATTRIBUTES, LeanStorage


class SoleStorage(LeanStorage):
    """For the process that holds a study's lock: while it does, nobody else writes the study's trials.

    Of one study only: its trials are asked for whole once, and afterwards those alone that were changed through this storage.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(url, engine_kwargs)
        self._known: dict[int, FrozenTrial] = {}  # by id: trials as they are in the ledger
        self._changed: set[int] = set()  # ids of trials that Optuna's cache above has not been given since they changed
        self._given = False  # whether it has been given all others

    @contextmanager
    def at_once(self, passage: str) -> Iterator[None]:
        """As ever; where it fails, what was known of the trials counts no more."""
        try:
            with super().at_once(passage):
                yield
        except BaseException:
            self._known, self._given = {}, False
            raise

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial of this id. Raises KeyError."""
        return self._known[trial_id] if trial_id in self._known else super().get_trial(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial, or begin one that waits; what is known of it is read again, because Optuna sets its times."""
        self._changed.add(trial_id)
        self._known.pop(trial_id, None)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write what a trial has after an epoch."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._changes(trial_id).intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a note on a trial."""
        told = self._note(USER_ATTRIBUTES, trial_id, key, value)
        self._changes(trial_id).user_attrs[key] = told

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a note of Optuna's own on a trial."""
        told = self._note(SYSTEM_ATTRIBUTES, trial_id, key, value)
        self._changes(trial_id).system_attrs[key] = told

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        # Private like the next two, but where Optuna's cache writes and reads.
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
        with self._connected() as connection:
            connection.execute(insert(PARAMS), {**row, "distribution_json": distribution_to_json(distribution)})
        trial = self._changes(trial_id)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        made = super()._create_new_trial(study_id, template_trial)
        self._changed.add(made._trial_id)
        return self._known.setdefault(made._trial_id, made)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        if self._given:
            found = [self.get_trial(trial) for trial in sorted(self._changed)]
        else:
            found = self._read(TRIALS.c.study_id == study_id)
        self._changed, self._given = set(), True
        return [trial for trial in found if states is None or trial.state in states]

    def _read(self, wanted: ColumnElement[bool]) -> list[FrozenTrial]:
        found = super()._read(wanted)
        self._known.update({trial._trial_id: trial for trial in found})
        return found

    def _changes(self, trial_id: int) -> FrozenTrial:
        """The trial of this id as it is known, to be changed as it is in the ledger."""
        self._changed.add(trial_id)
        return self.get_trial(trial_id)

    def _note(self, attributes: TableClause, trial: int, key: str, value: Any) -> Any:
        """Write a note, new or in the place of an earlier one, and return it as it will be read."""
        told = json.dumps(value)
        there = sqlalchemy.and_(attributes.c.trial_id == trial, attributes.c.key == key)
        with self._connected() as connection:
            if not connection.execute(update(attributes).where(there).values(value_json=told)).rowcount:
                connection.execute(insert(attributes), {"trial_id": trial, "key": key, "value_json": told})
        return json.loads(told)
