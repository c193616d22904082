"""Study definitions: TOML files that hold what a search needs, so that a command is short and can be repeated."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from autofash.errors import SpaceError, UsageError, brief, first
from autofash.space.files import problems_of, read_toml


class StudyDefinition(BaseModel):
    """The settings of a study file; what is left out is the search's default."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1]
    dataset: str | None = None
    space: str | None = None  # a name, or a file beside this one
    hypermodel: str | None = None  # FILE.py:NAME or package.module:NAME
    pixels: str | None = None  # "raw", "unit" or "standardized"
    flat: bool | None = None
    engine: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    objective: str | None = None
    trials: int | None = None
    epochs: int | None = None
    budget: str | None = None  # such as "30m"
    patience: str | None = None  # such as "1h"
    target: float | None = None
    workers: int | None = None
    seed: int | None = None
    starters: bool | None = None
    warm_start: str | None = None


def load_definition(path: Path) -> StudyDefinition:
    """The study definition of a file. Raises SpaceError with every problem of it."""
    try:
        definition = StudyDefinition.model_validate(read_toml(path))
    except ValidationError as error:
        problems = problems_of(error, str(path), list(StudyDefinition.model_fields))
        raise SpaceError(first(problems, str(path))) from None
    if (
        definition.space is not None
        and definition.space.endswith(".toml")
        and os.path.exists(path.parent / definition.space)  # False, too, for a name that no file can have
    ):
        return definition.model_copy(update={"space": str(path.parent / definition.space)})
    return definition


def seconds(duration: str, option: str = "--budget") -> float:
    """A duration such as 90s, 30m or 1h30m in seconds. Raises UsageError, which names the option.

    >>> seconds("1h30m")
    5400.0
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", duration.strip())
    if not parts or not any(parts.groups()):
        raise UsageError(f"{brief(duration)} is no duration", f"{option} 30m, 90s or 1h30m")
    hours, minutes, rest = (float(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + rest
