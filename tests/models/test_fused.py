"""The fused batch normalization against Keras's own."""

from pathlib import Path

import keras
import numpy as np
import pytest

from autofash.models import build
from autofash.models.fused import fuse_normalization

pytestmark = pytest.mark.keras
CONFIG = {"family": "cnn", "conv_blocks": 2, "depth": 2, "width": 8, "normalization": "batch", "head_units": 16}


def trained(*, fused: bool, precision: str = "float32") -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        keras.utils.set_random_seed(3)
        model = build(CONFIG, (12, 12, 1), 4)
    finally:
        keras.config.set_dtype_policy(before)
    if fused:
        fuse_normalization(model)
    model.compile(keras.optimizers.SGD(0.05), "categorical_crossentropy")
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (96, 12, 12, 1), dtype=np.uint8)
    model.fit(images, np.eye(4)[rng.integers(0, 4, 96)], batch_size=32, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)])
def test_a_fused_training_ends_with_the_weights_and_averages_of_a_plain_one(precision: str, tolerance: float) -> None:
    plain, fused = trained(fused=False, precision=precision), trained(fused=True, precision=precision)
    for ours, theirs in zip(fused.weights, plain.weights, strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=tolerance), ours.path


def test_what_is_saved_after_a_fused_training_is_keras_own_layer_and_answers_alike(tmp_path: Path) -> None:
    model = trained(fused=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kinds = [type(layer) for layer in loaded.layers if "Normalization" in type(layer).__name__]
    assert kinds == [keras.layers.BatchNormalization] * 4
    images = np.random.default_rng(2).integers(0, 256, (16, 12, 12, 1), dtype=np.uint8)
    assert np.array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
