"""KerasTuner's oracles as samplers: asked in a process of their own, and told all that they know from the ledger."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autofash.errors import ResourceError, cannot_write
from autofash.records import Config, Value
from autofash.space import Param, Space

ENGINE = "keras-tuner"
PREFIX = "kt-"  # of this engine's samplers, as the ledger has them
BAYESIAN, HYPERBAND = "kt-bayesian", "kt-hyperband"
ORACLES = (BAYESIAN, "kt-random", HYPERBAND, "kt-grid")
WAIT_SECONDS = 0.05  # for an answer, before the search looks after its trials again
MOST_RESTARTS = 3  # of the process, without an answer in between

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an oracle wants to have tried."""

    config: Config  # in the space's own parameters
    note: Mapping[str, Any]  # what it is to be told again with the trial, when it is asked anew
    until: int = 0  # epoch after which the trial ends and keeps its state; 0: not before its last
    continues: int | None = None  # the first attempt of the trial whose training it goes on with


@dataclass(slots=True)
class Answer:
    """What an oracle says when it is asked: a proposal, or whether one may come later."""

    proposal: Proposal | None = None
    later: bool = False  # it is thinking, or starting
    idle: bool = False  # it waits for the results of trials that run
    keep: frozenset[int] | None = (
        None  # trials (first attempts) whose checkpoints it may still want; None: it has not said
    )


class Helper:
    """The process that imports KerasTuner. It speaks JSON lines, and dies with this one."""

    def __init__(self, log: Path) -> None:
        """Start it. log: where it prints. Raises ResourceError."""
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            printed = log.open("ab")
        except OSError as error:
            raise cannot_write(log, error, f"chmod u+w {log}", "E-STUDY-DIR") from None
        with printed:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "autofash.oracle_server", str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=printed,
                    start_new_session=True,  # Ctrl-C in the terminal reaches the search alone
                    # Its core is the trials'; no device is for it.
                    env={
                        **os.environ,
                        "TF_CPP_MIN_LOG_LEVEL": "3",
                        "CUDA_VISIBLE_DEVICES": "-1",
                        "OMP_NUM_THREADS": "1",
                        "OPENBLAS_NUM_THREADS": "1",
                    },
                )
            except OSError as error:
                raise ResourceError(
                    f"no process can be started: {error.strerror}", "close some programs", code="E-SERVER"
                ) from None
        self.pid = self._process.pid
        self._rest = b""

    def send(self, message: Row) -> None:
        """Send a message; to one that is dead, in vain: `receive` will say so."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, seconds: float | None) -> Row | None:
        """Its next message, if one comes within so many seconds; None: however long it takes. Raises EOFError when it is dead."""
        assert self._process.stdout is not None
        until = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            block = os.read(self._process.stdout.fileno(), 2**16)
            if not block:
                raise EOFError
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        message: Row = json.loads(line)
        return message

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._process.wait()


@dataclass(slots=True)
class Oracle:
    """One of KerasTuner's oracles over a study's space.

    It is told nothing but what the ledger holds, so that it may die at any moment, with the search or alone.
    kind: a name in ORACLES. space: of a hypermodel it grows. seed: the study's. epochs: most of a trial. log: where its process
    prints.
    """

    kind: str
    space: Space
    seed: int
    epochs: int
    log: Path
    _helper: Helper | None = None
    _began: float = 0.0  # monotonic: when the process was started
    _ready: bool = False
    _asked: int | None = None  # the trial that an answer is due for
    _sent: dict[int, Row] = field(default_factory=dict)  # by first attempt: what the process knows of the ledger
    _restarts: int = 0
    _known: set[str] = field(default_factory=set)  # parameters that the process has been told of

    @property
    def starting_seconds(self) -> float:
        """Since when its process is importing KerasTuner; 0 where it is not."""
        return time.monotonic() - self._began if self._helper is not None and not self._ready else 0.0

    def start(self) -> None:
        """Start its process, if it does not run, and wait for nothing. Raises ResourceError."""
        if self._helper is None:
            self._helper, self._began = Helper(self.log), time.monotonic()

    def ask(self, number: int, seed: int, trials: Sequence[FrozenTrial], repeats: int) -> Answer:
        """A config for the trial of this number, which takes this seed, if there is one just now.

        trials: all of the study. repeats: how often in a row it has proposed what was tried already.
        Raises ResourceError where its process cannot be kept alive, or fails.
        """
        until = time.monotonic() + WAIT_SECONDS
        while True:
            self.start()
            if self._ready and self._asked is None:
                ask = {"number": number, "seed": seed, "repeats": repeats, "trials": self._news(trials)}
                self._order({"ask": {**ask, "shown": self._unknown()}})
                self._asked = number
            told = self._hear(until - time.monotonic())
            if told is None:
                return Answer(later=True)
            if told.get("number") == number:
                return _answer(told)

    def draw(self, name: str, param: Param, seed: int) -> Value:
        """A value of a parameter that shows itself while a trial builds, drawn by its seed; from then on the oracle proposes it.

        Waits for the process, as long as it takes to start or to think. Raises ResourceError.
        """
        ordered: Helper | None = None
        while True:
            self.start()
            if self._ready and self._asked is None and ordered is not self._helper:
                ordered = self._helper
                self._order({"draw": {"name": name, "param": param.model_dump(), "seed": seed}})
                self._known.add(name)
            told = self._hear(None)
            if told and "value" in told:
                value: Value = told["value"]
                return value

    def close(self) -> None:
        """End its process."""
        if self._helper is not None:
            self._helper.close()
        self._forget()

    def _order(self, message: Row) -> None:
        assert self._helper is not None
        self._helper.send(message)

    def _hear(self, seconds: float | None) -> Row | None:
        """Its next word, if one comes in time; what it says of its start and its end is seen to here."""
        assert self._helper is not None
        try:
            told = self._helper.receive(None if seconds is None else max(0.0, seconds))
        except EOFError:
            told = {"failed": ""}
        if told is None:
            return None
        if "failed" in told:
            starting = not self._ready
            self.close()
            self._restarts += 1
            if told["failed"] or self._restarts > MOST_RESTARTS:
                raise self._failure(told["failed"], starting)
            return {}
        if "ready" in told:
            self._order({"open": self.kind, "space": self._unknown(), "epochs": self.epochs, "seed": self.seed})
        elif "opened" in told:
            self._ready = True
        else:
            self._restarts, self._asked = 0, None
        return told

    def _failure(self, said: str, starting: bool) -> ResourceError:
        if not said:
            fact = "the process that asks KerasTuner died again and again"
        elif starting:
            fact = f"KerasTuner cannot be used: {said.strip().splitlines()[-1]}"
        else:
            fact = f"KerasTuner's {self.kind.removeprefix(PREFIX)} oracle failed: {said}"
        return ResourceError(fact, f"look into {self.log}, or --engine optuna", code="E-SERVER")

    def _forget(self) -> None:
        self._helper, self._ready, self._asked, self._sent, self._known = None, False, None, {}, set()

    def _unknown(self) -> Row:
        """Parameters of the space that the process is told of now: those of a hypermodel show themselves by and by."""
        found = {name: param.model_dump() for name, param in self.space.params.items() if name not in self._known}
        self._known.update(found)
        return found

    def _news(self, trials: Sequence[FrozenTrial]) -> list[Row]:
        """What has changed in the ledger since the process was last told."""
        changed = []
        for row in rows(trials):
            if self._sent.get(row["id"]) != row:
                self._sent[row["id"]] = row
                changed.append(row)
        return changed


def rows(trials: Sequence[FrozenTrial]) -> list[Row]:
    """A study's trials as an oracle is told of them; a trial's attempts are one, known by the number of the first."""
    attempts: dict[int, FrozenTrial] = {}
    for trial in trials:
        attempts[first_attempt(trial, trials)] = trial
    return [
        {
            "id": number,
            "config": {**trial.user_attrs.get("queued", {}), **trial.params},
            "note": trial.user_attrs.get("proposal"),
            **_standing(trial),
        }
        for number, trial in attempts.items()
        # A starter that waits is nobody's concern yet; what an oracle proposed is, before a hypermodel has asked for it.
        if trial.params or "retry_of" in trial.user_attrs or trial.user_attrs.get("proposal")
    ]


def first_attempt(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number of a trial's first attempt, which is how an oracle calls it."""
    while trial.user_attrs.get("retry_of", trial.number) < trial.number:
        trial = trials[trial.user_attrs["retry_of"]]
    return trial.number


def last_attempt(number: int, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The trial that an oracle calls by this number, as it was tried last."""
    return next(trial for trial in reversed(trials) if first_attempt(trial, trials) == number)


def _standing(trial: FrozenTrial) -> Row:
    """How a trial stands, in KerasTuner's terms, and its value. One that was pruned, or pauses, has come as far as it has."""
    looks = trial.intermediate_values
    last = looks[max(looks)] if looks else None
    if "duplicate_of" in trial.user_attrs:
        return {"status": "REPEATS", "value": None}
    if trial.state is TrialState.COMPLETE:
        return {"status": "COMPLETED", "value": trial.value}
    paused = trial.state is TrialState.RUNNING and trial.user_attrs.get("paused", {}).get("rung") is not None
    if (trial.state is TrialState.PRUNED or paused) and last is not None:
        return {"status": "COMPLETED", "value": last}
    return {"status": "RUNNING" if not trial.state.is_finished() else "FAILED", "value": None}


def _answer(told: Row) -> Answer:
    keep, idle = frozenset(told["keep"]), told["status"] == "IDLE"
    if told["status"] != "RUNNING":
        return Answer(idle=idle, keep=keep)
    until, continues = told.get("until", 0), told.get("continues")
    return Answer(Proposal(told["config"], told["note"], until, continues), keep=keep)
