"""Reads what a KerasTuner search left on the disk, `<directory>/<project_name>`: oracle.json and trial_*/trial.json.

Nothing in it is trusted: files are bounded, JSON alone is read, links are not followed. KerasTuner need not be installed. It
writes these files in place, so that one of a search that runs, or was killed, may be cut short: it is named, the others are read.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autofash.errors import StudyError, brief, cut, printable
from autofash.records import Value
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Param

LARGEST_FILE = 2**22  # bytes; a trial of a thousand hyperparameters is a twentieth of it
MOST_TRIALS = 10_000
MOST_VALUES = 1_000  # hyperparameters of a trial, metrics, and values of a choice
MOST_STEPS = 100_000  # of a metric
LONGEST = 200  # characters of a name or a word
TUNER = "tuner/"  # how the values begin that Hyperband keeps beside the hyperparameters
CODE = "E-IMPORT"


@dataclass(frozen=True, slots=True)
class TunerTrial:
    """A trial as KerasTuner kept it."""

    id: str  # KerasTuner's, unique in its project
    status: str  # COMPLETED, FAILED, INVALID, RUNNING, IDLE or STOPPED
    values: Mapping[str, Value]  # of the hyperparameters that were active
    params: Mapping[str, Param]  # of the same names: what each was drawn from
    tuner: Mapping[
        str, Value
    ]  # Hyperband's: epochs, initial_epoch, bracket, round, trial_id of the trial that it continues
    metrics: Mapping[str, Mapping[int, float]]  # name → epoch, from 1 → mean of the executions, finite
    highest: frozenset[str]  # metrics of which more is better
    score: float | None  # the objective at its best
    message: str  # the last line of what went wrong; empty where nothing did


@dataclass(frozen=True, slots=True)
class TunerFolder:
    """A KerasTuner project."""

    trials: tuple[TunerTrial, ...]  # in the order in which they began
    strange: tuple[str, ...]  # a line for each file that could not be read
    again: frozenset[str]  # ids of trials that KerasTuner runs, or will try again
    sampler: str  # kt-hyperband or kt-bayesian; keras-tuner where the folder does not say
    seed: int


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)  # further keys may come with a later KerasTuner


class _Parent(_Model):
    name: str
    values: list[Value] = Field(max_length=MOST_VALUES)


class _Condition(_Model):
    class_name: Literal["Parent"]
    config: _Parent


class _Hyperparameter(_Model):
    name: str = Field(max_length=LONGEST)
    conditions: list[_Condition] = Field(default_factory=list, max_length=MOST_VALUES)


class _IntConfig(_Hyperparameter):
    min_value: int
    max_value: int
    step: int | None = None
    sampling: Literal["linear", "log", "reverse_log"] | None = None


class _FloatConfig(_Hyperparameter):
    min_value: float
    max_value: float
    step: float | None = None
    sampling: Literal["linear", "log", "reverse_log"] | None = None


class _ChoiceConfig(_Hyperparameter):
    values: list[Value] = Field(min_length=1, max_length=MOST_VALUES)


class _FixedConfig(_Hyperparameter):
    value: Value


class _Int(_Model):
    class_name: Literal["Int"]
    config: _IntConfig


class _Float(_Model):
    class_name: Literal["Float"]
    config: _FloatConfig


class _Choice(_Model):
    class_name: Literal["Choice"]
    config: _ChoiceConfig


class _Boolean(_Model):
    class_name: Literal["Boolean"]
    config: _Hyperparameter


class _Fixed(_Model):
    class_name: Literal["Fixed"]
    config: _FixedConfig


_Entry = Annotated[_Int | _Float | _Choice | _Boolean | _Fixed, Field(discriminator="class_name")]


class _Hyperparameters(_Model):
    space: list[_Entry] = Field(max_length=MOST_VALUES)
    values: dict[str, Value] = Field(max_length=MOST_VALUES)


class _Observation(_Model):
    value: list[float] = Field(min_length=1, max_length=MOST_VALUES)
    step: int = Field(ge=0, le=10**9)


class _Metric(_Model):
    direction: Literal["min", "max"]
    observations: list[_Observation] = Field(max_length=MOST_STEPS)


class _Metrics(_Model):
    metrics: dict[str, _Metric] = Field(max_length=MOST_VALUES)


class _TrialFile(_Model):
    trial_id: str = Field(max_length=64)
    hyperparameters: _Hyperparameters
    metrics: _Metrics
    score: float | None
    status: Literal["COMPLETED", "FAILED", "INVALID", "RUNNING", "IDLE", "STOPPED"]
    message: str | None = None


class _OracleFile(_Model):
    ongoing_trials: dict[str, str] = Field(default_factory=dict)
    start_order: list[str] = Field(default_factory=list)
    retry_queue: list[str] = Field(default_factory=list)
    seed: int = 0
    brackets: list[Any] | None = None  # Hyperband's alone
    alpha: float | None = None  # the Gaussian process's alone


_Kind = TypeVar("_Kind", bound=BaseModel)


def read_folder(folder: Path) -> TunerFolder:
    """A KerasTuner project, as far as it can be read. Raises StudyError where the folder is none, or holds too many trials."""
    found, strange = [], []
    places = list(_trial_folders(folder))
    try:
        oracle = _parsed(folder / "oracle.json", _OracleFile)
    except FileNotFoundError:
        oracle = _OracleFile()
        if not places:
            raise _no_project(folder) from None
    except StudyError as error:
        oracle = _OracleFile()
        strange.append(error.problems[0].fact)
    for place in places:
        if place.parent.is_symlink():
            strange.append(f"{place.parent.name}: a link, which is not followed")
            continue
        try:
            found.append(read_trial(place))
        except FileNotFoundError:
            pass  # KerasTuner makes the folder first
        except StudyError as error:
            strange.append(f"{place.parent.name}/{error.problems[0].fact}")
    order = {trial: place for place, trial in enumerate(oracle.start_order)}
    kind = (
        "kt-hyperband" if oracle.brackets is not None else "kt-bayesian" if oracle.alpha is not None else "keras-tuner"
    )
    return TunerFolder(
        trials=tuple(sorted(found, key=lambda trial: (order.get(trial.id, len(order)), trial.id))),
        strange=tuple(strange),
        again=frozenset((*oracle.ongoing_trials.values(), *oracle.retry_queue)),
        sampler=kind,
        seed=oracle.seed if 0 <= oracle.seed < 2**31 else 0,
    )


def read_trial(path: Path) -> TunerTrial:
    """A trial.json. Raises StudyError with what is wrong with it, FileNotFoundError."""
    told = _parsed(path, _TrialFile)
    name = path.name
    if path.parent.name.startswith("trial_") and path.parent.name != f"trial_{told.trial_id}":
        raise _strange(f"{name}: it says that it is trial {brief(told.trial_id)}")
    if not told.trial_id or not told.trial_id.isprintable():
        raise _strange(f"{name}: {brief(told.trial_id)} is no id of a trial")
    values = told.hyperparameters.values
    own = {key: value for key, value in values.items() if not key.startswith(TUNER)}
    active = {
        entry.config.name: entry
        for entry in told.hyperparameters.space
        if all(values.get(found.config.name) in found.config.values for found in entry.config.conditions)
    }
    params, chosen = {}, {}
    for key, value in own.items():
        if key not in active or not _plain(key):
            raise _strange(f"{name}: {brief(key)} is a value without a hyperparameter")
        params[key], chosen[key] = _param(active[key], value, name)
    tuner = {key.removeprefix(TUNER): value for key, value in values.items() if key.startswith(TUNER)}
    if not all(_plain(key) and _usable(value) for key, value in tuner.items()):
        raise _strange(f"{name}: its {TUNER}* values are none")
    began = tuner.get("initial_epoch", 0)
    if isinstance(began, bool) or not isinstance(began, int) or not 0 <= began <= 10**9:
        raise _strange(f"{name}: {TUNER}initial_epoch {brief(began)} is no number of epochs")
    return TunerTrial(
        id=told.trial_id,
        status=told.status,
        values=chosen,
        params=params,
        tuner=tuner,
        # KerasTuner counts steps from 0, and from 0 again in a trial that continues another.
        metrics={key: _history(metric, int(began)) for key, metric in told.metrics.metrics.items() if _plain(key)},
        highest=frozenset(key for key, metric in told.metrics.metrics.items() if metric.direction == "max"),
        score=told.score if told.score is not None and math.isfinite(told.score) else None,
        message=_last_line(told.message or ""),
    )


def widened(one: Param, other: Param) -> Param | None:
    """The parameter that holds the values of both; None where they are of different kinds."""
    if isinstance(one, ChoiceParam) and isinstance(other, ChoiceParam):
        return ChoiceParam(values=[*one.values, *(value for value in other.values if not one.holds(value))])
    if type(one) is not type(other) or one == other:
        return one if one == other else None
    if isinstance(one, IntParam) and isinstance(other, IntParam):
        return IntParam(low=min(one.low, other.low), high=max(one.high, other.high), log=one.log and other.log)
    if isinstance(one, FloatParam) and isinstance(other, FloatParam):
        return FloatParam(low=min(one.low, other.low), high=max(one.high, other.high), log=one.log and other.log)
    return one


def _trial_folders(folder: Path) -> Iterator[Path]:
    """The trial.json of every trial, by its folder's name."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.startswith("trial_") and (entry.is_symlink() or entry.is_dir())
            )
    except (OSError, ValueError) as error:
        raise StudyError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}",
            "DIRECTORY/PROJECT_NAME, as the tuner was given them",
            where=str(folder),
            code=CODE,
        ) from None
    if len(names) > MOST_TRIALS:
        raise StudyError(
            f"it holds {len(names):,} trials, more than {MOST_TRIALS:,}", "a smaller one", where=str(folder), code=CODE
        )
    for name in names:
        yield folder / name / "trial.json"


def _no_project(folder: Path) -> StudyError:
    inside = sorted(path.parent.name for path in folder.glob("*/oracle.json"))[:1]
    fix = str(folder / inside[0]) if inside else "DIRECTORY/PROJECT_NAME, as the tuner was given them"
    return StudyError("no oracle.json of KerasTuner's lies there, and no trial", fix, where=str(folder), code=CODE)


def _parsed(path: Path, kind: type[_Kind]) -> _Kind:
    """A JSON file of this kind. Raises StudyError with what is wrong with it, FileNotFoundError."""
    try:
        # A link, a pipe or a device would lead elsewhere, or never end.
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise _strange(f"{path.name}: is no file")
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _strange(f"{path.name}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise _strange(f"{path.name}: it has more than {LARGEST_FILE:,} bytes")
    try:
        return kind.model_validate(json.loads(content))
    except ValidationError as error:
        [found, *_] = error.errors(include_url=False)
        place = cut(".".join(map(str, found["loc"])))
        raise _strange(f"{path.name}: {place}: {cut(found['msg'][:1].lower() + found['msg'][1:], 100)}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8; a number without an end; lists within lists
        raise _strange(f"{path.name}: not whole, or no JSON: {cut(str(error), 100)}") from None


def _strange(fact: str) -> StudyError:
    return StudyError(printable(fact), "leave it out, or mend it", code=CODE)


def _param(entry: _Entry, value: Value, name: str) -> tuple[Param, Value]:
    """What a value was drawn from, and the value; where it lies outside of that, what it was drawn from reaches to it."""
    config, param = entry.config, _drawn_from(entry)
    if not _usable(value) or (param is not None and next(param.faults(), None) is not None):
        param = None
    if isinstance(param, FloatParam) and not isinstance(value, bool | str):
        near = param.nearest(value)  # KerasTuner multiplies floats: 0.30000000000000004 of a step of 0.1
        place = float(value)
        value = near if param.holds(place) or math.isclose(float(near), place, rel_tol=1e-9, abs_tol=1e-12) else place
        if not param.holds(value) and (place > 0 or not param.log):
            param = widened(param, FloatParam(low=place, high=place, log=param.log))
    elif isinstance(param, IntParam) and type(value) is int and not param.holds(value) and (value > 0 or not param.log):
        param = widened(param, IntParam(low=value, high=value, log=param.log))
    if param is None or not param.holds(value):
        raise _strange(f"{name}: {cut(config.name)} = {brief(value)} is none of its values")
    return param, value


def _drawn_from(entry: _Entry) -> Param | None:
    """A hyperparameter as one of our kinds. Steps by factors become ranges by the logarithm, their mirror image plain ranges."""
    match entry:
        case _Int(config=config):
            step, log = config.step or 1, config.sampling == "log"
            if config.sampling in ("log", "reverse_log") or step < 1:
                step = 1
            over = (config.max_value - config.min_value) % step
            return IntParam(low=config.min_value, high=config.max_value - over, step=step, log=log)
        case _Float(config=config):
            low, high = config.min_value, config.max_value
            if config.sampling in ("log", "reverse_log") or not config.step or not math.isfinite(high - low):
                return FloatParam(low=low, high=high, log=config.sampling == "log")
            spans = (high - low) / config.step
            if not 0 <= spans < 2**53:
                return None
            high = round(low + math.floor(spans + 1e-9) * config.step, 12)  # Optuna warns of 0.7000000000000001
            return FloatParam(low=low, high=high, step=config.step)
        case _Choice(config=config):
            return ChoiceParam(values=_distinct(config.values)) if all(map(_usable, config.values)) else None
        case _Fixed(config=config):
            return ChoiceParam(values=[config.value]) if _usable(config.value) else None
        case _:
            return BoolParam()


def _distinct(values: Sequence[Value]) -> list[Value]:
    return list({(type(value), value): value for value in values}.values())


def _usable(value: Value) -> bool:
    """Whether a ledger can hold the value, and a line show it."""
    if isinstance(value, str):
        return len(value) <= LONGEST and value.isprintable()
    return isinstance(value, bool) or (abs(value) <= 2**53 if isinstance(value, int) else math.isfinite(value))


def _plain(name: str) -> bool:
    return 0 < len(name) <= LONGEST and name.isprintable()


def _history(metric: _Metric, began: int) -> dict[int, float]:
    means = {told.step + 1 + began: sum(told.value) / len(told.value) for told in metric.observations}
    return {epoch: mean for epoch, mean in sorted(means.items()) if math.isfinite(mean)}


def _last_line(message: str) -> str:
    """What a traceback says in the end."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", message[-10_000:]) if line.strip()]
    return cut(printable(lines[-1]), LONGEST) if lines else ""
