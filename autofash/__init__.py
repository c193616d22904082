"""autofash finds, trains and proves the best Keras image classifier for a data set, on the machine its user has.

    import autofash

    study = autofash.search(dataset="digits", trials=20)
    print(study.best().value)
    autofash.confirm(study, top=3, seeds=3)
    fitted = autofash.refit(study, formats=["keras", "litert"])
    print(fitted.metrics["test_accuracy"], fitted.model)
    probabilities = autofash.load_model(fitted.folder).predict(images)

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autofash import errors
from autofash.errors import (
    AutofashError,
    DataCorrupt,
    DataError,
    DataMissing,
    InfeasibleConfig,
    Interrupted,
    LedgerError,
    NoTrial,
    ResourceError,
    SpaceError,
    StudyBusy,
    StudyError,
    StudyMismatch,
    StudyMissing,
    UnsafeFile,
    UsageError,
)

if TYPE_CHECKING:
    from autofash import records as records
    from autofash.importing import Imported as Imported
    from autofash.importing import import_keras_tuner as import_keras_tuner
    from autofash.loop import Listener
    from autofash.predict import LoadedModel as LoadedModel
    from autofash.predict import load_model as load_model
    from autofash.records import EpochReport as EpochReport
    from autofash.records import FittedModel as FittedModel
    from autofash.records import State as State
    from autofash.records import StudySettings as StudySettings
    from autofash.records import StudySummary as StudySummary
    from autofash.records import TrialRecord as TrialRecord
    from autofash.space import Space
    from autofash.space import load_space as load_space
    from autofash.study import Confirmed, Study
    from autofash.study import list_studies as list_studies
    from autofash.study import load_study as load_study

__all__ = [
    "AutofashError",
    "Confirmed",
    "DataCorrupt",
    "DataError",
    "DataMissing",
    "EpochReport",
    "FittedModel",
    "Imported",
    "InfeasibleConfig",
    "Interrupted",
    "LedgerError",
    "LoadedModel",
    "NoTrial",
    "ResourceError",
    "Space",
    "SpaceError",
    "State",
    "Study",
    "StudyBusy",
    "StudyError",
    "StudyMismatch",
    "StudyMissing",
    "StudySettings",
    "StudySummary",
    "TrialRecord",
    "UnsafeFile",
    "UsageError",
    "confirm",
    "errors",
    "import_keras_tuner",
    "list_studies",
    "load_model",
    "load_space",
    "load_study",
    "records",
    "refit",
    "search",
]

_ELSEWHERE = {
    "Confirmed": "study",
    "EpochReport": "records",
    "FittedModel": "records",
    "Imported": "importing",
    "LoadedModel": "predict",
    "Space": "space",
    "State": "records",
    "Study": "study",
    "StudySettings": "records",
    "StudySummary": "records",
    "TrialRecord": "records",
    "import_keras_tuner": "importing",
    "list_studies": "study",
    "load_model": "predict",
    "load_space": "space",
    "load_study": "study",
}


def search(
    space: str | Path | Space | None = None,
    *,
    hypermodel: str | None = None,
    pixels: str | None = None,
    flat: bool | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    study: str | None = None,
    new_study: bool = False,
    trials: int | None = None,
    more: int | None = None,
    budget_seconds: float | None = None,
    target: float | None = None,
    workers: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    engine: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    objective: str | None = None,
    patience_seconds: float | None = None,
    storage: str | None = None,
    starters: bool | None = None,
    warm_start: str | None = None,
    listeners: Sequence[Listener] = (),
) -> Study:
    """Search a space for the best config, in as many processes as the machine has room for; called again, it resumes.

    space: name, file or Space; default cnn. hypermodel: your own code instead, "FILE.py:NAME" or "package.module:NAME", a
    KerasTuner build(hp) or HyperModel, or an Optuna-style define(trial) -> keras.Model; fed with pixels "raw", "unit" (default)
    or "standardized", flat or not. dataset: fashion_mnist, mnist, cifar10 or digits; default the first where it is
    found or can be fetched, else digits. trials: finished ones in all, default 50; more: raises that total.
    budget_seconds: wall clock. target: objective at which to stop, a fraction. epochs: most of each trial. engine: optuna or
    keras-tuner. sampler: tpe, random, grid, qmc, cmaes; of keras-tuner bayesian, random, hyperband, grid. pruner: asha,
    hyperband, median, none. objective: accuracy or macro_f1. patience_seconds: a trial that says nothing for so long is given up,
    default an hour. storage: database URL, default sqlite:///studies/studies.db. warm_start: another study of the storage, whose
    trials the sampler learns from; the best three of them run first. listeners: called with every event of the search.

    Raises UsageError, SpaceError, DataError, StudyError, NoTrial when nothing was completed, Interrupted upon Ctrl-C.
    """
    from autofash import loop
    from autofash.request import SearchRequest
    from autofash.study.storage import DEFAULT_STORAGE

    request = SearchRequest(
        space=str(space) if isinstance(space, Path) else space,
        hypermodel=hypermodel,
        pixels=pixels,
        flat=flat,
        dataset=dataset,
        data_dir=Path(data_dir) if data_dir is not None else None,
        study=study,
        new_study=new_study,
        trials=trials,
        more=more,
        budget_seconds=budget_seconds,
        target=target,
        workers=workers,
        epochs=epochs,
        seed=seed,
        engine=engine,
        sampler=sampler,
        pruner=pruner,
        objective=objective,
        patience_seconds=patience_seconds,
        storage=storage or DEFAULT_STORAGE,
        starters=starters,
        warm_start=warm_start,
    )
    return loop.search(request, listeners)


def confirm(
    study: Study | str | None = None,
    top: int = 3,
    seeds: int = 3,
    *,
    workers: int | None = None,
    data_dir: str | Path | None = None,
    listeners: Sequence[Listener] = (),
) -> list[Confirmed]:
    """Run a study's `top` best configs again over `seeds` seeds, and rank them by the lower bound of their mean.

    study: a Study, a name in the default storage, or None for the one last updated. From then on, `refit` takes the first of
    them. Called again, it resumes; with more configs or seeds, it runs those that are missing.
    Raises UsageError, NoTrial, StudyBusy, StudyMismatch, DataError, Interrupted.
    """
    from autofash import confirming

    folder = Path(data_dir) if data_dir is not None else None
    return confirming.confirm(_found(study), top, seeds, workers=workers, data_dir=folder, listeners=listeners)


def refit(
    study: Study | str | None = None,
    trial: int | None = None,
    *,
    ensemble: int = 1,
    tta: bool = False,
    formats: Sequence[str] = ("keras",),
    data_dir: str | Path | None = None,
) -> FittedModel:
    """Train a study's best config, or another trial's, on train + validation, test it once, save it, and prove every file.

    study: a Study, a name in the default storage, or None for the one last updated. trial: number; None for the best, as
    confirmed where it was. ensemble: average the models of this many of the best configs in one. tta: let the model itself
    average over mirror images. formats: keras, saved_model, litert, onnx, openvino.
    Raises NoTrial, StudyMissing, StudyBusy, UsageError, DataError, ResourceError where a format is not proven, Interrupted.
    """
    from autofash import export, refitting, runtimes

    for name in formats:
        runtimes.check_format(name, to_write=True)  # before anything is trained
    found, folder = _found(study), Path(data_dir) if data_dir is not None else None
    fitted = refitting.refit(found, trial, ensemble=ensemble, tta=tta, data_dir=folder)
    exported = export.export_study_model(found, fitted.folder, formats, data_dir=folder)
    export.check_exported(exported)
    return fitted


def _found(study: Study | str | None) -> Study:
    from autofash.study import load_study

    return load_study(study) if study is None or isinstance(study, str) else study


def __getattr__(name: str) -> object:
    if name == "records":
        return importlib.import_module("autofash.records")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"autofash.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module 'autofash' has no attribute {name!r}")
