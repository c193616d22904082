"""The steps of a refit, each in a trial's process: train, assemble, test. Here, and nowhere else, the test set is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from autofash import data, manifest, models, training
from autofash.checkpoint import Checkpoint
from autofash.data.heldout import open_test
from autofash.errors import ResourceError
from autofash.manifest import GALLERY, MODEL, PREDICTIONS
from autofash.models.ensembles import averaged
from autofash.records import Report, TrialSpec
from autofash.runtimes import open_keras
from autofash.space import HYPERMODEL

LARGEST_DRIFT = 1e-4  # of a probability between the model in memory and the reloaded file, both float32 on one machine
COMPARED = 1000  # validation images
WORST, SUREST = 30, 20  # test images that are kept for galleries
Array = np.ndarray


def fit_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: train on train + validation, from the checkpoint if there is one, and save the model in float32."""
    training.take_resources(spec)
    found = data.load(spec.data)
    images, labels = _everything(found)
    shape, classes = images.shape[1:], len(found.classes)
    file = Path(spec.options["file"])
    checkpoint = file.with_suffix(".checkpoint")
    epochs, kept = int(spec.options["epochs"]), Checkpoint(checkpoint)
    if spec.config["family"] == HYPERMODEL:
        from autofash import hypermodels

        validation = (found.validation_images, found.validation_labels)
        final = hypermodels.refitted(spec, images, labels, validation, classes, report, epochs=epochs, checkpoint=kept)
    else:
        model = training.compiled(spec, shape, classes, len(images))
        training.fit(
            model, spec, images, labels, None, classes, report, epochs=epochs, checkpoint=kept, keep_each_epoch=True
        )
        # Whatever precision it was trained in, float32 is what is saved, tested and shipped.
        keras.config.set_dtype_policy("float32")
        final = models.build(spec.config, shape, classes)
        final.set_weights(model.get_weights())
    _save(final, file)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return {}


def assemble_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: make one model of the members, save it, reload it and compare.

    Raises ResourceError when the reloaded model answers otherwise than the one in memory.
    """
    training.take_resources(spec)
    members = [open_keras(Path(file)) for file in spec.options["members"]]
    model = averaged(members, flip=bool(spec.options["flip"]))
    file = Path(spec.options["folder"]) / MODEL
    _save(model, file)
    found = data.load(spec.data)
    compared = found.validation_images[:COMPARED]
    reloaded = open_keras(file)
    drift = float(np.abs(training.probabilities(reloaded, compared) - training.probabilities(model, compared)).max())
    if not drift <= LARGEST_DRIFT:
        raise ResourceError(
            f"the saved file answers otherwise than the model: a probability differs by {drift:.2g}",
            "another trial",
            code="E-EXPORT-DRIFT",
        )
    images, labels = _everything(found)
    metrics = {
        "drift": drift,
        "parameters": model.count_params(),
        "train_accuracy": training.scores(training.probabilities(model, images), labels)["accuracy"],
    }
    return _note(spec, {"metrics": metrics, "input": _background(images)})


def test_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: open the test set, evaluate the saved file on it, and keep what reports will want to show."""
    training.take_resources(spec)
    folder = Path(spec.options["folder"])
    test = open_test(spec.options["dataset"], Path(spec.options["source"]))
    model = open_keras(folder / MODEL)
    predicted = training.probabilities(model, test.images)
    rows = _telling(predicted, test.labels)
    for name, arrays in (
        (PREDICTIONS, {"probabilities": predicted, "labels": test.labels}),
        (GALLERY, {"images": test.images[rows], "rows": rows}),
    ):
        with (folder / name).open("wb") as out:
            np.savez_compressed(out, **arrays)
        manifest.sync(folder / name)
    scores = {f"test_{name}": value for name, value in training.scores(predicted, test.labels).items()}
    return _note(spec, {**scores, "test_images": len(test.labels)})


def _telling(predicted: Array, labels: Array) -> Array:
    """Rows of the images that tell most: the surest mistakes first, then the surest hits, several of each class among them."""
    guesses, sureness = predicted.argmax(axis=1), predicted.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:WORST]
    classes = predicted.shape[1]
    each = max(1, SUREST // classes)
    hits = []
    for label in range(classes):
        right = np.flatnonzero((guesses == labels) & (labels == label))
        hits.append(right[np.argsort(-sureness[right], kind="stable")][:each])
    return np.concatenate([worst, *hits]).astype(np.int64)


def _background(images: Array) -> dict[str, Any]:
    """What lies behind the objects: median grey level of the outermost pixels, and "dark", "light" or "mixed" in words."""
    sample = images[:: max(1, len(images) // 2000)]
    frame = np.concatenate([sample[:, 0], sample[:, -1], sample[:, :, 0], sample[:, :, -1]], axis=1)
    dark, light = float((frame < 64).mean()), float((frame > 191).mean())
    word = "dark" if dark > 0.6 else "light" if light > 0.6 else "mixed"
    return {"border": float(np.median(frame)), "background": word}


def _everything(found: data.SearchData) -> tuple[Array, Array]:
    images = np.concatenate([found.train_images, found.validation_images])
    return images, np.concatenate([found.train_labels, found.validation_labels])


def _save(model: Any, file: Path) -> None:
    """Save beside the place, and rename: a full disk or a kill leaves no half file under the final name."""
    beside = file.with_name(f"new-{file.name}")
    model.save(beside)
    manifest.put(beside, file, "artifact")


def _note(spec: TrialSpec, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep a step's result where a later attempt finds it."""
    done = Path(spec.options["done"])
    beside = done.with_suffix(".new")
    beside.write_text(json.dumps(result))
    manifest.put(beside, done, "artifact")
    return result
