"""Several models, or several views of an image, averaged into one keras.Model."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def averaged(members: Sequence[keras.Model], *, flip: bool) -> keras.Model:
    """One model whose class probabilities are the mean of the members', and of each image's mirror image where asked for.

    members: from 1, of the same image shape and classes; they are renamed. flip: left to right, the usual test-time augmentation.
    The mirroring is a Keras operation in the model's own graph, so that every file made of it answers alike.
    """
    if len(members) == 1 and not flip:
        return members[0]
    pixels = keras.Input(members[0].input_shape[1:], dtype="uint8", name="pixels")
    views = [pixels, keras.ops.flip(pixels, axis=2)] if flip else [pixels]
    answers = []
    for number, member in enumerate(members):
        member.name = f"member_{number}"
        answers += [member(view, training=False) for view in views]
    mean = layers.Average(dtype="float32", name="mean_probabilities")(answers)
    return keras.Model(pixels, mean, name="ensemble" if len(members) > 1 else "flip_averaged")
