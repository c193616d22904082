"""Gives a user's model the images as its author feeds them, and makes of it a model that takes pixels as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autofash.errors import InfeasibleConfig
from autofash.records import Config

Array = np.ndarray
DEVIATION_LEAST = 1e-6  # of a channel in which every pixel is alike


@dataclass(frozen=True)
class Feed:
    """How uint8 images (n, height, width, channels) become what a model was written for."""

    pixels: str  # raw, unit or standardized
    flat: bool
    squeezed: bool = False  # grey images without their channel: (height, width)
    mean: tuple[float, ...] = ()  # of each channel over the training images, where standardized
    deviation: tuple[float, ...] = ()

    @classmethod
    def of(cls, config: Config, images: Array) -> Feed:
        """That of a hypermodel's config, on these training images."""
        pixels, flat = str(config["pixels"]), bool(config["flat"])
        if pixels != "standardized":
            return cls(pixels, flat)
        axes = (0, 1, 2)
        return cls(
            pixels,
            flat,
            mean=tuple(images.mean(axis=axes, dtype=np.float64).tolist()),
            deviation=tuple(np.maximum(images.std(axis=axes, dtype=np.float64), DEVIATION_LEAST).tolist()),
        )

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Of one image as the model gets it."""
        return (int(np.prod(image_shape)),) if self.flat else image_shape[:2] if self.squeezed else image_shape

    def arrays(self, images: Array) -> Array:
        """The images as the model's author feeds them: uint8 where raw, else float32."""
        fed = images
        if self.pixels == "unit":
            fed = images.astype(np.float32) / np.float32(255)
        elif self.pixels == "standardized":
            fed = (images.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return fed.reshape(len(images), *self.shape(images.shape[1:]))

    def whole(self, model: keras.Model, image_shape: tuple[int, int, int], *, logits: bool) -> keras.Model:
        """The user's model with its feed in front, from uint8 images to probabilities in float32; its weights are shared.

        logits: its outputs are no probabilities yet.
        """
        inputs = keras.Input(image_shape, dtype="uint8")
        x: Any = inputs
        if self.pixels == "unit":
            x = keras.layers.Rescaling(1 / 255, dtype="float32")(x)
        elif self.pixels == "standardized":
            variance = [deviation**2 for deviation in self.deviation]
            x = keras.layers.Normalization(mean=list(self.mean), variance=variance, dtype="float32")(x)
        if self.flat or self.squeezed:
            x = keras.layers.Reshape(self.shape(image_shape), dtype=x.dtype)(x)
        x = model(x)
        return keras.Model(inputs, keras.layers.Activation("softmax" if logits else "linear", dtype="float32")(x))


def check_outputs(model: keras.Model, classes: int, source: str) -> None:
    """Raise InfeasibleConfig where a model does not put out one number for each class."""
    shape = tuple(model.output_shape) if not isinstance(model.output_shape, dict) else ()
    if len(shape) != 2 or shape[1] != classes:
        told = str(model.output_shape[1:] if shape else model.output_shape)
        raise InfeasibleConfig(
            f"the model puts out {told}, and the data have {classes} classes",
            f"Dense({classes}, activation='softmax')",
            where=source,
        )


def takes_grey(model: keras.Model, shape: tuple[int, ...]) -> bool:
    """Whether a model was written for images without a channel, of grey ones of this shape."""
    wanted = getattr(model, "input_shape", None)
    return isinstance(wanted, tuple) and len(wanted) == 3 and len(shape) == 3 and shape[2] == 1


def is_sparse(model: keras.Model) -> bool:
    """Whether a compiled model's loss takes labels rather than a row of classes for each image."""
    loss = _loss(model)
    return (
        "sparse"
        in str(loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")).lower()
    )


def puts_out_logits(model: keras.Model) -> bool:
    """Whether a model's outputs are no probabilities: its loss says so, or, of one that is not compiled, its last layer."""
    if model.compiled:
        loss = _loss(model)
        return bool(getattr(loss, "from_logits", False) or getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    last = model.layers[-1] if model.layers else None
    softmax = isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax
    return not softmax


def _loss(model: keras.Model) -> Any:
    """The loss of a compiled model, which may be one of a list or a table of outputs."""
    told = list(model.loss.values()) if isinstance(model.loss, Mapping) else model.loss
    return told[0] if isinstance(told, (list, tuple)) and told else told
