"""A model's folder without a model: predictions made by hand, and the pictures and manifest that go with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autofash import manifest
from autofash.study import Study

IMAGES = 300
DIGITS = tuple(str(digit) for digit in range(10))


def predictions(images: int = IMAGES, classes: int = 10, *, sure: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a model that is mostly right; the surer, the oftener."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    logits = rng.normal(0, 1.6, (images, classes))
    logits[np.arange(images), labels] += sure
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels.astype(np.int64)


def save(
    study: Study,
    folder: str = "best",
    /,
    *,
    names: Sequence[str] = DIGITS,
    drawn: tuple[np.ndarray, np.ndarray] | None = None,
    channels: int = 1,
    **more: object,
) -> Path:
    """Write the folder of a model of the study's best trial.

    names: of the classes. drawn: probabilities and labels. more: keys of the manifest that are to be otherwise.
    """
    probabilities, labels = drawn or predictions(classes=len(names))
    place = study.folder / folder
    place.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(place / manifest.PREDICTIONS, probabilities=probabilities, labels=labels)
    rows = np.concatenate(
        [
            np.flatnonzero(probabilities.argmax(axis=1) != labels)[:30],
            np.flatnonzero(probabilities.argmax(axis=1) == labels)[:20],
        ]
    )
    images = np.random.default_rng(1).integers(0, 256, (len(rows), 8, 8, channels), dtype=np.uint8)
    np.savez_compressed(place / manifest.GALLERY, images=images, rows=rows)
    best = study.best()
    told = {
        "format": manifest.FORMAT,
        "study": study.name,
        "trial": best.number,
        "dataset": study.settings.dataset,
        "classes": list(names),
        "config": dict(best.config),
        "seed": best.seed,
        "epochs": best.best_epoch,
        "tta": False,
        "metrics": {"train_accuracy": 0.99, "validation_accuracy": best.value, "parameters": 7, "refit_seconds": 12.5},
        "versions": {"keras": "3.15.1"},
        "machine": "a small one",
        "created": "2026-11-21T14:05:00+00:00",
        "exports": {},
        **more,
    }
    manifest.write(place, told, [manifest.PREDICTIONS, manifest.GALLERY])
    return place
