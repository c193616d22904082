"""What TensorFlow's input pipelines need so that nobody waits for them."""

from __future__ import annotations

import tensorflow as tf


def end_at_once() -> None:
    """Let this process's tf.data iterators end when their last batch is taken. Keras makes one for each fit, epoch and predict.

    tf.data tunes each in a thread that sleeps 10 ms, then 20, 40 …, and often sleeps on when the iterator is to end: 5.5
    seconds of training then took the 10.23 that those sleeps add up to. Keras's batches have nothing to tune. A dataset that
    says itself whether it wants to be tuned gets its way.
    """
    if tf.data.Dataset.__iter__ is not _iterator:
        tf.data.Dataset.__iter__ = _iterator


def _iterator(dataset: tf.data.Dataset) -> object:
    if dataset.options().autotune.enabled is None:
        dataset = dataset.with_options(_UNTUNED)
    return _MADE_BY_TENSORFLOW(dataset)


_MADE_BY_TENSORFLOW = tf.data.Dataset.__iter__
_UNTUNED = tf.data.Options()
_UNTUNED.autotune.enabled = False
