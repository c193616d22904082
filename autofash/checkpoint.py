"""The state of a training, kept so that one that was killed or paused goes on from there and ends up with the same weights."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import keras
import numpy as np

from autofash.manifest import put

NAME = re.compile(r"step-(\d+)\.npz")


class Checkpoint:
    """Weights, optimizer and random states of one model in one folder; one moment at a time.

    Keras's own BackupAndRestore overwrites its file in place, notes the epoch in another (keras#20463), and leaves out the
    random states of dropout layers. Here the file is written beside its place, its name is the step, and all is in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, model: keras.Model) -> int:
        """Put the kept state into a compiled model like the one it came from, and return its step; 0 where there is none."""
        for path in reversed(self._kept()):
            variables = _variables(model)
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                    state = [kept[str(number)] for number in range(len(kept.files))]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                state = []
            if [array.shape for array in state] == [tuple(variable.shape) for variable in variables]:
                for variable, array in zip(variables, state, strict=True):
                    variable.assign(array)
                return _step(path)
            path.unlink(missing_ok=True)  # damaged, or another model's
        return 0

    def save(self, model: keras.Model, step: int) -> None:
        """Keep the model's state after this many steps, in place of the one before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        before = self._kept()
        beside = self._folder / "new.npz"
        with beside.open("wb") as out:
            np.savez(out, **{str(n): keras.ops.convert_to_numpy(v) for n, v in enumerate(_variables(model))})
        put(beside, self._folder / f"step-{step}.npz", "artifact")
        for path in before:
            path.unlink(missing_ok=True)

    def _kept(self) -> list[Path]:
        return sorted((path for path in self._folder.glob("step-*") if NAME.fullmatch(path.name)), key=_step)


def _variables(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: of the model, the seeds of dropout included, and of the optimizer."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _step(path: Path) -> int:
    found = NAME.fullmatch(path.name)
    return int(found.group(1)) if found else 0
