"""The checkpoints of a study's trials: where they lie, who takes one over, and which are removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path


class Checkpoints:
    """Those of one study. Only its writer, and the trial that a checkpoint belongs to, touch them."""

    def __init__(self, folder: Path) -> None:
        """folder: the study's."""
        self._trials = folder / "trials"
        self.kept: set[int] = set()  # trials that have ended, and that another may go on from

    def place(self, number: int) -> Path:
        """The folder of a trial's checkpoint."""
        return self._trials / str(number) / "checkpoint"

    def hand_over(self, giver: int, taker: int) -> None:
        """Give a trial the checkpoint of another; where that has none, nothing, and it trains from the beginning by itself."""
        place = self.place(taker)
        shutil.rmtree(place, ignore_errors=True)
        with suppress(FileNotFoundError):
            shutil.copytree(self.place(giver), place, copy_function=_link)

    def remove(self, number: int) -> None:
        """Remove a trial's checkpoint, if it has one."""
        self.kept.discard(number)
        shutil.rmtree(self.place(number), ignore_errors=True)

    def remove_all_but(self, wanted: Container[int]) -> None:
        """Remove what is neither wanted nor kept: a kill may have come between a trial's end and the removal."""
        for place in self._trials.glob("*/checkpoint"):
            number = place.parent.name
            if number.isdigit() and int(number) not in wanted and int(number) not in self.kept:
                self.remove(int(number))


def _link(source: str, place: str) -> None:
    """A second name for a file that nobody changes in place; a copy, where the file system has no such names."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place)
