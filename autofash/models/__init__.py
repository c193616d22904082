"""Model families: pure functions of a config, an image shape and a number of classes to an uncompiled keras.Model.

Standard Keras layers only, so that a saved file loads anywhere. Pixels come in as uint8, 0 to 255, and the
rescaling is the first layer, so that nobody who uses the model has to know it. Class probabilities come out in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from autofash.errors import InfeasibleConfig
from autofash.models.cnn import cnn
from autofash.models.mlp import mlp
from autofash.models.resnet import resnet
from autofash.records import Config

FAMILIES: dict[str, Callable[..., keras.Model]] = {"mlp": mlp, "cnn": cnn, "resnet": resnet}


def build(config: Config, image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """The uncompiled model of a config.

    config: `family` and that family's parameters; a parameter that is left out takes the family's default, and
    one for training (learning_rate …) is not looked at. In a space that searches the family, parameters may carry
    the family's name in front (`cnn_width`).
    image_shape: (height, width, channels) in pixels. classes: number of classes, from 2.
    Raises InfeasibleConfig where no model can be built, such as more poolings than the image has pixels to give.
    """
    family = str(config["family"])
    function = FAMILIES[family]
    names = set(inspect.signature(function).parameters)
    options: dict[str, Any] = {}
    for name, value in config.items():
        plain = name.removeprefix(f"{family}_")
        if plain in names:
            options[plain] = value
    try:
        return function(image_shape, classes, **options)
    except ValueError as error:  # Keras's word for shapes that do not fit
        raise InfeasibleConfig(
            f"{family} cannot be built on {image_shape} images: {str(error).splitlines()[0]}"
        ) from error
