"""What the test showed: the predictions of a saved model, once its manifest vouches for them, as scores and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from autofash import manifest
from autofash.data.formats import read_npz
from autofash.errors import UnsafeFile
from autofash.intervals import Interval, wilson
from autofash.manifest import GALLERY, MANIFEST, PREDICTIONS
from autofash.records import Value

BINS = 15  # of the calibration, as in Guo et al. 2017
MOST_PAIRS = 10
MOST_MISTAKES, MOST_HITS = 24, 20
LARGEST_PICTURE = 64  # pixels of its longer side; a larger one is made smaller
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class fared, all fractions."""

    name: str
    precision: float | None  # None where nothing was taken for it
    recall: float | None  # None where there is no image of it
    f1: float | None  # None where there is neither
    support: int  # test images of it


@dataclass(frozen=True, slots=True)
class Pair:
    """A truth and what it was taken for."""

    truth: str
    taken_for: str
    images: int
    share: float  # of the truth's images


@dataclass(frozen=True, slots=True)
class Picture:
    """A test image, and what the model made of it."""

    row: int  # in the test set, from 0
    truth: str
    prediction: str
    probability: float  # of the prediction
    truth_probability: float  # of the truth
    image: str  # a PNG as a data URI
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose prediction was this sure."""

    low: float  # of the probability, excluded
    high: float  # included
    images: int
    confidence: float | None  # mean probability; None without an image
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a probability of 80 % is right in 80 of 100 cases. Source: Guo et al. 2017, arXiv:1706.04599."""

    error: float  # expected calibration error, a fraction: mean distance of confidence and accuracy, weighted by images
    confidence: float  # mean probability of the predictions
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Tested:
    """A saved model and its one test."""

    folder: str
    name: str  # of the folder: best, trial-7, ensemble-3-tta
    trials: tuple[int, ...]  # its members', one or more
    tta: bool  # it averages over each image's mirror image too
    epochs: int | None
    config: Mapping[str, Value]  # of its first member
    seed: int | None
    parameters: int | None
    created: str  # ISO date and time
    machine: str
    versions: Mapping[str, str]
    accuracy: Interval
    macro_f1: float  # mean over the classes; one that is neither there nor predicted counts as 0
    images: int
    train_accuracy: float | None
    validation_accuracy: float | None
    refit_seconds: float | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # images; a row for each truth, a column for each prediction
    pairs: tuple[Pair, ...]  # the most frequent first
    mistakes: tuple[Picture, ...]  # the surest first
    hits: tuple[Picture, ...]  # the surest of each class
    calibration: Calibration
    exports: Mapping[str, Mapping[str, Value]]  # format → figures


def tested(study: str, folder: Path) -> Tested | None:
    """The model of this study that was saved last below the folder, or None where there is none.

    Raises UnsafeFile where a manifest cannot be read, or a file is not what it vouches for.
    """
    found = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        told = manifest.read(path.parent)
        if told.get("study") == study and not path.parent.name.startswith("."):
            found.append((path.parent, told))
    try:
        return _read(*max(found, key=lambda entry: datetime.fromisoformat(entry[1]["created"]))) if found else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UnsafeFile(
            f"a manifest there does not describe what lies beside it ({type(error).__name__}: {error})",
            manifest.FIX,
            where=str(folder),
            code="E-MODEL-INCOMPLETE",
        ) from None


def _read(folder: Path, told: Mapping[str, Any]) -> Tested:
    kept = GALLERY in told["files"]  # a model of an earlier autofash has none
    manifest.verify(folder, told, [PREDICTIONS, GALLERY] if kept else [PREDICTIONS])
    names = tuple(str(name) for name in told["classes"])
    probabilities, labels = read_npz(folder / PREDICTIONS, ("probabilities", "labels"), kinds="iuf")
    if probabilities.shape != (len(labels), len(names)) or not np.isfinite(probabilities).all() or not len(labels):
        raise ValueError(f"probabilities {probabilities.shape} for {len(labels)} labels of {len(names)} classes")
    guesses = probabilities.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, guesses), 1)
    mistakes, hits = _pictures(folder, names, probabilities, labels) if kept else ((), ())
    classes = _class_scores(names, confusion)
    metrics = told["metrics"]
    return Tested(
        folder=str(folder),
        name=folder.name,
        trials=tuple(int(member["trial"]) for member in told.get("members") or [told]),
        tta=bool(told.get("tta")),
        epochs=told.get("epochs"),
        config=dict(told.get("config", {})),
        seed=told.get("seed"),
        parameters=metrics.get("parameters"),
        created=str(told["created"]),
        machine=str(told.get("machine", "")),
        versions={str(name): str(version) for name, version in told.get("versions", {}).items()},
        accuracy=wilson(float((guesses == labels).mean()), len(labels)),
        macro_f1=sum(score.f1 or 0.0 for score in classes) / len(classes),
        images=len(labels),
        train_accuracy=metrics.get("train_accuracy"),
        validation_accuracy=metrics.get("validation_accuracy"),
        refit_seconds=metrics.get("refit_seconds"),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        pairs=_pairs(names, confusion),
        mistakes=mistakes,
        hits=hits,
        calibration=calibration(probabilities, labels),
        exports={str(name): dict(figures) for name, figures in (told.get("exports") or {}).items()},
    )


def calibration(probabilities: Array, labels: Array) -> Calibration:
    """How far the probabilities (n, classes) can be taken at their word for the labels (n,), from one image."""
    sureness, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(sureness * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        some = bool(inside.any())
        bins.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                images=int(inside.sum()),
                confidence=float(sureness[inside].mean()) if some else None,
                accuracy=float(right[inside].mean()) if some else None,
            )
        )
    error = sum(part.images * abs((part.confidence or 0.0) - (part.accuracy or 0.0)) for part in bins) / len(labels)
    return Calibration(error, float(sureness.mean()), tuple(bins))


def _class_scores(names: tuple[str, ...], confusion: Array) -> tuple[ClassScore, ...]:
    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    scores = []
    for place, name in enumerate(names):
        hits = int(confusion[place, place])
        support, taken = int(confusion[place].sum()), int(confusion[:, place].sum())
        scores.append(
            ClassScore(name, share(hits, taken), share(hits, support), share(2 * hits, support + taken), support)
        )
    return tuple(scores)


def _pairs(names: tuple[str, ...], confusion: Array) -> tuple[Pair, ...]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    cells = [tuple(int(i) for i in np.unravel_index(place, wrong.shape)) for place in order]
    return tuple(
        Pair(names[truth], names[taken], int(wrong[truth, taken]), float(wrong[truth, taken] / confusion[truth].sum()))
        for truth, taken in cells
        if wrong[truth, taken]
    )


def _pictures(
    folder: Path, names: tuple[str, ...], probabilities: Array, labels: Array
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """The gallery's mistakes, the surest first, and its hits: of each class in turn the surest."""
    images, rows = read_npz(folder / GALLERY, ("images", "rows"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or len(images) != len(rows):
        raise ValueError(f"a gallery of {images.dtype} {images.shape} for {len(rows)} rows")
    guesses = probabilities.argmax(axis=1)
    places = sorted(range(len(rows)), key=lambda place: -float(probabilities[rows[place]].max()))
    wrong = [place for place in places if guesses[rows[place]] != labels[rows[place]]]
    right = [place for place in places if guesses[rows[place]] == labels[rows[place]]]
    turns: dict[int, int] = {}  # class → its hits so far
    rank = {}
    for place in right:
        label = int(labels[rows[place]])
        rank[place] = (turns.get(label, 0), label)
        turns[label] = turns.get(label, 0) + 1

    def picture(place: int) -> Picture:
        row = int(rows[place])
        truth, guess = int(labels[row]), int(guesses[row])
        return Picture(
            row=row,
            truth=names[truth],
            prediction=names[guess],
            probability=float(probabilities[row, guess]),
            truth_probability=float(probabilities[row, truth]),
            image=_png(images[place]),
            width=images.shape[2],
            height=images.shape[1],
        )

    return (
        tuple(picture(place) for place in wrong[:MOST_MISTAKES]),
        tuple(picture(place) for place in sorted(right, key=rank.__getitem__)[:MOST_HITS]),
    )


def _png(image: Array) -> str:
    """An image, uint8 (height, width, 1 or 3), as a data URI."""
    from PIL import Image

    drawn = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    drawn.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
