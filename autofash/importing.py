"""A KerasTuner project → a study: what was tried there is shown here, and a search can begin where that one ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autofash.errors import StudyError, StudyMismatch, brief
from autofash.keras_tuner_folder import CODE, TunerFolder, TunerTrial, read_folder, widened
from autofash.records import Config, State, StudySettings
from autofash.space import IMPORTED, ChoiceParam, Param, Space
from autofash.study import Study
from autofash.study.imports import Foreign, add_foreign, imported_study, known_trials
from autofash.study.storage import DEFAULT_STORAGE, check_name, fitting_name

# Fractions of right answers on validation data, as Keras names them; the first that a study's trials have is its objective.
ACCURACIES = (
    "val_accuracy",
    "val_acc",
    "val_sparse_categorical_accuracy",
    "val_categorical_accuracy",
    "val_binary_accuracy",
)
UNKNOWN = "unknown data"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    study: Study
    added: int  # trials that the study did not have
    failed: int  # of those, trials that failed there
    known: int  # trials that it had already
    unfinished: int  # trials that KerasTuner runs, or will try again: another import takes them once they have ended
    strange: tuple[str, ...]  # a line for each file that was passed over
    remarks: tuple[str, ...]  # what an honest reader has to know about the values


def import_keras_tuner(folder: str | Path, study: str | None = None, storage: str = DEFAULT_STORAGE) -> Imported:
    """Turn a KerasTuner project, `<directory>/<project_name>`, into a study, or bring the study that was made of it up to date.

    study: its name, default the folder's. A trial's value is its validation accuracy, whatever KerasTuner went by.
    Raises StudyError where the folder is no project or holds no validation accuracy, StudyMismatch, StudyBusy, LedgerError,
    UsageError.
    """
    folder = Path(folder)
    name = study or fitting_name(folder.resolve().name)
    check_name(name, storage)
    found = read_folder(folder)
    ended = [
        trial
        for trial in found.trials
        if trial.status == "COMPLETED" or (trial.status in ("FAILED", "INVALID") and trial.id not in found.again)
    ]
    metric, remarks = _objective(ended, folder)
    before = imported_study(name, storage)
    known = known_trials(before) if before else {}
    _check_same(name, known, ended, metric)
    params = dict(before.space.params) if before else {}
    fixed, trials, strange = set(params), [], list(found.strange)
    for trial in ended:
        why = _misfit(trial, metric, params, fixed) if trial.id not in known else ""
        if why:
            strange.append(f"trial_{trial.id}/trial.json: {why}")
        else:
            trials.append(trial)
    if not trials:
        more = f", {len(strange)} that cannot be read" if strange else ""
        more += f", {len(found.trials) - len(ended)} that have not ended" if len(found.trials) > len(ended) else ""
        raise StudyError(
            f"no trial of it can be imported{more}", "the same, once one has ended", where=str(folder), code=CODE
        )
    new = [_foreign(trial, metric, params) for trial in trials if trial.id not in known]
    settings = _settings(found, folder, params, trials)
    made = add_foreign(name, storage, settings, new, {"imported": str(folder.resolve()), "from": "KerasTuner"})
    return Imported(
        study=made,
        added=len(new),
        failed=sum(trial.state is State.FAILED for trial in new),
        known=len(trials) - len(new),
        unfinished=len(found.trials) - len(ended),
        strange=tuple(strange),
        remarks=remarks,
    )


def _objective(trials: Sequence[TunerTrial], folder: Path) -> tuple[str, tuple[str, ...]]:
    """The metric that becomes the trials' value, and what is to be said of it. Raises StudyError where there is none.

    KerasTuner does not keep its objective's name, but each trial's score: the objective is the metric whose best it is.
    """
    complete = [trial for trial in trials if trial.status == "COMPLETED"]
    held = Counter(name for trial in complete for name, told in trial.metrics.items() if told)
    metric = next((name for name in ACCURACIES if held[name]), None)
    if metric is None and complete:
        there = ", ".join(sorted(held)[:5]) or "nothing"
        raise StudyError(
            f"its trials hold no validation accuracy, only {there}, and a leaderboard ranks by accuracy",
            "metrics=['accuracy'] in the model's compile, validation_data in search, and KerasTuner's search again",
            where=str(folder),
            code=CODE,
        )
    metric = metric or ACCURACIES[0]
    scored = [name for name in held if all(_scores(trial, name) for trial in complete)]
    if not complete or metric in scored:
        return metric, ()
    by = scored[0] if scored else "another score"
    return metric, (f"KerasTuner went by {by}: shown, and ranked by, is {metric} in the epoch that was best by that",)


def _scores(trial: TunerTrial, metric: str) -> bool:
    told, best = trial.metrics.get(metric, {}), max if metric in trial.highest else min
    return bool(told) and trial.score is not None and math.isclose(best(told.values()), trial.score, rel_tol=1e-6)


def _check_same(
    name: str, known: Mapping[str, tuple[Config, float | None]], trials: Iterable[TunerTrial], metric: str
) -> None:
    """Raise StudyMismatch where a trial that the study has is another one in the folder: of other values, or searched anew."""
    for trial in trials:
        if trial.id not in known:
            continue
        values, reached = known[trial.id]
        now = max(trial.metrics.get(metric, {}).values(), default=None) if trial.status == "COMPLETED" else None
        if values != trial.values or reached != now:
            raise StudyMismatch(
                f"the study {name} was imported from another folder, or before it was overwritten: its trial "
                f"{brief(trial.id)} has other values",
                f"--study {name}-2",
            )


def _misfit(trial: TunerTrial, metric: str, params: dict[str, Param], fixed: set[str]) -> str:
    """Why a trial cannot be in the study, or nothing; then what its values are drawn from has joined the study's parameters.

    fixed: parameters that the ledger has, whose kind and choices cannot change there any more.
    """
    looks = trial.metrics.get(metric, {})
    if trial.status == "COMPLETED" and not looks:
        return f"it has no {metric}"
    if not all(0 <= value <= 1 for value in looks.values()):
        return f"its {metric} is no fraction"
    joined = {}
    for name, param in trial.params.items():
        wide = widened(params[name], param) if name in params else param
        if wide is None or (name in fixed and not _may_become(params[name], wide)):
            return f"its {name} is not drawn as in the trials before it"
        if next(wide.faults(), None) is not None:
            return f"its {name} lies too far from that of the trials before it"
        joined[name] = wide
    params.update(joined)
    return ""


def _may_become(before: Param, now: Param) -> bool:
    if isinstance(before, ChoiceParam) and isinstance(now, ChoiceParam):
        return before.values == now.values
    return getattr(before, "log", False) == getattr(now, "log", False)


def _foreign(trial: TunerTrial, metric: str, params: Mapping[str, Param]) -> Foreign:
    complete = trial.status == "COMPLETED"
    metrics = {name: told[max(told)] for name, told in trial.metrics.items() if told}
    return Foreign(
        id=trial.id,
        state=State.COMPLETE if complete else State.FAILED,
        config=trial.values,
        params={name: params[name] for name in trial.values},
        looks=trial.metrics.get(metric, {}),
        why="" if complete else trial.message or f"{trial.status.lower()} in KerasTuner, which does not say why",
        origin=f"imported from KerasTuner's trial {trial.id}",
        follows=str(trial.tuner.get("trial_id", "")),
        notes={"keras_tuner": {"status": trial.status, "score": trial.score, "metrics": metrics, **trial.tuner}},
    )


def _settings(
    found: TunerFolder, folder: Path, params: Mapping[str, Param], trials: Sequence[TunerTrial]
) -> StudySettings:
    space = Space(IMPORTED, params, name=fitting_name(folder.resolve().name))
    epochs = [epoch for trial in trials for told in trial.metrics.values() for epoch in told]
    return StudySettings(
        dataset=UNKNOWN,
        data_fingerprint="",
        space=space.name,
        space_table=space.table(),
        space_fingerprint=space.fingerprint,
        sampler=found.sampler,
        pruner="none",
        objective="accuracy",
        epochs=max(epochs, default=1),
        seed=found.seed,
        validation=0.0,  # KerasTuner does not keep it
        starters=False,
    )
