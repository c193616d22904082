"""Batch normalization by TensorFlow's fused op while a model trains.

Keras computes moments, normalization and their gradients op by op, each a pass over memory: a third of a convolutional
step on a CPU. What is replaced is the call of the layers, for training, in this process: what predicts, and what is saved,
is Keras's own BatchNormalization.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def fuse_normalization(model: keras.Model) -> None:
    """Let the model's batch normalizations of images train by the fused op; with another backend, change nothing."""
    if keras.backend.backend() != "tensorflow":
        return
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and _can_be_fused(layer):
            layer.call = _fused(layer)


def _can_be_fused(layer: keras.layers.BatchNormalization) -> bool:
    rank = len(layer.output.shape)
    plain = layer.scale and layer.center and not layer.renorm and not layer.synchronized
    return plain and rank == 4 and layer.axis in (-1, 3)


def _fused(layer: keras.layers.BatchNormalization) -> Callable[..., Any]:
    import tensorflow as tf

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training or not layer.trainable or mask is not None:
            return type(layer).call(layer, inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, layer.gamma, layer.beta, epsilon=layer.epsilon, is_training=True
        )
        # The op's variance is that of the population; Keras averages that of the batch.
        count = tf.cast(tf.size(inputs), "float32") / inputs.shape[-1]
        old = layer.momentum
        layer.moving_mean.assign(old * layer.moving_mean + (1 - old) * mean)
        layer.moving_variance.assign(old * layer.moving_variance + (1 - old) * variance * (count - 1) / count)
        return outputs

    return call
