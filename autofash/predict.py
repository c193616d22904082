"""Images to labels and probabilities, by a saved model in any of its formats, as far as its manifest vouches for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from autofash import manifest
from autofash.data.pictures import LARGEST_PICTURE, LONGEST_SIDE, ModelInput, Pictures, read_pictures
from autofash.errors import UnsafeFile, UsageError
from autofash.runtimes import FORMATS, Predictor, check_format, probabilities

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A saved model whose files are what its manifest vouches for; nothing of it is loaded yet."""

    folder: Path  # holds manifest.json
    format: str  # a name in runtimes.FORMATS
    manifest: Mapping[str, Any]
    classes: tuple[str, ...]  # in the order of the probabilities
    input: ModelInput

    def read(
        self, paths: str | Path | Iterable[str | Path], *, invert: str = "auto", skip_bad: bool = False
    ) -> Pictures:
        """Picture files, folders and .npz files as this model wants them; see data.pictures.read_pictures."""
        return read_pictures(paths, self.input, invert=invert, skip_bad=skip_bad)


@dataclass(frozen=True, slots=True)
class LoadedModel(SavedModel):
    """A saved model in its runtime, ready to predict."""

    predictor: Predictor

    def predict(self, images: Array) -> Array:
        """Class probabilities, float32 (n, classes), each row sums to 1.

        images: uint8 (n, height, width, channels), 0 to 255, and (n, height, width) where the model reads grey; n from 0.
        Raises UsageError for anything else: nothing is scaled, resized or inverted here, that is what `read` does.
        """
        checked = _checked(images, self.input)
        if not len(checked):
            return np.zeros((0, len(self.classes)), np.float32)
        found = probabilities(self.predictor, checked)
        if found.shape != (len(checked), len(self.classes)):
            raise UnsafeFile(
                f"answers with {found.shape[1:]} numbers an image, and its manifest names {len(self.classes)} classes",
                manifest.FIX,
                where=str(self.folder),
                code="E-MODEL-INCOMPLETE",
            )
        return found


def load_model(model: str | os.PathLike[str] | SavedModel) -> LoadedModel:
    """A saved model, loaded: `load_model("studies/fashion_mnist-cnn/best").predict(images)`.

    model: its folder, for model.keras; or one exported file or folder in it (model.onnx, model.tflite, saved_model, openvino),
    which then runs in its own runtime; or what find_model has found.
    Raises UsageError where there is no such model or its format's extra is not installed, and UnsafeFile where no manifest
    vouches for the files, or they hold anything else than layers of Keras.
    """
    saved = model if isinstance(model, SavedModel) else find_model(model)
    found = check_format(saved.format)
    told = {field.name: getattr(saved, field.name) for field in fields(SavedModel)}
    return LoadedModel(**told, predictor=found.load(saved.folder / found.path))


def find_model(path: str | os.PathLike[str]) -> SavedModel:
    """The model of this folder, file or exported folder, its files compared with the manifest, in milliseconds.

    Raises as load_model does.
    """
    place = Path(path)
    if not os.path.exists(place):
        raise UsageError("there is no such model", f"{manifest.FIX}, which makes one", where=str(place))
    formats = {found.path: found.name for found in FORMATS.values()}
    if os.path.exists(place / manifest.MANIFEST):
        folder, name = place, "keras"
    elif not os.path.exists(place.parent / manifest.MANIFEST):
        raise UnsafeFile(
            "there is no manifest beside it that vouches for it",
            f"{manifest.FIX}, then its folder",
            where=str(place),
            code="E-MODEL-INCOMPLETE",
        )
    elif place.name not in formats:
        raise UsageError("is no model", f"the folder, or one of {', '.join(formats)} in it", where=str(place))
    else:
        folder, name = place.parent, formats[place.name]
    found = check_format(name)
    told = manifest.read(folder)
    manifest.verify(folder, told, [found.path])
    try:
        classes, wanted = tuple(told["classes"]), _model_input(told["input"])
        if not classes or not all(isinstance(label, str) for label in classes):
            raise ValueError("no classes")
    except (KeyError, TypeError, ValueError):
        raise UnsafeFile(
            "the manifest does not say which images the model reads, or which classes it knows",
            manifest.FIX,
            where=str(folder / manifest.MANIFEST),
            code="E-MODEL-INCOMPLETE",
        ) from None
    return SavedModel(folder, name, told, classes, wanted)


def ranked(probabilities: Array, classes: tuple[str, ...], most: int) -> list[list[tuple[str, float]]]:
    """For each row of probabilities (n, classes) the likeliest labels with theirs, the likeliest first, at most this many."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    return [
        [(classes[column], float(row[column])) for column in columns]
        for row, columns in zip(probabilities, order, strict=True)
    ]


def _model_input(told: Mapping[str, Any]) -> ModelInput:
    """What the manifest says about the input. Raises KeyError, TypeError or ValueError where it makes no sense."""
    height, width, channels = told["shape"]
    border, background = told.get("border", 0), told.get("background", "mixed")
    if not all(isinstance(size, int) and size > 0 for size in (height, width, channels)):
        raise ValueError("no sizes")
    if height * width > LARGEST_PICTURE or max(height, width) > LONGEST_SIDE or channels not in (1, 3):
        raise ValueError("no shape of an image")
    if not 0 <= border <= 255 or background not in ("dark", "light", "mixed"):
        raise ValueError("no grey level, or no background")
    return ModelInput(height, width, channels, round(border), background)


def _checked(images: Array, wanted: ModelInput) -> Array:
    shape = (wanted.height, wanted.width, wanted.channels)
    found = np.asarray(images)
    if found.dtype != np.uint8:
        fix = "images.astype('uint8'), if they reach from 0 to 255"
        if found.dtype.kind == "f" and found.size and found.max() <= 1:
            fix = "(images * 255).round().astype('uint8')"
        raise UsageError(f"the images are {found.dtype}, want uint8, 0 to 255: the model rescales by itself", fix)
    if found.ndim == 3 and wanted.channels == 1 and found.shape[1:] == shape[:2]:
        found = found[..., None]
    if found.shape[1:] != shape:
        one = found.shape in (shape, shape[:2])
        fix = "images[None], for a single one" if one else "the model's read(paths), which resizes pictures"
        want = f"(n, {', '.join(str(size) for size in shape)})"
        raise UsageError(f"the images are {found.shape}, want {want}", fix)
    return np.ascontiguousarray(found)
