"""Random kill -9 of trials, of coordinators, and of coordinators at failpoints; after each the study is looked at, and resumed.

python -m tests.faults.torture                  # 500, 300 and 200 kills: about ten minutes; `make torture`
python -m tests.faults.torture --seed 7 --trials 25 --coordinators 20 --failpoints 15

The searches are real, on one SQLite file, with rungs at which trials pause; the trials are the stand-ins of `tests.fakes`. A seed
replays the kills in their order and with their waits; when exactly one strikes, the machine has its word in too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from autofash.failpoints import VARIABLE
from tests.faults.command import Command, Commands, last_told
from tests.faults.invariant import broken

TARGET = 25  # finished trials of each study
EPOCH_SECONDS = 0.01
POINTS = {
    "study": 5,
    "ask": 30,
    "params": 30,
    "report": 60,
    "artifact": 1,
    "attrs": 20,
    "tell": 60,
}  # passages, at most
LEGITIMATE = (0, 5, 6)  # exit codes of a search whose trials and server are killed: ten in a row, a server four times
OUTLIVED_SECONDS = 600.0  # that a search of instant trials never takes


@dataclass
class Searched:
    """A study that is searched, with all commands that were at it."""

    storage: str
    name: str
    commands: list[Command] = field(default_factory=list)
    looked: int = 0  # how many of them are looked at
    done: bool = False


@dataclass
class Figures:
    """What became of a torture."""

    trials: int = 0  # killed
    coordinators: int = 0
    failpoints: int = 0
    acknowledged: int = 0  # trials whose end a search has told of
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)  # sentences of the invariant, each once

    def __str__(self) -> str:
        def count(*kinds: str) -> int:
            return sum(sentence.split(": ")[1].startswith(kinds) for sentence in self.broken)

        lost, twice, stuck = (
            count("kept", "exactly", "values", "integrity"),
            count("told once", "numbers"),
            count("stuck"),
        )
        return (
            f"{self.trials + self.coordinators + self.failpoints} kill -9: {self.trials} of trials, {self.coordinators} of "
            f"coordinators, {self.failpoints} at failpoints; {self.acknowledged} acknowledged trials, {lost} lost, "
            f"{twice} duplicated, {stuck} stuck, {len(self.broken) - lost - twice - stuck} other faults; {self.seconds:.0f} s"
        )


class Torture:
    """So many kills, in searches of one folder."""

    def __init__(self, commands: Commands, here: Path, seed: int) -> None:
        self.figures = Figures()
        self._commands, self._here, self._random = commands, here, random.Random(seed)
        self._studies: list[Searched] = []

    def run(self, trials: int, coordinators: int, failpoints: int) -> Figures:
        """Kill, and look; at last let every study come to its end."""
        began = time.monotonic()
        lives = ["coordinator"] * coordinators + ["failpoint"] * failpoints
        self._random.shuffle(lives)
        deaths = [0] * len(lives)  # trials to be killed in each life; a failpoint may leave no time for them
        at = [place for place, kind in enumerate(lives) if kind == "coordinator"]
        for _ in range(trials):
            deaths[self._random.choice(at)] += 1
        for kind, wanted in zip(lives, deaths, strict=True):
            if kind == "failpoint":
                self._die_at_a_failpoint()
            else:
                self._live_and_die(wanted)
        for study in list(self._studies):
            self._finish(study)
        self.figures.broken += [f"temporary: left: {path}" for path in (self._here / "tmp").glob("*autofash-*")]
        self.figures.acknowledged = sum(len(last_told(study.commands)[0]) for study in self._studies)
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def _live_and_die(self, deaths: int) -> None:
        """Kill so many trials of a search, then the coordinator."""
        command = self._start(self._study())
        while True:
            time.sleep(self._random.uniform(0.0, 0.25))
            if command.code is not None:  # it has come to its end before
                command = self._start(self._study())
            elif deaths:
                if self._kill_a_trial(command):
                    deaths -= 1
                    self.figures.trials += 1
                    self._look(live=True)
            else:
                time.sleep(self._random.uniform(0.0, 0.5))
                if command.code is None:
                    break
        command.kill()
        self.figures.coordinators += 1
        self._look()

    def _kill_a_trial(self, command: Command) -> bool:
        """Kill one of the processes below the coordinator; False when there is no trial yet. One in ten is their server."""
        try:
            below = [child.pid for child in psutil.Process(command.pid).children(recursive=True)]
            if len(below) < 2:
                return False
            server, *trials = below
            os.kill(server if self._random.random() < 0.1 else self._random.choice(trials), signal.SIGKILL)
        except (psutil.Error, ProcessLookupError):
            return False
        return True

    def _die_at_a_failpoint(self) -> None:
        """Let a search run into a failpoint; where it ends before, another."""
        while True:
            point = self._random.choice(list(POINTS))
            armed = f"{point}:kill:{self._random.randint(1, POINTS[point])}"
            study = self._study(new=point == "study", file=len(self._studies) if point == "study" else 0)
            command = self._start(study, **{VARIABLE: armed})
            code = command.wait(OUTLIVED_SECONDS)
            died = any("signal 9" in record["why"] for record in command.ended)
            self._look()
            if code == -signal.SIGKILL or (point == "artifact" and died):
                self.figures.failpoints += 1
                return

    def _study(self, *, new: bool = False, file: int = 0) -> Searched:
        """The study that is searched now; a new one where that is at its end."""
        if new or not self._studies or self._studies[-1].done:
            name = f"s{len(self._studies)}"
            self._studies.append(Searched(f"sqlite:///studies/studies{file or ''}.db", name))
        return self._studies[-1]

    def _start(self, study: Searched, **environment: str) -> Command:
        self._look()
        settings = ("--dataset", "digits", "--space", "mlp", "--epochs", "6", "--workers", "3", "--sampler", "random")
        place = ("--study", study.name, "--storage", study.storage, "--trials", str(TARGET))
        fakes = {"AUTOFASH_FAKE_SECONDS": str(EPOCH_SECONDS), "TMPDIR": str(self._here / "tmp")}
        command = self._commands.start("search", *settings, *place, "--quiet", here=self._here, **fakes, **environment)
        study.commands.append(command)
        return command

    def _look(self, *, live: bool = False) -> None:
        """Look at the study that was searched last, while it is searched, or once its command has ended or was killed."""
        study = self._studies[-1] if self._studies else None
        if study is None or (not live and study.looked == len(study.commands)):
            return
        command, finished = study.commands[-1], None
        ended, paused = last_told(study.commands)
        if not live:
            study.looked = len(study.commands)
            code = command.wait()
            if code not in (*LEGITIMATE, -signal.SIGKILL):
                self._note(study, f"exit: {code}: {command.said.strip()}")
            if any(told.get("why", "").startswith("all ") for told in command.told):
                study.done, finished = True, TARGET
            self._note(study, *(sentence for told in command.told for sentence in told.get("broken", ())))
        self._note(
            study,
            *broken(
                self._here / study.storage.removeprefix("sqlite:///"),
                study.name,
                acknowledged=ended,
                paused=paused,
                workers=() if finished else None,
                finished=finished,
                said=command.said,
                here=self._here,
                searching=live,
            ),
        )

    def _finish(self, study: Searched) -> None:
        """Resume a study until it is at its end; then look at it once more."""
        self._studies.remove(study)
        self._studies.append(study)
        for _ in range(5):
            if study.done:
                break
            self._start(study).wait(OUTLIVED_SECONDS)
            self._look()
        study.looked = 0
        if not study.done:
            self._note(study, "exactly --trials: it does not come to its end")
        self._look()

    def _note(self, study: Searched, *sentences: str) -> None:
        for sentence in sentences:
            if f"{study.name}: {sentence}" not in self.figures.broken:
                self.figures.broken.append(f"{study.name}: {sentence}")
                print(self.figures.broken[-1], file=sys.stderr, flush=True)


def torture(here: Path, seed: int, *, trials: int, coordinators: int, failpoints: int) -> Figures:
    """Kill so many of each in searches of this folder."""
    (here / "tmp").mkdir()
    with closing(Commands()) as commands:
        return Torture(commands, here, seed).run(trials, coordinators, failpoints)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures in one line; 1 where anything is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--coordinators", type=int, default=300)
    parser.add_argument("--failpoints", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args(arguments)
    kills = {"trials": asked.trials, "coordinators": asked.coordinators, "failpoints": asked.failpoints}
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ["AUTOFASH_CACHE_DIR"] = f"{folder}/cache"
        here = Path(folder) / "work"
        here.mkdir()
        figures = torture(here, asked.seed, **kills)
        print(f"{figures}, seed {asked.seed}")
        if figures.broken:
            kept = Path(tempfile.mkdtemp(prefix="torture-failed-")) / "work"
            here.rename(kept)
            again = " ".join(f"--{name} {count}" for name, count in kills.items())
            print(f"kept in {kept}; again: python -m tests.faults.torture --seed {asked.seed} {again}")
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
