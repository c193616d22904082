"""Successive halving over rungs, asynchronously: who goes on at a rung, who pauses there, and who is continued next.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), arXiv:1810.05934, algorithm 2, with four
changes: a trial among its rung's best goes on at once, without a pause; from the third rung on the best goes on however few have
come so far, because it was chosen twice already, and waiting for others would cost long trainings; while too few have come to
the second, the best there goes ahead beside them, and gives way once another is better; and a step that would
cost more than its share of what the search has spent so far waits. Optuna's SuccessiveHalvingPruner only stops trials, and
never takes one up again.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from autofash.records import EpochReport, Verdict
from autofash.study.underway import Situation, Underway

REDUCTION = 4  # of a rung's trials one in so many goes on
EARLY = 0  # the rung of the early look, within the first epoch
EARLY_IMAGES = 4096  # training images before it
CONTESTED = 2  # rungs, from the lowest, where the first wait until there is a best quarter
FIRST_SHARE = 0.1  # of what was spent so far: the most that a first rung may cost
FREE_SECONDS = 5.0  # that a first rung may always take
WORK_SECONDS = 1e-10  # of training for a multiply-add of the forward pass, before any was measured
TRACING_SECONDS = 1.0  # before a model's first step
MOST_PUT_OFF = 4  # dear trials, before the cheapest of them is run all the same
MOST_PAUSED = 64  # trials at a rung, with their checkpoints
HASTE = 1.5  # times what the leader has left to train: with less of a budget left, it is trained to the end
LEADERS = 3  # trials that are trained to the end, however few the rungs would let through


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
        """Whether the trial is among the best quarter that have reached the rung; whoever stands at none goes on."""
        return rung not in self._values or trial in self._best(rung)

    def ahead(self, trial: int, rung: int) -> bool:
        """Whether the trial is above all others at a rung that too few have reached for anyone to go on."""
        return not self._best(rung) and self._values[rung][trial] == max(self._values[rung].values())

    def why(self, trial: int, rung: int) -> str:
        """Why a trial pauses at a rung, with the figure that it falls short of."""
        value, best = self._values[rung][trial], self._best(rung)
        where = "early look" if rung == EARLY else f"epoch {rung}"
        if not best:
            return f"{where}: {value:.4f}, among the first there"
        return f"{where}: {value:.4f} is below the rung's best quarter, {min(self._values[rung][n] for n in best):.4f}"

    def hopeless(self, trial: int, rung: int, target: int) -> bool:
        """Whether so many are ahead at the rung that even with `target` trials there it would not be among the best quarter."""
        values = self._values[rung]
        return sum(value > values[trial] for value in values.values()) >= max(target // self._reduction, LEADERS)

    def next(self, paused: Mapping[int, Underway]) -> int | None:
        """The paused trial that has earned to be continued: of the highest rung, the best there; None where none has."""
        for rung in reversed(self.at):
            best = self._best(rung)
            earned = [number for number in best if number in paused and paused[number].rung == rung]
            if earned:
                return max(earned, key=lambda number: (self._values[rung][number], -number))
        return None

    def next_ahead(self, paused: Mapping[int, Underway]) -> int | None:
        """The paused trial that is ahead at the second rung, where too few have come for anyone to go on; None where none is."""
        for rung in self.at[1:CONTESTED]:
            for number, trial in paused.items():
                if trial.rung == rung and self.ahead(number, rung):
                    return number
        return None

    def leader(self, paused: Mapping[int, Underway]) -> int | None:
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
        return set(ranked[: max(len(ranked) // self._reduction, int(rung not in self.at[:CONTESTED]))])


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


class RungPruning:
    """Successive halving over rungs, with pauses."""

    def __init__(self, epochs: int, images: int) -> None:
        """epochs: most of a trial. images: in an epoch."""
        self.early = early_images(images)
        self._rungs = Rungs(rungs_of(epochs, early=self.early > 0))
        self._costs = Costs(self.early or images)
        self._images = images

    def recall(self, trial: FrozenTrial, reports: Sequence[EpochReport]) -> None:
        """Take in what a trial had at its rungs, and what it cost."""
        if trial.state is not TrialState.FAIL:
            for epoch, value in trial.intermediate_values.items():
                self._rungs.reach(trial.number, epoch, value)
        self._costs.spend(float(trial.user_attrs.get("seconds", 0.0)))
        self._costs.learn(trial.user_attrs.get("work"), reports)

    def puts_off(self, trial: Underway) -> str:
        """A sampled config whose first rung costs more than its share waits; a starter is known to be worth it."""
        seconds = self._costs.first_rung(trial.work)
        if trial.waited or trial.origin != "sampled" or self._costs.affordable(seconds):
            return ""
        return f"put off: its first rung would take {seconds:.0f} s"

    def verdict(self, trial: Underway, report: EpochReport, situation: Situation) -> Verdict:
        """At a rung the best quarter goes on, or one that is ahead; the others pause, and who could never be there is stopped."""
        number, epoch = report.trial, report.epoch
        self._rungs.reach(number, epoch, report.objective)
        if epoch in self._rungs.at:
            trial.rung, trial.ahead = epoch, False
        rung = trial.rung  # where it stands, or went ahead
        if rung is None or epoch >= trial.epochs or trial.leads or (epoch != rung and not trial.ahead):
            return Verdict.go()
        if self._rungs.goes_on(number, rung):
            trial.ahead = False
            return Verdict.go()
        if trial.origin.startswith(("starter", "warm start")) and self._rungs.ahead(number, rung):
            return Verdict.go()  # it did well elsewhere, and nothing is known yet that speaks against it
        if self._must_lead({**situation.paused, number: trial}, situation) == number:
            trial.leads = True
            return Verdict.go()
        # It goes ahead only while others run, which may come to the rung as well.
        trial.ahead = (trial.ahead or len(situation.running) > 1) and self._rungs.next_ahead({number: trial}) == number
        if trial.ahead:
            return Verdict.go()
        why = self._rungs.why(number, rung)
        return Verdict.stop(why) if self._rungs.hopeless(number, rung, situation.target) else Verdict.pause(why)

    def ended(self, trial: Underway, seconds: float) -> None:
        """Take in what a trial's process cost."""
        self._costs.spend(seconds)
        if not trial.waited:
            self._costs.learn(trial.work, trial.reports)

    def due(self, situation: Situation) -> int | None:
        """Whoever has earned it at a rung, or is ahead; else one put off that can be afforded; at the last, the leaders."""
        paused = situation.paused
        leader = self._must_lead(paused, situation)
        earned = leader if leader is not None else self._rungs.next(paused)
        if earned is None and situation.running:
            earned = self._rungs.next_ahead(paused)
            if earned is not None:
                paused[earned].ahead = True
        put_off = {n: self._costs.first_rung(trial.work) for n, trial in paused.items() if trial.rung is None}
        if earned is None and put_off:
            cheapest = min(put_off, key=lambda number: (put_off[number], number))
            if situation.all_begun or len(put_off) > MOST_PUT_OFF or self._costs.affordable(put_off[cheapest]):
                return cheapest
        leading = sum(trial.leads for trial in situation.running.values())
        if earned is None and situation.all_begun and situation.complete + leading < LEADERS:
            earned = leader = self._rungs.leader(paused)
        if leader is not None:
            paused[leader].leads = True
        return earned

    def _must_lead(self, trials: Mapping[int, Underway], situation: Situation) -> int | None:
        """The leader, where a budget would end with nothing complete unless it is now trained to the end."""
        left = situation.seconds_left
        if left is None or situation.complete or any(trial.leads for trial in situation.running.values()):
            return None
        leader = self._rungs.leader(trials)
        return leader if leader is not None and HASTE * seconds_to_end(trials[leader], self._images) >= left else None

    def surplus(self, situation: Situation) -> int | None:
        """The last of a rung where more are paused than could ever be wanted."""
        for rung, count in Counter(trial.rung for trial in situation.paused.values()).items():
            if rung is not None and count > MOST_PAUSED:
                return self._rungs.last((n for n, trial in situation.paused.items() if trial.rung == rung), rung)
        return None


def seconds_to_end(trial: Underway, images: int) -> float:
    """What is left to train of a trial that has reported, at its own pace; images: in an epoch."""
    said = trial.reports[-1]
    return said.seconds * (trial.epochs * images / said.images - 1)


def rungs_of(epochs: int, *, early: bool) -> list[int]:
    """Where trials of so many epochs are compared: at the early look, and after 1, 4, 16 … epochs."""
    ends = [REDUCTION**power for power in range(20) if REDUCTION**power < epochs]
    return [EARLY, *ends] if early else ends


def early_images(train: int) -> int:
    """Training images before the early look, of this many in an epoch; 0 where an epoch is too short for one."""
    return EARLY_IMAGES if train >= 3 * EARLY_IMAGES else 0
