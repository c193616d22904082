"""Trials of another program, written into a study of their own: finished, with what they had, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from autofash.errors import StudyMismatch
from autofash.records import Config, State, StudySettings
from autofash.space import Param
from autofash.study.ledger import Study, as_json, study_names
from autofash.study.opening import OpenedStudy
from autofash.study.samplers import distribution
from autofash.study.storage import ledger_errors, storage_argument, understood

FOREIGN = "foreign"  # the attribute that holds a trial's id in the program that it comes from
AT_ONCE = 50  # trials in one commit, a second or so: nobody waits for long


@dataclass(frozen=True, slots=True)
class Foreign:
    """A trial that another program ran."""

    id: str  # in that program
    state: State  # complete or failed
    config: Config
    params: Mapping[str, Param]  # what each of its values is drawn from
    looks: Mapping[int, float]  # epoch, from 1 → objective, fraction
    why: str  # why it failed; empty otherwise
    origin: str  # in words
    follows: str  # id of the trial that it continues; empty for none
    notes: Mapping[str, Any]  # what else is known of it, JSON


def imported_study(name: str, storage: str) -> Study | None:
    """The imported study of this name, None where there is none. Raises StudyMismatch where it was searched here."""
    if name not in study_names(storage):
        return None
    study = Study(name, storage)
    if not study.imported:
        fix = f"--study {name}-imported{storage_argument(storage)}"
        raise StudyMismatch(f"the study {name} was searched here, and takes no trials of another program", fix)
    return study


def known_trials(study: Study) -> dict[str, tuple[Config, float | None]]:
    """The ids of a study's imported trials, their configs and, of the complete ones, values."""
    with ledger_errors(study.storage), understood(study.storage):
        found = study._study.get_trials(deepcopy=False)
        return {
            str(trial.user_attrs[FOREIGN]): (trial.params, trial.value)
            for trial in found
            if FOREIGN in trial.user_attrs
        }


def add_foreign(
    name: str, storage: str, settings: StudySettings, trials: Sequence[Foreign], note: Mapping[str, Any]
) -> Study:
    """Add those of the trials that the study of this name does not have, in their order, and make it where there is none.

    settings: of a new study; of one that is there its space and epochs are brought up to date. note: of this import, among the
    study's runs. Raises StudyBusy, StudyMismatch, LedgerError, UsageError.
    """
    before = imported_study(name, storage)
    with closing(OpenedStudy(name, storage, before.settings if before else settings, 1)) as opened:
        study = opened.study
        with ledger_errors(storage), understood(storage):
            there = {str(trial.user_attrs.get(FOREIGN)): trial for trial in study.get_trials(deepcopy=False)}
            numbers = {key: trial.number for key, trial in there.items()}
            finished = sum(trial.state is TrialState.COMPLETE for trial in there.values())
            new = [trial for trial in trials if trial.id not in numbers]
            with opened.storage.at_once("attrs"):
                grown = ("space_table", "space_fingerprint", "epochs")
                now = (
                    {**asdict(before.settings), **{key: getattr(settings, key) for key in grown}}
                    if before
                    else asdict(settings)
                )
                study.set_user_attr("settings", as_json(now))
                moment = datetime.now().astimezone().isoformat()
                if new or not there:
                    runs = [*study.user_attrs.get("runs", []), {"began": moment, **note, "trials": len(new)}]
                    study.set_user_attr("runs", as_json(runs))
                    study.set_user_attr("updated", moment)
                study.set_user_attr("target", finished + sum(trial.state is State.COMPLETE for trial in new))
        for start in range(0, len(new), AT_ONCE):
            with (
                ledger_errors(storage),
                opened.storage.at_once("tell"),
            ):  # each anew: who is long in it is said to wait for a lock
                for trial in new[start : start + AT_ONCE]:
                    numbers[trial.id] = len(numbers)
                    _add(study, trial, numbers.get(trial.follows))
    return Study(name, storage)


def _add(study: optuna.Study, trial: Foreign, continues: int | None) -> None:
    distributions: dict[str, BaseDistribution] = {key: distribution(param) for key, param in trial.params.items()}
    noted = {FOREIGN: trial.id, "origin": trial.origin, "why": trial.why, "continues": continues, **trial.notes}
    complete = trial.state is State.COMPLETE
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            value=max(trial.looks.values()) if complete else None,
            params=dict(trial.config),
            distributions=distributions,
            user_attrs={key: as_json(told) for key, told in noted.items() if told not in ("", None)},
            intermediate_values=dict(trial.looks),
        )
    )


def source_of(study: Study) -> str:
    """The folder that an imported study came from last."""
    return next((str(run["imported"]) for run in reversed(study.runs) if "imported" in run), "FOLDER")
