"""Optimizers that average a training's latest weights, which answer as those of a lower learning rate would.

Weights that are trained at a constant rate wander around a better place; their average is that place, without the epochs
that it takes to let the rate fall. What is averaged changes nothing of the training: a look borrows the average, and the
next step goes on from the weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras

REACH = 12  # the average reaches back over the latest thirteenth of all steps, whenever one looks


@cache
def averaging(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """A Keras optimizer's class, with `averages`: the polynomial-decay average of each trainable variable, in their order.

    Source: Shamir & Zhang 2013, arXiv:1212.1824, section 4; REACH is their eta. A share of all steps, and no fixed number of
    them, serves the first hundred steps and the ten thousandth alike.
    """

    class Averaging(kind):
        def build(self, variables: Sequence[keras.Variable]) -> None:
            if not self.built:
                super().build(variables)
                self.averages = self.add_optimizer_variables(variables, "latest")

        def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
            super().apply(grads, trainable_variables)
            share = (REACH + 1) / (keras.ops.cast(self.iterations, "float32") + REACH)  # 1 at the first step
            for average, variable in zip(self.averages, self._trainable_variables, strict=True):
                average.assign_add((variable - average) * keras.ops.cast(share, variable.dtype))

    Averaging.__name__ = kind.__name__
    return Averaging
