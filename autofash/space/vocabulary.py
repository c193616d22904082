"""Every name that a space may search, for which family, and within which limits.

A test compares the families' names with the signatures in `autofash.models`, so that the two never drift apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autofash.errors import brief
from autofash.records import Value

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "tanh", "sigmoid")
NORMALIZATIONS = ("none", "batch", "layer", "group")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Real:
    """A number, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Word:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class YesNo:
    """True or false."""


Limits = Whole | Real | Word | YesNo
SHARE = Real(0.0, 0.95)

FAMILIES: dict[str, dict[str, Limits]] = {
    "mlp": {
        "depth": Whole(0, 16),
        "width": Whole(1, 8192),
        "taper": Real(0.1, 1.0),
        "normalization": Word(NORMALIZATIONS[:3]),
        "activation": Word(ACTIVATIONS),
        "dropout": SHARE,
    },
    "cnn": {
        "conv_blocks": Whole(1, 8),
        "depth": Whole(1, 8),
        "width": Whole(1, 1024),
        "kernel_size": Whole(1, 15),
        "pooling": Word(("max", "average")),
        "normalization": Word(NORMALIZATIONS),
        "activation": Word(ACTIVATIONS),
        "dropout": SHARE,
        "head": Word(("average", "dense")),
        "head_units": Whole(1, 8192),
        "head_dropout": SHARE,
    },
    "resnet": {
        "stages": Whole(1, 8),
        "depth": Whole(1, 16),
        "width": Whole(1, 1024),
        "stem": Word(("conv", "patch")),
        "pooling": Word(("max", "average")),
        "normalization": Word(NORMALIZATIONS),
        "activation": Word(ACTIVATIONS),
        "dropout": SHARE,
    },
}

TRAINING: dict[str, Limits] = {
    "epochs": Whole(1, 100_000),  # fewer than the study's, never more
    "batch_size": Whole(1, 65536),
    "optimizer": Word(("adam", "adamw", "sgd", "lion", "muon")),
    "learning_rate": Real(1e-7, 10.0),
    "schedule": Word(("constant", "cosine", "onecycle")),
    "weight_decay": Real(0.0, 1.0),
    "label_smoothing": Real(0.0, 0.9),
    "flip": YesNo(),
    "shift": Whole(0, 64),
    "erase": Real(0.0, 1.0),
    "mixup": Real(0.0, 8.0),
    "stop_at_train_accuracy": Real(0.0, 1.0),
}


def vocabulary(family: str) -> dict[str, Limits]:
    """Names and limits of one family, training included; of "all": every family's, bare where shared, prefixed everywhere."""
    if family != "all":
        return {**FAMILIES[family], **TRAINING}
    names: dict[str, Limits] = {"family": Word(tuple(FAMILIES)), **TRAINING}
    for name, options in FAMILIES.items():
        names.update({f"{name}_{option}": limits for option, limits in options.items()})
    return names


def misfit(limits: Limits, value: Value) -> str:
    """Why the value is outside the limits, or an empty string.

    >>> misfit(Whole(1, 8), 9)
    '9 is not between 1 and 8'
    """
    match limits:
        case YesNo():
            return "" if isinstance(value, bool) else f"{brief(value)} is not true or false"
        case Word(words):
            return (
                "" if value in words and isinstance(value, str) else f"{brief(value)} is not one of {', '.join(words)}"
            )
        case Whole(low, high):
            if isinstance(value, bool) or not isinstance(value, int):
                return f"{brief(value)} is not a whole number"
        case Real(low, high):
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
                return f"{brief(value)} is not a number"
    return "" if low <= value <= high else f"{brief(value)} is not between {low:g} and {high:g}"
