"""What stops and pauses trials early, behind one contract: the rungs of our own, and Optuna's pruners."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Protocol

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from autofash.errors import UsageError, unknown
from autofash.records import EpochReport, Verdict
from autofash.study.rungs import RungPruning
from autofash.study.underway import Situation, Underway


def _none(epochs: int) -> BasePruner:
    return optuna.pruners.NopPruner()


def _median(epochs: int) -> BasePruner:
    return optuna.pruners.MedianPruner(
        n_startup_trials=5, n_warmup_steps=2
    )  # steps are epochs, from 1: the first prunes nobody


def _hyperband(epochs: int) -> BasePruner:
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)


ASHA = "asha"
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}


def check_pruner(name: str) -> None:
    """Raise UsageError when there is no such pruner."""
    if name not in (ASHA, *PRUNERS):
        raise UsageError(*unknown("pruner", name, (ASHA, *PRUNERS)))


class Pruning(Protocol):
    """Decides over a study's trials: who is put off, stopped or paused, and who is continued."""

    early: int  # training images before a trial's early look; 0 for none

    def recall(self, trial: FrozenTrial, reports: Sequence[EpochReport]) -> None:
        """Take in a trial that is in the ledger from before."""

    def puts_off(self, trial: Underway) -> str:
        """Why a trial whose model is built is not to train yet; empty when it is."""

    def verdict(self, trial: Underway, report: EpochReport, situation: Situation) -> Verdict:
        """What a trial is to do after a report."""

    def ended(self, trial: Underway, seconds: float) -> None:
        """Take in that a trial's process has ended after so long."""

    def due(self, situation: Situation) -> int | None:
        """The paused trial that is to be continued now, if any."""

    def surplus(self, situation: Situation) -> int | None:
        """A paused trial that is not worth its checkpoint any more, if any."""


def make_pruning(name: str, study: optuna.Study, epochs: int, images: int) -> Pruning:
    """The pruning of this name, for trials of at most so many epochs of so many images."""
    return RungPruning(epochs, images) if name == ASHA else OptunaPruning(name, study, epochs)


class OptunaPruning:
    """A pruner of Optuna's, which stops trials and pauses none."""

    early = 0

    def __init__(self, name: str, study: optuna.Study, epochs: int) -> None:
        self._name, self._study, self._epochs = name, study, epochs

    def recall(self, trial: FrozenTrial, reports: Sequence[EpochReport]) -> None:
        """Nothing: the pruner reads the ledger."""

    def puts_off(self, trial: Underway) -> str:
        """No trial is put off."""
        return ""

    def verdict(self, trial: Underway, report: EpochReport, situation: Situation) -> Verdict:
        """A stop where the pruner says so; the last epoch is nobody's to prune."""
        self._study.pruner = PRUNERS[self._name](self._epochs)
        if report.epoch < trial.epochs and trial.trial.should_prune():
            return Verdict.stop(_why(self._name, self._study, report))
        return Verdict.go()

    def ended(self, trial: Underway, seconds: float) -> None:
        """Nothing."""

    def due(self, situation: Situation) -> int | None:
        """Whoever an earlier search with another pruner has left paused."""
        return min(situation.paused, default=None)

    def surplus(self, situation: Situation) -> int | None:
        """None."""
        return None


def _why(name: str, study: optuna.Study, report: EpochReport) -> str:
    """The reason of a stop, with the figure that the trial fell short of."""
    epoch = report.epoch
    if name != "median":
        return f"epoch {epoch}: {report.objective:.4f} is not among the best third of its {name} bracket's rung"
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    there = [trial.intermediate_values[epoch] for trial in complete if epoch in trial.intermediate_values]
    middle = statistics.median(there) if there else math.nan
    return f"epoch {epoch}: its best so far is below the median of complete trials there, {middle:.4f}"
