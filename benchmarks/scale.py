"""What a study costs as it grows: reading it, asking, observing and telling, at 100, 1,000 and 10,000 finished trials.

python benchmarks/scale.py               # about five minutes; the table also replaces the section "Scale" of RESULTS.md

Each study is of the default space `cnn`: after an early look each, a third of its trials complete six epochs and two thirds are
pruned after one to three, every row as a search leaves it. What writes works on a fresh copy, in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import optuna
import psutil
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState, create_trial
from sections import RESULTS, put_section

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)

from autofash import cli, hardware, loop  # noqa: E402, F401  what a coordinator has imported counts
from autofash.records import Action, Ending, EpochReport, ModelBuilt, Outcome, StudySettings  # noqa: E402
from autofash.space import load_space  # noqa: E402
from autofash.study.ledger import create_or_load, open_storage  # noqa: E402
from autofash.study.proposals import seed_of  # noqa: E402
from autofash.study.rungs import EARLY_IMAGES  # noqa: E402
from autofash.study.samplers import distribution  # noqa: E402
from autofash.study.writer import StudyWriter  # noqa: E402

SIZES = (100, 1_000, 10_000)
ROUNDS = 5  # of each command, and of each process that writes
ASKED = 20  # trials that such a process asks for, observes and tells
EPOCHS, IMAGES, STUDY = 6, 50_000, "fashion_mnist-cnn"
SPACE = load_space("cnn")
SETTINGS = StudySettings(
    "fashion_mnist", "f" * 64, "cnn", SPACE.table(), SPACE.fingerprint, "tpe", "asha", "accuracy", EPOCHS, 0, 0.1, True
)
MEASURED = {  # what is measured → unit, goal at 10,000 trials
    "autofash show": ("s", 1.5),
    "autofash studies": ("s", 1.5),
    "autofash show --trial N": ("s", None),
    "opening the writer": ("s", None),
    "ask": ("ms", 150),
    "observe": ("ms", None),
    "tell": ("ms", None),
    "coordinator, resident": ("MB", 300),
    "coordinator, at its peak": ("MB", None),
    "ledger, on disk": ("MB", None),
}


def curve(trial: int, rng: random.Random) -> list[EpochReport]:
    """An early look and all epochs; accuracies that rise ever more slowly."""
    top, pace, told = 0.93 - 0.1 * rng.random() ** 2, 0.5 + rng.random(), []
    for epoch in range(EPOCHS + 1):
        trained = epoch or EARLY_IMAGES / IMAGES
        value = round(top * (1 - math.exp(-pace * (trained + 0.5))), 4)
        losses = {"loss": 1.1 - value, "train_accuracy": value - 0.01, "train_loss": 1.2 - value}
        told.append(
            EpochReport(
                trial, epoch, value, value, **losses, images=round(IMAGES * trained), seconds=round(7.12 * trained, 6)
            )
        )
    return told


def finished(number: int, rng: random.Random) -> FrozenTrial:
    """A trial with all that the sampler, the pruner and the writer note on one."""
    params = dict(SPACE.own(SPACE.sample(rng)))
    complete = rng.random() < 1 / 3
    told = curve(number, rng)[: EPOCHS + 1 if complete else rng.randint(2, 4)]
    last, work = told[-1], float(rng.randint(10**5, 10**7))
    why = "" if complete else f"epoch {last.epoch}: {last.objective:.4f} is below the rung's best quarter, 0.9012"
    pause = {"rung": last.epoch, "why": why, "seconds": last.seconds, "work": work, "runs": False}
    joint = {name: value for name, value in params.items() if not SPACE.params[name].when}
    made = create_trial(
        state=TrialState.COMPLETE if complete else TrialState.PRUNED,
        value=max(report.objective for report in told[1:]) if complete else last.objective,
        params=params,
        distributions={name: distribution(SPACE.params[name]) for name in params},
        user_attrs={
            "seed": seed_of(SETTINGS.seed, number),
            "reports": [asdict(report) for report in told],
            **({} if complete else {"paused": pause, "why": why}),
            "seconds": last.seconds,
            "work": work,
            "parameters": rng.randint(10_000, 500_000),
        },
        system_attrs={"tpe:relative_params:0": json.dumps(joint)},
        intermediate_values={report.epoch: report.objective for report in told},
    )
    made.number = number
    made.datetime_start = datetime(2026, 1, 1) + timedelta(seconds=30 * number)
    made.datetime_complete = made.datetime_start + timedelta(seconds=last.seconds)
    return made


def make(folder: Path, size: int) -> str:
    """A ledger in this folder, with one study of this many finished trials; its URL.

    Optuna adds a trial in 30 ms or more. So the rows are written straight, and Optuna then reads what was meant.
    """
    storage, rng = f"sqlite:///{folder}/studies.db", random.Random(size)
    study = create_or_load(STUDY, open_storage(storage, write=True), SETTINGS, size + 1_000)
    study.set_user_attr("begun", True)
    trials = [finished(number, rng) for number in range(size)]
    with sqlite3.connect(folder / "studies.db") as database:
        for trial in trials:
            insert(database, trial)
    database.close()
    read = optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False)
    for trial, found in zip(trials, read, strict=True):
        trial._trial_id = found._trial_id
        assert trial == found
    return storage


def insert(database: sqlite3.Connection, trial: FrozenTrial) -> None:
    """A trial's rows, as Optuna's schema 12 has them."""
    moments = [
        moment.astimezone(UTC).replace(tzinfo=None) for moment in (trial.datetime_start, trial.datetime_complete)
    ]
    number = database.execute(
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) VALUES (?, 1, ?, ?, ?)",
        (trial.number, trial.state.name, *(f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in moments)),
    ).lastrowid
    rows = {
        "trial_params (trial_id, param_name, param_value, distribution_json)": [
            (name, kind.to_internal_repr(trial.params[name]), distribution_to_json(kind))
            for name, kind in trial.distributions.items()
        ],
        "trial_values (trial_id, objective, value, value_type)": [(0, trial.value, "FINITE")],
        "trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)": [
            (step, value, "FINITE") for step, value in trial.intermediate_values.items()
        ],
        "trial_user_attributes (trial_id, key, value_json)": [
            (key, json.dumps(value)) for key, value in trial.user_attrs.items()
        ],
        "trial_system_attributes (trial_id, key, value_json)": [
            (key, json.dumps(value)) for key, value in trial.system_attrs.items()
        ],
    }
    for table, found in rows.items():
        marks = ", ".join("?" * (1 + len(found[0])))
        database.executemany(f"INSERT INTO {table} VALUES ({marks})", [(number, *row) for row in found])


@contextmanager
def clocked(taken: list[float], scale: float = 1.0) -> Iterator[None]:
    """Note the wall clock of what is done within, in seconds times the scale."""
    began = time.perf_counter()
    yield
    taken.append(scale * (time.perf_counter() - began))


def writing(folder: str) -> None:
    """In a process of its own: open the writer of the ledger in this folder, run trials, and print what it took."""
    taken: dict[str, list[float]] = defaultdict(list)
    with clocked(taken["opening the writer"]):
        writer = StudyWriter(STUDY, f"sqlite:///{folder}/studies.db", SETTINGS, target=None, images=IMAGES)
    writer.trials(), writer.trials(), writer.read.leaderboard(1)  # as the loop and the screen do, once
    rng, curves = random.Random(0), {}
    while len(curves) < ASKED:
        asking: list[float] = []
        with clocked(asking, 1e3):
            asked = writer.ask()
        if asked.number not in curves:  # else it was paused, and goes on: that costs less
            curves[asked.number] = curve(asked.number, rng)
            taken["ask"] += asking
            writer.built(ModelBuilt(asked.number, 100_000, 1e6))
        for report in curves[asked.number][len(asked.reports) :]:
            with clocked(taken["observe"], 1e3):
                verdict = writer.observe(report)
            if verdict.action is not Action.GO:
                break
        with clocked(taken["tell"], 1e3):
            writer.tell(Outcome(asked.number, Ending.DONE, seconds=7.0, details={"parameters": 100_000}))
    taken["coordinator, resident"] = [psutil.Process().memory_info().rss / 1e6]
    taken["coordinator, at its peak"] = [peak() / 1e6]
    print(json.dumps(taken))


def peak() -> int:
    """The most memory that this process ever had resident, in bytes."""
    # Not getrusage: a child begins there with what its parent had.
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index("VmHWM:") + 1])


def measure(folder: Path, size: int) -> dict[str, list[float]]:
    """Every figure of a study of this size."""
    storage = make(folder, size)
    taken: dict[str, list[float]] = defaultdict(list)
    commands = {"show": (), "studies": (), "show --trial N": ("--trial", str(size // 2))}
    for _ in range(ROUNDS):
        for name, arguments in commands.items():
            command = [sys.executable, "-m", "autofash", name.split()[0], *arguments, "--storage", storage]
            with clocked(taken[f"autofash {name}"]):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for place in range(ROUNDS):
        copied = folder / str(place)
        copied.mkdir()
        shutil.copy(folder / "studies.db", copied)
        child = (sys.executable, __file__, str(copied))
        found = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
        for name, values in found.items():
            taken[name] += values
    taken["ledger, on disk"] = [(folder / "studies.db").stat().st_size / 1e6]
    return taken


def figure(values: list[float], unit: str) -> str:
    """Median with lowest and highest."""
    digits = 2 if unit == "s" else 0
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(found: dict[int, dict[str, list[float]]]) -> str:
    """The figures as Markdown, a column a size."""
    head = ["", *(f"{size:,} trials" for size in found), "at most"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, (unit, goal) in MEASURED.items():
        cells = [figure(taken[name], unit) for taken in found.values()]
        lines.append(f"| {name}, {unit} | {' | '.join(cells)} | {goal if goal is not None else ''} |")
    return "\n".join(lines)


def main() -> None:
    found = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            found[size] = measure(Path(folder), size)
        print(f"{size:,} trials are measured", file=sys.stderr)
    versions = ", ".join(f"{package} {version(package.lower())}" for package in ("Optuna", "SQLAlchemy"))
    text = f"""## Scale

`make scale`, {date.today()}; {hardware.machine()}, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {versions},
SQLite {sqlite3.sqlite_version}. Median (lowest–highest) of {ROUNDS} runs of each command, process start included, and of {ROUNDS}
processes that open the writer and ask for {ASKED} trials by tpe, under asha.

{table(found)}"""
    print(text)
    put_section(RESULTS, "scale", text)


if __name__ == "__main__":
    writing(sys.argv[1]) if len(sys.argv) > 1 else main()
