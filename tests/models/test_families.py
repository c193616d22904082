"""Real Keras models of every family."""

import json
import random
from pathlib import Path

import keras
import numpy as np
import pytest

from autofash.errors import InfeasibleConfig
from autofash.models import FAMILIES, build
from autofash.space import load_space

pytestmark = pytest.mark.keras
SHAPES = [(28, 28, 1), (32, 32, 3), (8, 8, 1)]


def images(shape: tuple[int, int, int], count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_family_turns_bytes_into_probabilities_with_its_defaults(family: str, shape: tuple[int, int, int]) -> None:
    model = build({"family": family}, shape, 7)
    assert model.input.dtype == "uint8" and not model.compiled
    predicted = np.asarray(model(images(shape)))
    assert predicted.shape == (4, 7) and predicted.dtype == np.float32
    assert predicted.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "all"])
def test_random_configs_of_a_shipped_space_can_be_built_on_every_shape(name: str) -> None:
    space = load_space(name)
    for seed in range(4):
        for shape in SHAPES:
            assert build(space.expand(space.sample(random.Random(seed))), shape, 10).count_params() > 0


def test_a_prefixed_parameter_reaches_its_family_and_no_other() -> None:
    wide = build({"family": "cnn", "cnn_width": 8, "resnet_width": 64}, (28, 28, 1), 10)
    assert wide.count_params() == build({"family": "cnn", "width": 8}, (28, 28, 1), 10).count_params()


def test_six_poolings_on_28_pixels_are_infeasible_and_say_why() -> None:
    with pytest.raises(InfeasibleConfig, match="a pooling too many: 1 × 1 pixels are left"):
        build({"family": "cnn", "conv_blocks": 6}, (28, 28, 1), 10)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_saved_file_names_only_layers_of_keras_and_loads_in_safe_mode(family: str, tmp_path: Path) -> None:
    model = build({"family": family, "normalization": "batch", "dropout": 0.1}, (28, 28, 1), 10)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert np.asarray(loaded(images((28, 28, 1)))) == pytest.approx(np.asarray(model(images((28, 28, 1)))))
    modules = {layer["module"] for layer in json.loads(model.to_json())["config"]["layers"]}
    assert modules == {"keras.layers"}


def test_mixed_precision_still_answers_in_float32() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build({"family": "cnn", "normalization": "batch"}, (28, 28, 1), 10)
        assert np.asarray(model(images((28, 28, 1)))).dtype == np.float32
    finally:
        keras.config.set_dtype_policy("float32")
