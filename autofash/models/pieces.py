"""What the families share: the way in, normalization, pooling, heads and the way out."""

from __future__ import annotations

import keras
from keras import layers

from autofash.errors import InfeasibleConfig


def pixels(image_shape: tuple[int, int, int]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The uint8 input (batch, height, width, channels), and the same scaled to -1 to 1."""
    inputs = keras.Input(image_shape, dtype="uint8", name="pixels")
    return inputs, layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(inputs)


def normalized(x: keras.KerasTensor, normalization: str) -> keras.KerasTensor:
    """x after the normalization of this name: none, batch, layer or group."""
    match normalization:
        case "none":
            return x
        case "batch":
            # 0.99, Keras's default, forgets the averages that it began with only after some 500 steps: a look before that,
            # or a training on few images, would see a badly calibrated model.
            return layers.BatchNormalization(momentum=0.9)(x)
        case "layer":
            return layers.LayerNormalization()(x)
        case "group":
            channels = int(x.shape[-1])
            return layers.GroupNormalization(groups=max(g for g in (8, 4, 2, 1) if channels % g == 0))(x)
        case _:
            raise InfeasibleConfig(f"there is no normalization {normalization!r}")


def pooled(x: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """x (batch, height, width, channels) at half its height and width, by max or average pooling.

    Raises InfeasibleConfig where there is only one pixel left.
    """
    if min(x.shape[1], x.shape[2]) < 2:
        raise InfeasibleConfig(f"a pooling too many: {x.shape[1]} × {x.shape[2]} pixels are left")
    layer = layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D
    return layer(2, padding="same")(x)


def headed(x: keras.KerasTensor, head: str, head_units: int, head_dropout: float, activation: str) -> keras.KerasTensor:
    """Feature maps (batch, height, width, channels) as one vector an image.

    head: "average" takes the mean of each channel; "dense" flattens, and adds a hidden layer of head_units with dropout.
    """
    if head == "average":
        return layers.GlobalAveragePooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(head_units, activation=activation)(x)
    return layers.Dropout(head_dropout)(x) if head_dropout else x


def classified(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    """Class probabilities (batch, classes), float32 whatever the precision of the rest."""
    x = layers.Dense(classes, name="logits")(x)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(x)
