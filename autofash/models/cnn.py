"""Plain convolutional networks: blocks of convolutions, each ending in a pooling."""

from __future__ import annotations

import keras
from keras import layers

from autofash.models.pieces import classified, headed, normalized, pixels, pooled


def cnn(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    conv_blocks: int = 3,
    depth: int = 1,
    width: int = 32,
    kernel_size: int = 3,
    pooling: str = "max",
    normalization: str = "none",
    activation: str = "relu",
    dropout: float = 0.0,
    head: str = "dense",
    head_units: int = 128,
    head_dropout: float = 0.0,
) -> keras.Model:
    """`conv_blocks` blocks of `depth` convolutions; each block halves the image, each after the first doubles the channels.

    width: channels of the first block. The pooling comes before normalization and activation, which then work on
    a quarter of the elements (docs/LOG.md has the figures). dropout: of whole channels, after each block
    (of single pixels it makes a step 1.6 times as long: random numbers are dear on a CPU).
    Raises InfeasibleConfig when the blocks pool away the last pixel.
    """
    inputs, x = pixels(image_shape)
    for block in range(conv_blocks):
        for layer in range(depth):
            x = layers.Conv2D(width * 2**block, kernel_size, padding="same", use_bias=normalization != "batch")(x)
            if layer == depth - 1:
                x = pooled(x, pooling)
            x = layers.Activation(activation)(normalized(x, normalization))
        if dropout:
            x = layers.SpatialDropout2D(dropout)(x)
    x = headed(x, head, head_units, head_dropout, activation)
    return keras.Model(inputs, classified(x, classes), name="cnn")
