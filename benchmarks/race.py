"""Who finds a good classifier first? autofash against Optuna, KerasTuner and AutoKeras: same split, space, builder and machine.

    make race                                         # installs the peers, and runs whatever is missing: three hours in all
    python benchmarks/race.py --only autofash --seed 0 --minutes 10
    python benchmarks/race.py --quick                 # one minute and one seed each, kept apart: does everything run?
    python benchmarks/race.py report                  # writes the section of RESULTS.md anew from what there is

Contestants run one after the other, each in processes of its own on all cores, until 0.925 or ten minutes. The clock begins
with the process: everybody pays for their imports. Each run is a JSON file, so a race that was stopped goes on; to run a
contestant again, delete its file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import race_report  # noqa: E402
from peers import DATASET  # noqa: E402
from stopwatch import watch  # noqa: E402

from autofash import data, hardware  # noqa: E402
from autofash.errors import AutofashError  # noqa: E402
from autofash.request import VALIDATION  # noqa: E402

MINUTES, QUICK_MINUTES, SEEDS = 10.0, 1.0, (0, 1, 2)
SPACES = {"race": str(HERE / "race.toml"), "cnn": "cnn"}  # name → what autofash.load_space takes
THREE_SEEDS = ("autofash", "autofash-no-starters", "optuna", "kt-hyperband")
ONE_SEED = ("kt-bayesian", "kt-random", "autokeras")
NEEDS = {  # beginning of a contestant's name → modules
    "optuna": ("optuna_integration",),
    "kt-": ("keras_tuner", "tensorboard"),
    "autokeras": ("autokeras",),
}
PACKAGES = ("autofash", "keras", "tensorflow", "optuna", "optuna-integration", "keras-tuner", "autokeras", "numpy")


@dataclass(frozen=True)
class Heat:
    """One contestant on one space with one seed."""

    space: str
    contestant: str
    seed: int

    @property
    def file(self) -> str:
        """Name of the file that holds its result."""
        return f"{self.space}-{self.contestant}-{self.seed}.json"


def programme() -> list[Heat]:
    """Every heat, seed by seed, so that a stopped race has compared everybody; who begins rotates."""
    heats = []
    for turn, seed in enumerate(SEEDS):
        names = THREE_SEEDS + (ONE_SEED if seed == SEEDS[0] else ())
        heats += [Heat("race", name, seed) for name in (*names[turn:], *names[:turn])]
    return heats + [Heat("cnn", name, SEEDS[0]) for name in THREE_SEEDS]


def run(heat: Heat, minutes: float, command: str) -> dict[str, Any]:
    """A heat's result, as its file holds it."""
    dataset, source, _ = data.choose(DATASET, None)
    split = Path(data.prepare(dataset, source, seed=heat.seed, validation=VALIDATION).folder)  # before the clock begins
    task = (HERE / "peers.py", heat.contestant, SPACES[heat.space], heat.seed, source.resolve(), split.resolve())
    with tempfile.TemporaryDirectory(prefix="race-", ignore_cleanup_errors=True) as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder}
        environment.pop("TF_ENABLE_ONEDNN_OPTS", None)  # TensorFlow's own choice, or the contestant's
        watched = watch(
            [sys.executable, *map(str, task)],
            cap_seconds=60 * minutes,
            target=race_report.TARGETS[-1],
            folder=Path(folder),
            environment=environment,
        )
    return {
        "format": 1,
        "space": heat.space,
        "contestant": heat.contestant,
        "seed": heat.seed,
        "minutes": minutes,
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **asdict(watched),
    }


def machine() -> str:
    """This machine in a few words, with the widest instructions it has: processors of one name differ by a factor there."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    widest = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    return ", ".join([hardware.machine(), *widest[:1]])


def folder_of(results: Path, minutes: float) -> Path:
    """Where the results of this machine with this cap are: figures of two machines are never mixed."""
    return results / re.sub(r"[^a-z0-9]+", "-", f"{machine()} {minutes:g} min".lower()).strip("-")


def missing_packages(contestant: str) -> list[str]:
    """Modules that a contestant needs and that are not installed."""
    wanted = itertools.chain(*(modules for start, modules in NEEDS.items() if contestant.startswith(start)))
    return [module for module in wanted if importlib.util.find_spec(module) is None]


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["run", "report"], default="run")
    parser.add_argument("--only", metavar="CONTESTANT", choices=[*THREE_SEEDS, *ONE_SEED], help="one contestant")
    parser.add_argument("--space", choices=list(SPACES), help="one space")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="one seed")
    parser.add_argument("--minutes", type=float, help="wall clock of each (default 10; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="one seed, a folder of its own")
    asked = parser.parse_args()
    minutes = asked.minutes or (QUICK_MINUTES if asked.quick else MINUTES)
    results = HERE / "results" / ("quick" if asked.quick else "race")
    page = (results if asked.quick else HERE) / "RESULTS.md"
    heats = [
        heat
        for heat in programme()
        if asked.only in (None, heat.contestant)
        and asked.space in (None, heat.space)
        and (SEEDS[0] if asked.quick else asked.seed) in (None, heat.seed)
    ]
    if asked.what == "run":
        run_missing(heats, minutes, folder_of(results, minutes), " ".join(["python benchmarks/race.py", *sys.argv[1:]]))
    race_report.write(results, page)
    print(f"{page.relative_to(ROOT)} is written")


def run_missing(heats: Sequence[Heat], minutes: float, folder: Path, command: str) -> None:
    """Run every heat that has no result yet, or one that failed, with a line for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for heat in heats:
        place = folder / heat.file
        name = f"{heat.space:5} seed {heat.seed}  {heat.contestant:21}"
        if place.exists() and not race_report.failed(json.loads(place.read_text())):
            print(f"{name} is there", flush=True)
        elif absent := missing_packages(heat.contestant):
            print(f"{name} left out: {', '.join(absent)} is not installed. Try: make race", flush=True)
        else:
            result = run(heat, minutes, command)
            beside = place.with_suffix(".part")
            beside.write_text(json.dumps(result, indent=1) + "\n")
            beside.replace(place)  # whole, or not there: a kill leaves no half of a result
            print(f"{name} {race_report.line(result)}", flush=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The checkout's commit, with a + where the library or the race was changed since; empty outside of git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    ours = ("peers.py", "race.py", "race.toml", "stopwatch.py")
    changed = git("status", "--porcelain", "--", "autofash", "search_spaces", *(f"benchmarks/{name}" for name in ours))
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


if __name__ == "__main__":
    try:
        main()
    except AutofashError as error:
        raise SystemExit(f"race: {error}") from None
