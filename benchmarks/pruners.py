"""Which pruner wins on Fashion-MNIST at 50 trials? Replays recorded curves through Optuna's pruners, on a simulated clock.

    python benchmarks/pruners.py record      # 60 random configs of the default space, trained in full: half an hour
    python benchmarks/pruners.py             # replay: each pruner over 60 random orders of 50 of them, two workers

The replay knows what each epoch cost when it was recorded; nothing is trained. Output: a table of minutes for 50 trials, the
best validation accuracy found, and how far it lies below the best that was there to find; median and 10 to 90 % of the orders.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import statistics
import sys
from pathlib import Path

import optuna

from autofash import hardware, search
from autofash.study.pruners import PRUNERS

CURVES = Path(__file__).parent / "curves.json"
ORDERS, TRIALS, WORKERS, EPOCHS = 60, 50, 2, 6

CONTESTANTS = {
    **{name: make(EPOCHS) for name, make in PRUNERS.items()},
    "asha, a half goes on": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "asha, a quarter goes on": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    "asha, from epoch 2": optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3),
    "median, from epoch 1": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
}


def record() -> None:
    """Train 60 random configs in full, and keep their curves and what each epoch cost."""
    study = search(
        "cnn",
        dataset="fashion_mnist",
        study="curves",
        trials=60,
        epochs=EPOCHS,
        sampler="random",
        pruner="none",
        starters=False,
    )
    keep(study.trials())


def keep(trials: list) -> None:
    """Write the curves of complete trials, with the config of each."""
    kept = []
    for trial in trials:
        if trial.state == "complete":
            ends = [0.0, *(report.seconds for report in trial.reports)]
            seconds = [round(after - before, 2) for before, after in itertools.pairwise(ends)]
            kept.append(
                {
                    "accuracy": [round(value, 5) for value in trial.curve],
                    "seconds": seconds,
                    "config": dict(trial.config),
                }
            )
    CURVES.write_text(json.dumps({"machine": hardware.machine(), "curves": kept}, indent=1) + "\n")


def replay(pruner: optuna.pruners.BasePruner, curves: list[dict]) -> tuple[float, float]:
    """Seconds for all these curves on two workers under the pruner, and the best value among trials that completed."""
    study = optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    left, clock, best = list(enumerate(curves)), 0.0, 0.0
    running: list[tuple[float, int, int]] = []  # when its epoch ends, which, which epoch
    trials: dict[int, optuna.Trial] = {}

    def begin(now: float) -> None:
        if left:
            number, curve = left.pop(0)
            trials[number] = study.ask()
            heapq.heappush(running, (now + curve["seconds"][0], number, 1))

    for _ in range(WORKERS):
        begin(0.0)
    while running:
        clock, number, epoch = heapq.heappop(running)
        curve, trial = curves[number], trials[number]
        trial.report(curve["accuracy"][epoch - 1], epoch)
        if epoch == len(curve["accuracy"]):
            value = max(curve["accuracy"])
            best = max(best, value)
            study.tell(trial, value)
        elif trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            heapq.heappush(running, (clock + curve["seconds"][epoch], number, epoch + 1))
            continue
        begin(clock)
    return clock, best


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
    print(f"{'pruner':26}{'minutes':>9}{'10–90 %':>14}{'best found':>12}{'below the best, points':>24}")
    rng = random.Random(0)
    orders = [rng.sample(curves, min(TRIALS, len(curves))) for _ in range(ORDERS)]
    for name, pruner in CONTESTANTS.items():
        runs = [(*replay(pruner, order), max(max(curve["accuracy"]) for curve in order)) for order in orders]
        minutes = sorted(seconds / 60 for seconds, _, _ in runs)
        regret = statistics.mean(100 * (there - found) for _, found, there in runs)
        low, high = minutes[ORDERS // 10], minutes[-ORDERS // 10]
        found = statistics.median(best for _, best, _ in runs)
        print(f"{name:26}{statistics.median(minutes):9.1f}{f'{low:.1f}–{high:.1f}':>14}{found:12.4f}{regret:24.2f}")


if __name__ == "__main__":
    record() if sys.argv[1:] == ["record"] else main()
