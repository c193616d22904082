"""Small residual networks, pre-activation (He et al. 2016, arXiv:1603.05027)."""

from __future__ import annotations

import keras
from keras import layers

from autofash.models.pieces import classified, normalized, pixels, pooled


def resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    stages: int = 3,
    depth: int = 1,
    width: int = 32,
    stem: str = "conv",
    pooling: str = "max",
    normalization: str = "batch",
    activation: str = "relu",
    dropout: float = 0.0,
) -> keras.Model:
    """A stem, then `stages` stages of `depth` residual pairs of 3 × 3 convolutions; the channels double at each stage.

    stem: "conv" keeps the image's size and pools after it, "patch" steps over 4 × 4 pixels by 2 (a third of the work).
    width: channels of the first stage. dropout: before the classifier.
    Raises InfeasibleConfig when the stages pool away the last pixel.
    """
    inputs, x = pixels(image_shape)
    if stem == "patch":
        x = layers.Conv2D(width, 4, strides=2, padding="same")(x)
    else:
        x = pooled(layers.Conv2D(width, 3, padding="same")(x), pooling)
    for stage in range(stages):
        channels = width * 2**stage
        if stage:
            x = pooled(layers.Conv2D(channels, 1)(x), pooling)
        for _ in range(depth):
            shortcut = x
            for _ in range(2):
                x = layers.Activation(activation)(normalized(x, normalization))
                x = layers.Conv2D(channels, 3, padding="same")(x)
            x = layers.Add()([shortcut, x])
    x = layers.Activation(activation)(normalized(x, normalization))
    x = layers.GlobalAveragePooling2D()(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, classified(x, classes), name="resnet")
