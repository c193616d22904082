"""Training and validation arrays, split once and kept as .npy files that every trial process maps into its memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from autofash.data.sources import Images, source
from autofash.errors import DataError, Problem, ResourceError, StudyMismatch
from autofash.records import StudySettings

Array = np.ndarray
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What a search knows of its data without opening an image."""

    folder: str  # holds the four arrays
    dataset: str
    fingerprint: str  # SHA-256 of training images, labels and class names, before the split
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width, channels
    train: int  # images
    validation: int  # images


@dataclass(frozen=True, slots=True)
class SearchData:
    """The images that a search may see, mapped, not copied: uint8 (n, h, w, c) and int64 (n,)."""

    train_images: Array
    train_labels: Array
    validation_images: Array
    validation_labels: Array
    classes: tuple[str, ...]


def prepare(dataset: str, folder: Path, *, seed: int, validation: float) -> PreparedData:
    """Split the training part of a data set, once, and keep it in the cache.

    folder: holds the verified files. seed: of the stratified split. validation: share of the training images that validate.
    Raises DataError where the data cannot be used, ResourceError where the cache cannot be written.
    """
    files = json.dumps([FORMAT, dataset, dict(source(dataset).files), seed, validation])
    place = cache_folder() / f"{dataset}-{hashlib.sha256(files.encode()).hexdigest()[:16]}"
    try:
        return _described(place)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: made anew
    try:
        return _written(place, dataset, folder, seed, validation)
    except OSError as error:
        raise ResourceError(
            f"the data cache cannot be written: {error.strerror}",
            "AUTOFASH_CACHE_DIR=a folder with room",
            where=str(place),
            code="E-CACHE",
        ) from None


def prepare_for(settings: StudySettings, folder: Path) -> PreparedData:
    """The data of a study that is there already, split as it was.

    Raises as `prepare` does, and StudyMismatch where the files hold other data than the study was searched on.
    """
    prepared = prepare(settings.dataset, folder, seed=settings.seed, validation=settings.validation)
    if prepared.fingerprint != settings.data_fingerprint:
        raise StudyMismatch(
            f"{settings.dataset} is not the data that the study was searched on: "
            f"{settings.data_fingerprint[:12]} → {prepared.fingerprint[:12]}",
            "the earlier data, or a new study",
            code="E-DATA-CHANGED",
        )
    return prepared


def load(folder: str | Path) -> SearchData:
    """The arrays of a prepared folder, memory-mapped."""
    place = Path(folder)
    arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
    return SearchData(**arrays, classes=tuple(json.loads((place / "data.json").read_text())["classes"]))


def cache_folder() -> Path:
    """Where prepared arrays lie: AUTOFASH_CACHE_DIR, else autofash in the user's cache folder."""
    if chosen := os.environ.get("AUTOFASH_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autofash"


def checked(images: Array, labels: Array, classes: tuple[str, ...], *, where: str) -> Images:
    """The images as every room expects them, or DataError with all that is wrong with them.

    images: uint8 (n, height, width) or (n, height, width, channels). labels: whole numbers (n,) or (n, 1).
    Its code is E-LABEL-RANGE or E-CLASS-EMPTY where nothing is wrong with the images.
    """
    images = images[..., None] if images.ndim == 3 else images
    problems, code = [], None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not all(images.shape[1:]):
        problems.append(
            Problem(f"images are {images.dtype} {images.shape}, want uint8 (n, height, width, 1 or 3)", "", where)
        )
    if labels.dtype.kind not in "iu":
        problems.append(Problem(f"labels are {labels.dtype}, want whole numbers", "labels.astype('int64')", where))
        raise DataError(problems)
    labels = labels.reshape(-1)
    if len(images) != len(labels):
        problems.append(
            Problem(f"{len(images):,} images but {len(labels):,} labels", "the files of one data set", where)
        )
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if outside.size:
        more = f", the first of {outside.size:,}" if outside.size > 1 else ""
        fact = f"row {outside[0]}: label {labels[outside[0]]}, want 0 to {len(classes) - 1}{more}"
        code = None if problems else "E-LABEL-RANGE"
        problems.append(Problem(fact, "labels from 0, in the order of the classes", where))
    else:
        labels = labels.astype(np.int64)
        empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if empty.size:
            code = None if problems else "E-CLASS-EMPTY"
            problems.append(
                Problem(f"no image of {', '.join(classes[i] for i in empty)}", "leave the class out", where)
            )
    if problems:
        raise DataError(problems, code=code)
    return Images(np.ascontiguousarray(images), labels, classes)


_ARRAYS = ("train_images", "train_labels", "validation_images", "validation_labels")


def _described(place: Path) -> PreparedData:
    told = json.loads((place / "data.json").read_text())
    prepared = PreparedData(
        **{**told, "folder": str(place), "classes": tuple(told["classes"]), "image_shape": tuple(told["image_shape"])}
    )
    data = load(place)  # raises ValueError when a file is cut short
    if (len(data.train_images), len(data.validation_images)) != (prepared.train, prepared.validation):
        raise ValueError("the arrays are not the described ones")
    return prepared


def _written(place: Path, dataset: str, folder: Path, seed: int, validation: float) -> PreparedData:
    wanted = source(dataset)
    whole = checked(*wanted.train(folder), wanted.classes, where=dataset)
    from sklearn.model_selection import train_test_split

    try:
        train, held = train_test_split(
            np.arange(len(whole.labels)), test_size=validation, random_state=seed, stratify=whole.labels
        )
    except ValueError as error:
        raise DataError(f"{dataset} cannot be split: {error}", "another validation share") from None
    train, held = np.sort(train), np.sort(held)
    prepared = PreparedData(
        folder=str(place),
        dataset=dataset,
        fingerprint=_fingerprint(whole),
        classes=whole.classes,
        image_shape=whole.images.shape[1:],
        train=len(train),
        validation=len(held),
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        parts = (whole.images[train], whole.labels[train], whole.images[held], whole.labels[held])
        for name, array in zip(_ARRAYS, parts, strict=True):
            with (beside / f"{name}.npy").open("wb") as out:
                np.save(out, array, allow_pickle=False)
                out.flush()
                os.fsync(out.fileno())
        (beside / "data.json").write_text(json.dumps(asdict(prepared)))
        if place.exists():  # damaged, or made by another process a moment ago; either way ours is whole
            shutil.rmtree(place, ignore_errors=True)
        try:
            beside.rename(place)
        except OSError:
            return _described(place)  # another process was quicker
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return prepared


def _fingerprint(data: Images) -> str:
    digest = hashlib.sha256(json.dumps([data.images.shape, data.classes]).encode())
    digest.update(data.images.tobytes())
    digest.update(data.labels.tobytes())
    return digest.hexdigest()
