"""Multi-layer perceptrons: the image as one row of numbers."""

from __future__ import annotations

import keras
from keras import layers

from autofash.models.pieces import classified, normalized, pixels


def mlp(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    depth: int = 2,
    width: int = 256,
    taper: float = 1.0,
    normalization: str = "none",
    activation: str = "relu",
    dropout: float = 0.0,
) -> keras.Model:
    """Flatten, then `depth` dense layers.

    depth: hidden layers, from 0. width: units of the first. taper: each next layer has this share of the one
    before it, above 0 to 1. normalization: before each activation. dropout: after each activation, 0 to below 1.
    """
    inputs, x = pixels(image_shape)
    x = layers.Flatten()(x)
    for layer in range(depth):
        x = layers.Dense(max(classes, round(width * taper**layer)), use_bias=normalization != "batch")(x)
        x = layers.Activation(activation)(normalized(x, normalization))
        if dropout:
            x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, classified(x, classes), name="mlp")
