"""No thread that tunes a pipeline is left to wait for."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.data is TensorFlow's", allow_module_level=True)

import tensorflow as tf

from autofash.data import untuned

pytestmark = pytest.mark.keras


def test_an_iterator_is_not_tuned_unless_its_dataset_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made, iterator = [], untuned._MADE_BY_TENSORFLOW

    def noted(dataset: tf.data.Dataset) -> object:
        made.append(dataset.options().autotune.enabled)
        return iterator(dataset)

    untuned.end_at_once()
    monkeypatch.setattr(untuned, "_MADE_BY_TENSORFLOW", noted)
    asked = tf.data.Options()
    asked.autotune.enabled = True
    numbers = (
        tf.data.Dataset.range(5).map(lambda x: x + 1, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    )
    assert (
        [int(number) for number in numbers]
        == [int(number) for number in numbers.with_options(asked)]
        == [1, 2, 3, 4, 5]
    )
    assert made == [False, True]


def test_fit_and_predict_are_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    made, iterator = [], untuned._MADE_BY_TENSORFLOW
    untuned.end_at_once()
    monkeypatch.setattr(
        untuned,
        "_MADE_BY_TENSORFLOW",
        lambda dataset: made.append(dataset.options().autotune.enabled) or iterator(dataset),
    )
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    images = np.zeros((8, 3), dtype=np.float32)
    model.fit(images, images[:, :1], epochs=2, verbose=0)
    model.predict(images, verbose=0)
    assert made and not any(made)


def test_saying_it_twice_changes_nothing_more() -> None:
    untuned.end_at_once()
    once = tf.data.Dataset.__iter__
    untuned.end_at_once()
    assert tf.data.Dataset.__iter__ is once
