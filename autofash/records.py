"""What travels between the rooms: small, frozen, and each field says its unit and range."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

Value = bool | int | float | str
Config = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """All that a process needs to run one trial; it crosses the process border as JSON."""

    trial: int  # number in the study, from 0
    config: Config  # the whole config, "family" included
    seed: int  # 0 to 2**31 - 1
    epochs: int  # most epochs to train, from 1; the length of its learning-rate schedule
    data: str  # folder that data.cache prepared
    objective: str = "accuracy"  # a name in OBJECTIVES
    task: str = "autofash.training:run_trial"  # module:function that runs it
    threads: int = 1  # of the trial's process, from 1
    precision: str = "float32"  # a Keras dtype policy
    device: str = ""  # CUDA_VISIBLE_DEVICES of the process; empty: left as it is
    log: str = ""  # file for its stdout and stderr; empty: none
    early: int = (
        0  # training images after which it reports for the first time, within its first epoch; 0: not before its end
    )
    checkpoint: str = ""  # folder of its state: kept there when it pauses, gone on from where there is one; empty: none
    until: int = (
        0  # epoch after which it ends and keeps its state, for another trial to continue; 0: it ends after `epochs`
    )
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON for tasks other than a search's trial


@dataclass(frozen=True, slots=True)
class Started:
    """A trial's process reached its first line."""

    trial: int
    pid: int
    seconds: float  # wall clock from submit to here


@dataclass(frozen=True, slots=True)
class Suggest:
    """What a trial asks while a user's own code builds its model: a value for a parameter that shows itself only then."""

    trial: int
    name: str
    param: Mapping[str, Any]  # as a space's file has it: {"type": "int", "low": 1, "high": 3 …}


@dataclass(frozen=True, slots=True)
class ModelBuilt:
    """What a trial says before it trains: how large its model is, and how dear."""

    trial: int
    parameters: int
    work: float  # of one image's forward pass, in multiply-adds; see autofash.training.work_of
    settled: bool = True  # whether its config is whole: a user's own way to train may still ask for parameters


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What a trial says after each epoch, and before the end of the first where it is asked for an early look."""

    trial: int  # number in the study, from 0
    epoch: int  # from 1; 0 is the early look, within the first epoch and on a part of the validation images
    objective: float  # what the study maximises, a fraction, 0 to 1
    accuracy: float  # on the validation images, fraction, 0 to 1
    loss: float  # cross-entropy on the validation images, nats
    train_accuracy: float  # running mean over the epoch, augmentation and dropout included, 0 to 1
    train_loss: float  # running mean over the epoch, label smoothing included
    images: int  # training images seen since the trial began
    seconds: float  # wall clock since the trial began, validation included


class Action(StrEnum):
    """What a trial is to do after a report."""

    GO = "go"
    STOP = "stop"
    PAUSE = "pause"  # keep the state and end; it may be continued later


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to what a trial says; a stop and a pause always say why, and a suggestion brings its value."""

    action: Action
    why: str = ""
    value: Value | None = None

    @classmethod
    def go(cls) -> Verdict:
        """Train on."""
        return cls(Action.GO)

    @classmethod
    def suggest(cls, value: Value) -> Verdict:
        """Build on, with this value."""
        return cls(Action.GO, value=value)

    @classmethod
    def stop(cls, why: str) -> Verdict:
        """Stop after this epoch, for this reason."""
        return cls(Action.STOP, why)

    @classmethod
    def pause(cls, why: str) -> Verdict:
        """Keep the state and end the process, for this reason."""
        return cls(Action.PAUSE, why)


class Ending(StrEnum):
    """How a trial's process ended."""

    DONE = "done"  # the task returned
    FAILED = "failed"  # the task raised, or hung; the reason says what
    DIED = "died"  # the process was killed or crashed: worth one more attempt
    LOST = "lost"  # stopped through no fault of its own: it is queued again
    DISK = "disk"  # its disk is full or broken: it is queued again, and whoever runs it had better stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a trial's process."""

    trial: int
    ending: Ending
    reason: str = ""  # why it failed, died, was lost or could not write; empty when done
    seconds: float = 0.0  # wall clock since submit
    details: Mapping[str, Any] = field(default_factory=dict)  # what the task returned, JSON


@dataclass(frozen=True, slots=True)
class Rerun:
    """A config that is to be run again with another seed."""

    config: Config  # "family" included
    seed: int  # 0 to 2**31 - 1
    origin: str  # where it comes from, in words


Said = Suggest | ModelBuilt | EpochReport  # what waits for a verdict
Report = Callable[[Said], Verdict]
Task = Callable[[TrialSpec, Report], Mapping[str, Any]]


class State(StrEnum):
    """A trial's state in the ledger."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    RUNNING = "running"
    PAUSED = "paused"  # at a rung, with its checkpoint; it is continued, or pruned when the search is over
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as the ledger has it."""

    number: int  # from 0
    state: State
    config: Config  # "family" included
    value: float | None  # the best epoch's objective, fraction; the early look's before there is one; else None
    best_epoch: int | None  # from 1
    curve: tuple[float, ...]  # objective after each epoch
    reports: tuple[EpochReport, ...]  # one an epoch; none while it runs, or when the coordinator died under it
    seconds: float  # wall clock of the trial's process
    why: str  # why it was pruned or failed; empty otherwise
    seed: int
    origin: str  # "starter NAME", "retry of N", "continues trial N", "trial N, seed K" of a confirmation, or "sampled"
    ended: datetime | None = None  # wall clock; None while it runs or waits
    early: EpochReport | None = None  # its early look, where it had one
    continues: int | None = None  # the trial whose training it goes on with, and whose epochs come first in its curve
    repeats: int | None = None  # the trial that has its config; it was given up, and counts for nothing

    @property
    def finished(self) -> bool:
        """Whether it counts towards --trials: complete or pruned, never failed."""
        return self.state in (State.COMPLETE, State.PRUNED)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a trial stands in its study, without its config and curve: cheap to read, however many there are."""

    number: int  # from 0
    state: State
    value: float | None  # the best epoch's objective so far, fraction; None before the first report

    @property
    def ranks(self) -> bool:
        """Whether it has a place on the leaderboard."""
        return self.state is State.COMPLETE and self.value is not None


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study remembers of how it was begun; a resumed search must agree."""

    dataset: str
    data_fingerprint: str  # SHA-256 of the training images, labels and class names
    space: str  # name or file of the space
    space_table: Mapping[str, Any]  # the space itself, as its TOML
    space_fingerprint: str  # SHA-256
    sampler: str
    pruner: str
    objective: str
    epochs: int
    seed: int
    validation: float  # share of the training images, above 0, below 1
    starters: bool
    substituted: str = ""  # the data set that was wanted when another had to serve


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of `autofash studies`."""

    name: str
    dataset: str
    space: str
    trials: int  # total that was asked for
    complete: int
    pruned: int
    paused: int
    failed: int
    best: float | None  # fraction
    updated: datetime


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A refitted, saved and verified model."""

    folder: Path  # holds model.keras and manifest.json
    model: Path
    metrics: Mapping[str, float]  # test_accuracy and the rest, fractions unless the name says otherwise
    trial: int  # of an ensemble, the first member's
    repeated: bool  # the files were there already, intact; nothing was trained or opened
    repaired: str = ""  # a file of an earlier export that was missing or changed, so that all was made anew
