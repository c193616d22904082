"""Successive halving over rungs, asynchronously: who goes on at a rung, who pauses there, and who is continued next.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), arXiv:1810.05934, algorithm 2, with two
changes: a trial among its rung's best goes on at once, without a pause; and a step that would cost more than its share of what
the search has spent so far waits. Optuna's SuccessiveHalvingPruner only stops trials, and never takes one up again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autofash.records import EpochReport

REDUCTION = 3  # of a rung's trials one in three goes on
EARLY = 0  # the rung of the early look, within the first epoch
EARLY_IMAGES = 8192  # training images before it
FIRST_SHARE = 0.1  # of what was spent so far: the most that a first rung may cost
FREE_SECONDS = 10.0  # that a first rung may always take
WORK_SECONDS = 5e-10  # of training for a multiply-add of the forward pass, before any was measured
TRACING_SECONDS = 1.5  # before a model's first step
LEADERS = 3  # trials that are trained to the end, however few the rungs would let through


@dataclass(frozen=True, slots=True)
class Paused:
    """A trial that waits to be continued."""

    number: int
    rung: int | None  # where it waits; None: before its first
    seconds: float  # that its first rung takes, as far as is known


class Rungs:
    """The rungs of a study, and what its trials had there."""

    def __init__(self, at: Sequence[int], reduction: int = REDUCTION) -> None:
        """at: the rungs, lowest first: epochs after which trials are compared, and EARLY. reduction: one in so many goes on."""
        self.at, self._reduction = at, reduction
        self._values: dict[int, dict[int, float]] = {rung: {} for rung in at}

    def reach(self, trial: int, rung: int, value: float) -> None:
        """Note what a trial has at a rung; at anything else, pass it over."""
        if rung in self._values:
            self._values[rung][trial] = value

    def goes_on(self, trial: int, rung: int) -> bool:
        """Whether the trial is among the best third that have reached the rung; whoever stands at none goes on."""
        return rung not in self._values or trial in self._best(rung)

    def why(self, trial: int, rung: int) -> str:
        """Why a trial pauses at a rung, with the figure that it falls short of."""
        value, best = self._values[rung][trial], self._best(rung)
        where = "early look" if rung == EARLY else f"epoch {rung}"
        if not best:
            return f"{where}: {value:.4f}, among the first there"
        return f"{where}: {value:.4f} is below the rung's best third, {min(self._values[rung][n] for n in best):.4f}"

    def hopeless(self, trial: int, rung: int, target: int) -> bool:
        """Whether so many are ahead at the rung that even with `target` trials there it would not be among the best third."""
        values = self._values[rung]
        return sum(value > values[trial] for value in values.values()) >= max(target // self._reduction, LEADERS)

    def next(self, paused: Mapping[int, Paused]) -> int | None:
        """The paused trial that has earned to be continued: of the highest rung, the best there; None where none has."""
        for rung in reversed(self.at):
            best = self._best(rung)
            earned = [number for number in best if number in paused and paused[number].rung == rung]
            if earned:
                return max(earned, key=lambda number: (self._values[rung][number], -number))
        return None

    def leader(self, paused: Mapping[int, Paused]) -> int | None:
        """The paused trial that has come furthest, and is the best there."""
        stands = [
            (trial.rung, self._values[trial.rung][n], -n) for n, trial in paused.items() if trial.rung in self._values
        ]
        return -max(stands)[2] if stands else None

    def last(self, trials: Iterable[int], rung: int) -> int:
        """Of these trials at a rung, the one that is behind all others."""
        return min(trials, key=lambda number: (self._values[rung][number], -number))

    def _best(self, rung: int) -> set[int]:
        values = self._values[rung]
        ranked = sorted(values, key=lambda number: (-values[number], number))
        return set(ranked[: len(ranked) // self._reduction])


def rungs_of(epochs: int, *, early: bool) -> list[int]:
    """Where trials of so many epochs are compared: at the early look, and after 1, 3, 9 … epochs."""
    ends = [REDUCTION**power for power in range(20) if REDUCTION**power < epochs]
    return [EARLY, *ends] if early else ends


def early_images(train: int) -> int:
    """Training images before the early look, of this many in an epoch; 0 where an epoch is too short for one."""
    return EARLY_IMAGES if train >= 3 * EARLY_IMAGES else 0


class Costs:
    """What trials cost: foretold from the work of their models, at the rate that was measured on those before them."""

    def __init__(self, first_images: int) -> None:
        """first_images: training images up to the first rung."""
        self.spent = 0.0  # seconds of all processes that have ended
        self._images = first_images
        self._rates: list[float] = []  # seconds of training for a multiply-add of the forward pass

    def spend(self, seconds: float) -> None:
        """A trial's process has ended after so long."""
        self.spent += seconds

    def learn(self, work: float | None, reports: Sequence[EpochReport]) -> None:
        """Measure the rate on a trial that has come to its first report."""
        if work and reports and reports[0].images:
            seconds = max(reports[0].seconds - TRACING_SECONDS, reports[0].seconds / 4)
            self._rates.append(seconds / (work * reports[0].images))

    def first_rung(self, work: float | None) -> float:
        """Seconds to the first rung for a model of this work an image; 0 where it is not known."""
        rate = statistics.median(self._rates) if self._rates else WORK_SECONDS
        return self._images * (work or 0.0) * rate

    def affordable(self, seconds: float) -> bool:
        """Whether a first rung of so many seconds is at most a tenth of what was spent so far."""
        return seconds <= max(FREE_SECONDS, FIRST_SHARE * self.spent)
