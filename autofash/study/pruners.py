"""What stops trials early: Optuna's pruners, and for each the reason in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from autofash.errors import UsageError, unknown
from autofash.study.rungs import REDUCTION


def _none(epochs: int) -> BasePruner:
    return optuna.pruners.NopPruner()


def _median(epochs: int) -> BasePruner:
    return optuna.pruners.MedianPruner(
        n_startup_trials=5, n_warmup_steps=2
    )  # steps are epochs, from 1: the first prunes nobody


def _hyperband(epochs: int) -> BasePruner:
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=REDUCTION)


ASHA = "asha"  # study.rungs, which pauses trials instead of stopping them
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    ASHA: _none,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}


def check_pruner(name: str) -> None:
    """Raise UsageError when there is no such pruner."""
    if name not in PRUNERS:
        raise UsageError(*unknown("pruner", name, PRUNERS))


def make_pruner(name: str, epochs: int) -> BasePruner:
    """The pruner of this name for trials of at most this many epochs."""
    return PRUNERS[name](epochs)


def why_pruned(name: str, study: optuna.Study, number: int, epoch: int, value: float) -> str:
    """The reason of a stop, with the figure that the trial fell short of."""
    others = [t for t in study.get_trials(deepcopy=False) if t.number != number and epoch in t.intermediate_values]
    match name:
        case "median":
            complete = [t.intermediate_values[epoch] for t in others if t.state is TrialState.COMPLETE]
            middle = statistics.median(complete) if complete else math.nan
            return f"epoch {epoch}: its best so far is below the median of complete trials there, {middle:.4f}"
        case _:
            return f"epoch {epoch}: {value:.4f} is not among the best third of its {name} bracket's rung"
