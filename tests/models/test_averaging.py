"""The average of the latest weights: what it is, and that the training does not notice it."""

import keras
import numpy as np
import pytest

from autofash.models.averaging import REACH, averaging

pytestmark = pytest.mark.keras
KINDS = [
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Lion,
    keras.optimizers.Muon,
]


def steps(
    kind: type[keras.optimizers.Optimizer], count: int
) -> tuple[keras.optimizers.Optimizer, list[list[np.ndarray]]]:
    """An optimizer after so many steps of one training, and the weights after each."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    model.compile(optimizer=kind(0.01), loss="mse")
    rng, weights = np.random.default_rng(0), []
    for _ in range(count):
        model.train_on_batch(rng.normal(size=(8, 5)), rng.normal(size=(8, 2)))
        weights.append([np.array(variable) for variable in model.trainable_variables])
    return model.optimizer, weights


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_polynomial_decay_averaging_and_the_weights_are_those_of_the_plain_optimizer(
    kind: type[keras.optimizers.Optimizer],
) -> None:
    optimizer, weights = steps(averaging(kind), 30)
    _, plain = steps(kind, 30)
    for one, other in zip(weights[-1], plain[-1], strict=True):
        assert np.array_equal(one, other)
    expected = weights[0]
    for step, now in enumerate(weights[1:], 2):
        share = (REACH + 1) / (step + REACH)
        expected = [(1 - share) * old + share * new for old, new in zip(expected, now, strict=True)]
    for average, wanted in zip(optimizer.averages, expected, strict=True):
        np.testing.assert_allclose(np.array(average), wanted, rtol=1e-4, atol=1e-6)


def test_what_an_optimizer_keeps_is_kept_once() -> None:
    optimizer, _ = steps(averaging(keras.optimizers.Adam), 1)
    names = [variable.path for variable in optimizer.variables]
    assert len(set(names)) == len(names) == 2 + 3 * 4, (
        "the step, the rate; two moments and an average of four variables"
    )
