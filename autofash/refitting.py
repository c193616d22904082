"""From the best config to a model that can be trusted: trained on train + validation, tested once, saved, reloaded, compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from autofash import data, hardware
from autofash.data.heldout import open_test
from autofash.errors import AutofashError, DataError, Interrupted, NoTrial, ResourceError, UnsafeFile
from autofash.executors import Executor, ProcessExecutor
from autofash.records import Ending, EpochReport, FittedModel, Outcome, Report, TrialRecord, TrialSpec, Verdict
from autofash.study import Study
from autofash.study.writer import epochs_of

FORMAT = 1
MODEL, MANIFEST, PREDICTIONS = "model.keras", "manifest.json", "test_predictions.npz"
LARGEST_DRIFT = 1e-4  # of a probability between the model in memory and the reloaded file, both float32 on one machine
COMPARED = 1000  # validation images
Watch = Callable[[str, int, int], None]  # what is being done, steps done, steps in all (0 where unknown)


def refit(
    study: Study,
    trial: int | None = None,
    *,
    epochs: int | None = None,
    data_dir: Path | None = None,
    command: str = "autofash.refit",
    watch: Watch | None = None,
    executor: Executor | None = None,
) -> FittedModel:
    """Train a trial's config on train + validation, test it once, save it, and prove that the file is the model.

    trial: number; None for the best. epochs: to train; None for the trial's best epoch. In either case the learning-rate
    schedule is the trial's own. command: noted in the ledger beside the opening of the test set. executor: where to train,
    and left open; None for one of its own.
    What was saved before for the same trial, and is intact, is returned as it is: nothing is trained or opened again.
    Raises NoTrial, UsageError, DataError, ResourceError, Interrupted.
    """
    record = study.best() if trial is None else study.trial(trial)
    epochs = epochs or record.best_epoch
    if epochs is None:
        raise NoTrial(f"trial {record.number} never finished an epoch", "another --trial")
    folder = study.folder / ("best" if trial is None else f"trial-{trial}")
    saved = _saved(folder, study, record, epochs)
    if saved is not None:
        return saved
    beside = _folder_beside(folder)
    runner = executor or ProcessExecutor("autofash.training", log=study.folder / "server.log")
    try:
        metrics = _refitted(study, record, epochs, data_dir, beside, command, watch or (lambda *_: None), runner)
        _replace(folder, beside)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted: nothing was saved, and an earlier export is untouched", "the same command again"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if runner is not executor:
            runner.close()
    return FittedModel(folder, folder / MODEL, metrics, record.number, repeated=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved model, once every file that it lists is what it vouches for.

    Raises UnsafeFile naming the file that is missing or was changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UnsafeFile(
            "there is no manifest that can be read",
            "autofash best --export",
            where=str(folder),
            code="E-MODEL-INCOMPLETE",
        ) from None
    for name, told in files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != told["sha256"]:
            raise UnsafeFile(
                "is missing, or is not what the manifest vouches for",
                "autofash best --export",
                where=str(path),
                code="E-MODEL-INCOMPLETE",
            )
    return manifest


def fit_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: train on train + validation, save the model in float32, reload it and compare.

    Raises ResourceError when the reloaded model answers otherwise than the one in memory.
    """
    import keras

    from autofash import models, training

    training.take_resources(spec)
    found = data.load(spec.data)
    images = np.concatenate([found.train_images, found.validation_images])
    labels = np.concatenate([found.train_labels, found.validation_labels])
    shape, classes = images.shape[1:], len(found.classes)
    model = training.compiled(spec, shape, classes, len(images))
    training.fit(model, spec, images, labels, None, classes, report, epochs=int(spec.options["epochs"]))

    # Whatever precision it was trained in, float32 is what is saved, tested and shipped.
    keras.config.set_dtype_policy("float32")
    final = models.build(spec.config, shape, classes)
    final.set_weights(model.get_weights())
    place = Path(spec.options["folder"]) / MODEL
    final.save(place)
    _sync(place)
    compared = found.validation_images[:COMPARED]
    drift = float(
        np.abs(
            training.probabilities(keras.models.load_model(place, safe_mode=True), compared)
            - training.probabilities(final, compared)
        ).max()
    )
    if not drift <= LARGEST_DRIFT:
        raise ResourceError(
            f"the saved file answers otherwise than the model: a probability differs by {drift:.2g}",
            "another trial",
            code="E-EXPORT-DRIFT",
        )
    return {
        "drift": drift,
        "parameters": final.count_params(),
        "train_accuracy": training.scores(training.probabilities(final, images), labels)["accuracy"],
    }


def test_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: open the test set, evaluate the saved file on it, and keep the predictions."""
    import keras

    from autofash import training

    training.take_resources(spec)
    folder = Path(spec.options["folder"])
    test = open_test(spec.options["dataset"], Path(spec.options["source"]))
    predicted = training.probabilities(keras.models.load_model(folder / MODEL, safe_mode=True), test.images)
    with (folder / PREDICTIONS).open("wb") as out:
        np.savez_compressed(out, probabilities=predicted, labels=test.labels)
    _sync(folder / PREDICTIONS)
    return {f"test_{name}": value for name, value in training.scores(predicted, test.labels).items()} | {
        "test_images": len(test.labels)
    }


def _refitted(
    study: Study,
    record: TrialRecord,
    epochs: int,
    data_dir: Path | None,
    folder: Path,
    command: str,
    watch: Watch,
    executor: Executor,
) -> dict[str, float]:
    settings = study.settings
    watch("reading the data", 0, 0)
    source = data.locate(settings.dataset, data_dir)
    prepared = data.prepare(settings.dataset, source, seed=settings.seed, validation=settings.validation)
    if prepared.fingerprint != settings.data_fingerprint:
        raise DataError(
            f"{settings.dataset} is not the data that {study.name} was searched on: "
            f"{settings.data_fingerprint[:12]} → {prepared.fingerprint[:12]}",
            "the earlier data, or a new study",
            code="E-DATA-CHANGED",
        )
    plan = hardware.plan(workers=1)
    log = study.folder / "refit.log"
    spec = TrialSpec(
        trial=record.number,
        config=record.config,
        seed=record.seed,
        epochs=epochs_of(record.config, settings.epochs),
        data=prepared.folder,
        task="autofash.refitting:fit_task",
        threads=plan.threads,
        precision=plan.precision,
        device=plan.device(0),
        log=str(log.absolute()),
        options={
            "folder": str(folder.absolute()),
            "epochs": epochs,
            "dataset": settings.dataset,
            "source": str(source.absolute()),
        },
    )
    watch("starting Keras", 0, 0)
    began = time.monotonic()
    fitted = _run(executor, spec, lambda said: watch("training on train + validation", said.epoch, epochs), log)
    seconds = time.monotonic() - began
    watch("opening the test set", epochs, epochs)
    # Noted before it is opened, so that no crash can hide an opening.
    opening = study.note_opening({"when": _now(), "command": command, "trial": record.number})
    testing = replace(spec, task="autofash.refitting:test_task", precision="float32")
    tested = _run(executor, testing, lambda _: None, log)
    study.note_result(opening, dict(tested))
    metrics = {
        **tested,
        **fitted,
        "validation_accuracy": _validation_accuracy(record),
        "refit_seconds": round(seconds, 3),
    }
    _write_manifest(folder, study, record, epochs, prepared, metrics)
    return metrics


def _validation_accuracy(record: TrialRecord) -> float:
    """Accuracy of the trial's best epoch, whatever the study's objective was."""
    return next((said.accuracy for said in record.reports if said.epoch == record.best_epoch), record.value or 0.0)


def _run(executor: Executor, spec: TrialSpec, on_report: Callable[[EpochReport], None], log: Path) -> Mapping[str, Any]:
    """One task from submit to its details. Raises ResourceError when it fails."""
    executor.submit(spec)
    while True:
        for event in executor.events(timeout_seconds=0.5):
            match event:
                case EpochReport():
                    on_report(event)
                    executor.reply(event.trial, Verdict.go())
                case Outcome() if event.ending is Ending.DONE:
                    return event.details
                case Outcome():
                    raise ResourceError(
                        f"refitting trial {spec.trial} failed: {event.reason}", f"look into {log}", code="E-REFIT"
                    )


def _saved(folder: Path, study: Study, record: TrialRecord, epochs: int) -> FittedModel | None:
    """The model that was saved for this very trial before, if every file of it is intact."""
    try:
        manifest = read_manifest(folder)
    except AutofashError:
        return None
    same = (manifest.get("study"), manifest.get("trial"), manifest.get("epochs"), manifest.get("data_fingerprint"))
    if same != (study.name, record.number, epochs, study.settings.data_fingerprint) or manifest.get("config") != dict(
        record.config
    ):
        return None
    return FittedModel(folder, folder / MODEL, manifest["metrics"], record.number, repeated=True)


def _write_manifest(
    folder: Path,
    study: Study,
    record: TrialRecord,
    epochs: int,
    prepared: data.PreparedData,
    metrics: Mapping[str, float],
) -> None:
    manifest = {
        "format": FORMAT,
        "study": study.name,
        "trial": record.number,
        "dataset": prepared.dataset,
        "classes": list(prepared.classes),
        "input": {"shape": list(prepared.image_shape), "dtype": "uint8", "range": [0, 255]},
        "output": "class probabilities, float32",
        "config": dict(record.config),
        "seed": record.seed,
        "epochs": epochs,
        "data_fingerprint": study.settings.data_fingerprint,
        "space_fingerprint": study.settings.space_fingerprint,
        "metrics": dict(metrics),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("autofash", "keras", "numpy", "tensorflow") if _installed(name)},
        },
        "machine": hardware.machine(),
        "created": _now(),
        "files": {
            name: {"sha256": _digest(folder / name), "bytes": (folder / name).stat().st_size}
            for name in (MODEL, PREDICTIONS)
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    _sync(folder / MANIFEST)


def _folder_beside(folder: Path) -> Path:
    """A new folder beside this one. Raises ResourceError before anything is trained when it cannot be written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ResourceError(
            f"cannot be written: {error.strerror}", f"chmod u+w {folder.parent}", where=str(folder), code="E-EXPORT-DIR"
        ) from None


def _replace(folder: Path, new: Path) -> None:
    """Put the new folder in the place of the old one, which stays whole until the new one is."""
    new.chmod(0o755)
    old = new.with_name(f"{new.name}-old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
