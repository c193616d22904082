"""Which pruning wins on Fashion-MNIST at 50 trials? Replays recorded curves on a simulated clock with two workers.

    python benchmarks/pruners.py record      # 60 random configs of the default space, trained in full: an hour or so
    python benchmarks/pruners.py             # replay: each contestant over 60 random orders of 50 of them

The replay knows what each epoch cost when it was recorded, and adds two seconds for each start of a process; nothing is trained.
Output: a table of minutes for 50 trials, the best validation accuracy found, how far it lies below the best that was there to
find, complete trials, and seconds to two accuracies; medians over the orders, with 10 to 90 % of the minutes.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import optuna  # noqa: E402
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner  # noqa: E402

from autofash import data, hardware, search  # noqa: E402
from autofash.executors import ProcessExecutor  # noqa: E402
from autofash.records import Outcome, Report, TrialSpec  # noqa: E402
from autofash.request import VALIDATION  # noqa: E402
from autofash.study.rungs import EARLY, LEADERS, REDUCTION, Rungs  # noqa: E402

CURVES = Path(__file__).parent / "curves.json"
ORDERS, TRIALS, WORKERS, EPOCHS = 60, 50, 2, 6
LOOKS = (2048, 4096, 8192, 16384)  # training images before an early look
STARTING = 2.0  # seconds until a new or continued trial trains
TARGETS = (0.90, 0.915, 0.925)
Curve = dict[str, Any]


# -- recording -------------------------------------------------------------------------------------------------------------


def record() -> None:
    """Train 60 random configs in full, and look at them early; keep their curves and what each epoch cost."""
    settings = {"sampler": "random", "pruner": "none", "starters": False}
    study = search("cnn", dataset="fashion_mnist", study="curves", trials=60, epochs=EPOCHS, **settings)
    complete = [trial for trial in study.trials() if trial.state == "complete"]
    looks = looked_at([dict(trial.config) for trial in complete])
    kept = []
    for trial, early in zip(complete, looks, strict=True):
        ends = [0.0, *(report.seconds for report in trial.reports)]
        kept.append(
            {
                "accuracy": [round(value, 5) for value in trial.curve],
                "seconds": [round(after - before, 2) for before, after in itertools.pairwise(ends)],
                "config": dict(trial.config),
                **early,
            }
        )
    CURVES.write_text(json.dumps({"machine": hardware.machine(), "curves": kept}, indent=1) + "\n")


def looked_at(configs: list[dict]) -> list[Curve]:
    """What each config has at each early look, two at a time."""
    folder = data.prepare("fashion_mnist", data.choose("fashion_mnist", None)[1], seed=0, validation=VALIDATION).folder
    executor, left, found = ProcessExecutor(), list(enumerate(configs)), {}

    def submit() -> None:
        if left:
            number, config = left.pop(0)
            executor.submit(
                TrialSpec(number, config, 1000 + number, EPOCHS, folder, task="benchmarks.pruners:look_early")
            )

    for _ in range(WORKERS):
        submit()
    while len(found) < len(configs):
        for event in executor.events(1.0):
            if isinstance(event, Outcome):
                found[event.trial] = dict(event.details)
                submit()
    executor.close()
    return [found[number] for number in range(len(configs))]


def look_early(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a trial's process: train up to the last early look, and say what each showed."""
    from autofash import training
    from autofash.data.augment import Augmentation
    from autofash.data.batches import Batches

    training.take_resources(spec)
    found = data.load(spec.data)
    model = training.compiled(spec, found.train_images.shape[1:], len(found.classes), len(found.train_images))
    batches = Batches(
        found.train_images,
        found.train_labels,
        len(found.classes),
        batch_size=int(spec.config["batch_size"]),
        augmentation=Augmentation.of(spec.config),
        seed=spec.seed,
    )
    done, looks = 0, {}
    for images in LOOKS:
        step = -(-images // batches.size)
        training._train(model, batches, done, step)
        done = step
        watched = (found.validation_images, found.validation_labels)
        seen = training._look(model, watched, batches, training.EARLY_SHARE)
        looks[str(images)] = round(seen["accuracy"], 5)
    return {"looks": looks, "work": training.work_of(model)}


# -- contestants -----------------------------------------------------------------------------------------------------------


class Growing(Rungs):
    """PASHA-like (Bohdal et al. 2023, arXiv:2207.06940): a rung opens when the two highest open ones disagree on the order."""

    def __init__(self, at: list[int], reduction: int) -> None:
        super().__init__(at, reduction)
        self._opened = 1

    def reach(self, trial: int, rung: int, value: float) -> None:
        super().reach(trial, rung, value)
        if self._opened < len(self.at):
            below, above = (self._values[self.at[self._opened + step]] for step in (-1, 0))
            by_above, by_below = (sorted(above, key=lambda n: -values[n]) for values in (above, below))
            self._opened += by_above != by_below

    def goes_on(self, trial: int, rung: int) -> bool:
        return (rung not in self.at or self.at.index(rung) < self._opened) and super().goes_on(trial, rung)

    def next(self, paused: Mapping[int, Any]) -> int | None:
        return super().next({n: found for n, found in paused.items() if self.at.index(found.rung) < self._opened})


class Waiting(Rungs):
    """ASHA as it was published: at every rung, not at the lowest two alone, the first wait until there are enough."""

    def _best(self, rung: int) -> set[int]:
        values = self._values[rung]
        return set(sorted(values, key=lambda number: (-values[number], number))[: len(values) // self._reduction])


class Gaining:
    """Freeze-thaw-like (Swersky et al. 2014, arXiv:1406.3896): continue or begin whatever promises most gain a second.

    A trial's end is extrapolated by a regression of what others gained from rung to rung; the gain is the expected
    improvement over the best end, over the seconds that are left to it.
    """

    def __init__(self, at: list[int], seconds: Callable[[int, int | None], float]) -> None:
        self.at, self._seconds = at, seconds
        self._values: dict[int, dict[int, float]] = {}

    def reach(self, trial: int, rung: int, value: float) -> None:
        self._values.setdefault(trial, {})[rung] = value

    def choice(self, paused: Mapping[int, int]) -> tuple[int | None, float, float]:
        """The paused trial that promises most, its gain a second, and that of a new one."""
        climbs = {low: self._climb(low, high) for low, high in itertools.pairwise([*self.at, EPOCHS])}
        best = max((seen[EPOCHS] for seen in self._values.values() if EPOCHS in seen), default=0.0)

        def gain(value: float, rung: int) -> float:
            variance = 0.0
            for low in self.at[self.at.index(rung) :]:
                slope, offset, spread = climbs[low]
                value += max(0.0, offset + slope * value)
                variance += spread**2
            sigma = math.sqrt(variance)
            z = (value - best) / sigma
            return sigma * (z * 0.5 * (1 + math.erf(z / 2**0.5)) + math.exp(-z * z / 2) / math.sqrt(2 * math.pi))

        rates = {n: gain(self._values[n][rung], rung) / self._seconds(n, rung) for n, rung in paused.items()}
        first = {n: seen[self.at[0]] for n, seen in self._values.items() if self.at[0] in seen}
        new = [gain(value, self.at[0]) / (self._seconds(n, None) + STARTING) for n, value in first.items()]
        top = max(rates, key=lambda number: rates[number], default=None)
        return top, rates.get(top, 0.0), statistics.mean(new) if len(new) >= 4 else math.inf

    def _climb(self, low: int, high: int) -> tuple[float, float, float]:
        """Slope, offset and spread of the regression of what is gained between two rungs on the value at the lower."""
        pairs = [(seen[low], seen[high] - seen[low]) for seen in self._values.values() if low in seen and high in seen]
        if len(pairs) < 3:
            return -0.35, 0.34, 0.03  # a third of what is missing to 0.97
        mean, middle = (statistics.mean(column) for column in zip(*pairs, strict=True))
        slope = sum((x - mean) * (y - middle) for x, y in pairs) / (sum((x - mean) ** 2 for x, _ in pairs) + 1e-3)
        rest = [y - middle - slope * (x - mean) for x, y in pairs]
        return slope, middle - slope * mean, max(0.004, math.sqrt(sum(r * r for r in rest) / (len(rest) - 1)))


# -- replay ----------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What a replay came to."""

    seconds: float = 0.0
    best: float = 0.0
    complete: int = 0
    reached: dict[float, float] = field(default_factory=dict)  # accuracy → seconds

    def see(self, clock: float, curve: Curve, epoch: int) -> float:
        value: float = curve["accuracy"][epoch - 1]
        self.seconds, self.best = clock, max(self.best, value)
        self.complete += epoch == EPOCHS
        for target in TARGETS:
            if value >= target:
                self.reached.setdefault(target, clock)
        return value


def stopping(make: Callable[[], BasePruner]) -> Callable[[list[Curve]], Run]:
    """A pruner of Optuna's, which stops trials at an epoch's end."""

    def replay(curves: list[Curve]) -> Run:
        study = optuna.create_study(direction="maximize", pruner=make(), sampler=optuna.samplers.RandomSampler(seed=0))
        left, run = list(enumerate(curves)), Run()
        running: list[tuple[float, int, int]] = []  # when its epoch ends, which, which epoch
        trials: dict[int, optuna.Trial] = {}

        def begin(now: float) -> None:
            if left:
                number, curve = left.pop(0)
                trials[number] = study.ask()
                heapq.heappush(running, (now + STARTING + curve["seconds"][0], number, 1))

        for _ in range(WORKERS):
            begin(0.0)
        while running:
            clock, number, epoch = heapq.heappop(running)
            trial, value = trials[number], run.see(clock, curves[number], epoch)
            trial.report(value, epoch)
            if epoch < EPOCHS and not trial.should_prune():
                heapq.heappush(running, (clock + curves[number]["seconds"][epoch], number, epoch + 1))
                continue
            if epoch < EPOCHS:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, value)
            begin(clock)
        return run

    return replay


def pausing(
    early: int, reduction: int = REDUCTION, kind: type[Rungs] | type[Gaining] = Rungs, *, ahead: bool = False
) -> Callable[[list[Curve]], Run]:
    """Rungs of our own, which pause trials and continue them.

    early: images before the early look, 0 for none. ahead: at the second rung the best does not wait for others.
    """

    def replay(curves: list[Curve]) -> Run:
        marks = [*([EARLY] if early else []), *range(1, EPOCHS + 1)]
        run, left, running = Run(), list(range(len(curves))), []
        paused: dict[int, int] = {}
        stands: dict[int, int] = {}  # trial → the rung that it was the last at
        leading: set[int] = set()
        gone: set[int] = set()  # ahead

        def at(number: int, mark: int | None) -> float:
            seconds = curves[number]["seconds"]
            return 0.0 if mark is None else 1.1 * seconds[0] * early / 50_000 if mark == EARLY else sum(seconds[:mark])

        if kind is Gaining:
            policy: Any = Gaining(marks[:-1], lambda number, mark: at(number, EPOCHS) - at(number, mark))
        else:
            policy = kind(
                [*([EARLY] if early else []), *(reduction**n for n in range(3) if reduction**n < EPOCHS)], reduction
            )

        def go(now: float, number: int, mark: int | None, wait: float = STARTING) -> None:
            following = marks[0] if mark is None else marks[marks.index(mark) + 1]
            heapq.heappush(running, (now + wait + at(number, following) - at(number, mark), number, following))

        def chosen() -> int | None:
            """The paused trial to continue; None to begin a new one, or to rest."""
            if kind is Gaining:
                top, gain, new = policy.choice(paused)
                return top if top is not None and (gain > new or (not left and gain > 1e-5)) else None
            waiting: Any = {number: SimpleNamespace(rung=stands[number]) for number in paused}
            found = policy.next(waiting)
            if found is None and ahead and running:
                found = policy.next_ahead(waiting)
                gone.add(found if found is not None else -1)
            if found is None and not left and run.complete + sum(n in leading for _, n, _ in running) < LEADERS:
                found = policy.leader(waiting)
                leading.add(found if found is not None else -1)
            return found

        def fill(now: float) -> None:
            while len(running) < WORKERS:
                number = chosen()
                if number is not None:
                    go(now, number, paused.pop(number))
                elif left:
                    go(now, left.pop(0), None)
                else:
                    return

        fill(0.0)
        while running:
            clock, number, mark = heapq.heappop(running)
            value = run.see(clock, curves[number], mark) if mark else curves[number]["looks"][str(early)]
            policy.reach(number, mark, value)
            if mark in policy.at:
                stands[number] = mark
                gone.discard(number)
            rung = stands.get(number, mark)
            if mark == EPOCHS:
                pass
            elif kind is Gaining:
                paused[number] = mark
                if chosen() == number:
                    go(clock, number, paused.pop(number), wait=0.0)
            elif number in leading or (mark != rung and number not in gone) or policy.goes_on(number, rung):
                gone.discard(number)
                go(clock, number, mark, wait=0.0)
            elif (
                ahead
                and (number in gone or running)
                and policy.next_ahead({number: SimpleNamespace(rung=rung)}) == number
            ):
                gone.add(number)
                go(clock, number, mark, wait=0.0)
            else:
                gone.discard(number)
                paused[number] = mark
            fill(clock)
        return run

    return replay


CONTESTANTS = {
    "none": stopping(NopPruner),
    "median, from epoch 2": stopping(lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=2)),
    "median, from epoch 1": stopping(lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=0)),
    "hyperband": stopping(lambda: HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3)),
    "asha that stops, rungs 1 and 3": stopping(lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)),
    "asha that pauses, rungs 1 and 4": pausing(0),
    **{f"asha that pauses, early look at {images:,}": pausing(images) for images in LOOKS},
    "the same at 4,096, a half goes on": pausing(4096, 2),
    "the same at 4,096, a third": pausing(4096, 3),
    "the same at 4,096, every rung waits": pausing(4096, REDUCTION, Waiting),
    "the same at 4,096, one goes ahead": pausing(4096, ahead=True),
    "PASHA-like, early look at 4,096": pausing(4096, REDUCTION, Growing),
    "freeze-thaw-like, from epoch 1": pausing(0, REDUCTION, Gaining),
    "freeze-thaw-like, early look at 4,096": pausing(4096, REDUCTION, Gaining),
}


def main() -> None:
    """Replay every contestant over the same orders, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = json.loads(CURVES.read_text())
    curves = told["curves"]
    ranked = sorted((max(curve["accuracy"]) for curve in curves), reverse=True)
    print(f"{len(curves)} curves of {EPOCHS} epochs, recorded on {told['machine']}")
    print(
        f"best {ranked[0]:.4f}, best tenth from {ranked[len(ranked) // 10]:.4f}, median {statistics.median(ranked):.4f}\n"
    )
    columns = f"{'best':>8}{'below, points':>15}{'complete':>10}" + "".join(
        f"{f's to {target:.3f}':>12}" for target in TARGETS
    )
    print(f"{'pruning':40}{'minutes':>8}{'10–90 %':>12}{columns}")
    rng = random.Random(0)
    orders = [rng.sample(curves, min(TRIALS, len(curves))) for _ in range(ORDERS)]
    for name, replay in CONTESTANTS.items():
        runs = [replay(order) for order in orders]
        minutes = sorted(run.seconds / 60 for run in runs)
        below = statistics.mean(
            100 * (max(max(curve["accuracy"]) for curve in order) - run.best)
            for order, run in zip(orders, runs, strict=True)
        )
        best = statistics.median(run.best for run in runs)
        complete = statistics.mean(run.complete for run in runs)
        times = [statistics.median(run.reached.get(target, math.inf) for run in runs) for target in TARGETS]
        print(
            f"{name:40}{statistics.median(minutes):8.1f}{f'{minutes[ORDERS // 10]:.1f}–{minutes[-ORDERS // 10]:.1f}':>12}"
            f"{best:8.4f}{below:15.2f}{complete:10.1f}" + "".join(f"{seconds:12.0f}" for seconds in times)
        )


if __name__ == "__main__":
    record() if sys.argv[1:] == ["record"] else main()
