"""Trials that have begun and not ended, and how their study stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from autofash.records import Config, EpochReport


@dataclass(slots=True)
class Underway:
    """What the writer, and whoever decides about the trial, know of it."""

    trial: optuna.Trial
    config: Config
    epochs: int  # most that it trains
    seed: int
    origin: str
    reports: list[EpochReport] = field(default_factory=list)  # the early look's included
    stopped: str = ""  # why it was told to stop
    pausing: str = ""  # why it was told to pause, or is paused
    rung: int | None = None  # where it paused last; None: at none yet
    waited: bool = False  # it paused at a rung, or was put off before its first
    ahead: bool = False  # it went on from a rung that too few have reached, and gives way once another is better there
    leads: bool = False  # it is trained to its end, whatever its rungs say
    until: int = 0  # epoch after which it ends and keeps its state; 0: it ends after `epochs`
    continues: int | None = None  # the trial whose training it goes on with
    seconds_before: float = 0.0  # of that training, by its reports
    seconds: float = 0.0  # of its processes that have ended
    work: float | None = None  # of one image's forward pass, multiply-adds
    drawing: optuna.Trial | None = None  # the same trial, with the sampler that it was begun with
    settled: bool = True  # whether its config is whole, and its own; a hypermodel's is not before it is built
    repeats: int | None = None  # the trial that has the same config, which showed itself only while its model was built

    @property
    def whole(self) -> list[float]:
        """The objective after each whole epoch, as far as it is a number."""
        return [said.objective for said in self.reports if said.epoch and math.isfinite(said.objective)]


@dataclass(frozen=True, slots=True)
class Situation:
    """How a study stands when something is to be decided."""

    target: int  # trials in all
    complete: int  # trials that were trained to the end
    running: Mapping[int, Underway]
    paused: Mapping[int, Underway]
    all_begun: bool  # no further trial will begin
    seconds_left: float | None  # of the search; None where it has no budget
