"""The numbers of a report, gathered before anything is drawn: from the ledger, and from the model that was made of it."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from autofash.figures import percent
from autofash.intervals import Interval, wilson
from autofash.records import Config, State, TrialRecord, Value
from autofash.report.baselines import Baseline, baselines
from autofash.report.edges import Edge, edges
from autofash.report.tested import Tested, tested
from autofash.space import ChoiceParam, FloatParam, IntParam, Param, load_space, shipped_spaces
from autofash.study import Confirmed, Study, confirmed, is_settled, search_from, verdict
from autofash.study.importances import FEWEST, importances
from autofash.study.imports import source_of
from autofash.study.proposals import epochs_of

LEADERS = 10
CURVES = 5
AXES = 8  # of the parallel coordinates: the most telling parameters


@dataclass(frozen=True, slots=True)
class Leader:
    """A line of the leaderboard."""

    rank: int  # from 1
    trial: int
    value: float  # of the objective, a fraction
    accuracy: Interval  # on the validation images, by Wilson
    best_epoch: int
    seconds: float
    curve: tuple[float, ...]  # objective after each epoch
    config: Config


@dataclass(frozen=True, slots=True)
class Point:
    """A finished trial in the history of its study."""

    trial: int
    complete: bool  # else it was pruned
    value: float
    best: float | None  # of the complete trials up to it, in the order of the numbers
    elapsed: float | None  # seconds of searching until it ended, pauses left out; None where the ledger has no time


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter as an axis of the parallel coordinates."""

    name: str
    values: tuple[Value, ...]  # of a choice, in the order of the space; empty for a range
    low: float | None = None  # of a range
    high: float | None = None
    log: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A finished trial across the axes."""

    trial: int
    complete: bool
    value: float
    config: Config


@dataclass(frozen=True, slots=True)
class PrunedAt:
    """What was stopped after an epoch."""

    epoch: int  # 0: within the first, at the early look or before
    trials: int
    why: str  # of the last of them


@dataclass(frozen=True, slots=True)
class Cost:
    """What the search took."""

    trial_seconds: float  # of all trials' processes together, failed ones included
    searching_seconds: float | None  # wall clock while trials ran
    epochs: int  # trained in all
    saved_seconds: (
        float  # estimate: the epochs that the pruned trials did not train, at their pace after the first epoch
    )
    saved_epochs: int
    refit_seconds: float | None
    energy_joules: float | None  # None where no run could count it


@dataclass(frozen=True, slots=True)
class Reproduce:
    """How to get all this again."""

    commands: tuple[str, ...]
    seed: int  # of the study
    versions: Mapping[str, str]
    fingerprints: Mapping[str, str]  # of what → SHA-256
    machine: str
    plan: str  # how the last search shared the machine
    date: str  # of the model, else of the last search


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report says of a study; the page and the terminal only draw it."""

    study: str
    imported: bool  # another program ran its trials
    made: str  # ISO date and time
    dataset: str
    space: str
    sampler: str
    pruner: str
    objective: str
    epochs: int  # most of a trial
    finished: int  # trials, complete or pruned
    complete: int
    pruned: int
    failed: int
    target: int
    result: str  # one sentence
    caveats: tuple[str, ...]
    openings: tuple[Mapping[str, Any], ...]  # of the test set: when, command, trial, test_accuracy
    export_command: str  # what makes the model, where there is none
    validation_images: int | None  # None where no search has noted it
    leaders: tuple[Leader, ...]
    alike: int  # of them, those whose interval reaches the first's
    telling: tuple[str, ...]  # parameters, the most telling first
    confirmed: tuple[Confirmed, ...]
    confirmation: str  # what it says, in a sentence
    history: tuple[Point, ...]
    importances: Mapping[str, float]  # the greatest first, sum 1
    no_importances: str  # why there are none
    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]
    edges: tuple[Edge, ...]
    pruned_at: tuple[PrunedAt, ...]
    cost: Cost
    tested: Tested | None
    baselines: tuple[Baseline, ...]  # none where the data set is not theirs
    reproduce: Reproduce


def gather(study: Study) -> Facts:
    """Everything that can be said of a study and of the model that was made of it last.

    Raises NoTrial, LedgerError, and UnsafeFile where a model's file is not what its manifest vouches for.
    """
    study.best()
    settings, trials, ranked, sure = study.settings, study.trials(), study.leaderboard(), confirmed(study)
    count = {state: sum(record.state is state for record in trials) for state in State}
    finished = count[State.COMPLETE] + count[State.PRUNED]
    model = tested(study.name, study.folder)
    images = study.validation_images
    leaders = tuple(_leader(rank, record, images) for rank, record in enumerate(ranked[:LEADERS], 1))
    found = importances(study)
    telling = _telling(study, trials, found)
    return Facts(
        study=study.name,
        imported=study.imported,
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        dataset=settings.dataset,
        space=settings.space,
        sampler=settings.sampler,
        pruner=settings.pruner,
        objective=settings.objective,
        epochs=settings.epochs,
        finished=finished,
        complete=count[State.COMPLETE],
        pruned=count[State.PRUNED],
        failed=count[State.FAILED],
        target=study.target,
        result=_result(study, model, ranked[0], finished),
        caveats=tuple(_caveats(study, model, ranked, sure if is_settled(study) else [], finished)),
        openings=tuple(study.openings),
        export_command=search_from(study) if study.imported else f"autofash best {study.arguments} --export",
        validation_images=images,
        leaders=leaders,
        alike=sum(leader.accuracy.high >= leaders[0].accuracy.low for leader in leaders),
        telling=telling,
        confirmed=tuple(sure),
        confirmation=verdict(study),
        history=_history(trials),
        importances=found,
        no_importances="" if found else _why_no_importances(finished),
        axes=tuple(_axis(name, study.space.params[name]) for name in telling[:AXES]),
        lines=tuple(
            Line(record.number, record.state is State.COMPLETE, record.value, record.config)
            for record in trials
            if record.finished and record.value is not None
        ),
        edges=edges(study, ranked[:CURVES]),
        pruned_at=_pruned_at(trials),
        cost=_cost(study, trials, model),
        tested=model,
        baselines=baselines(study),
        reproduce=_reproduce(study, model),
    )


def model_text(model: Tested) -> str:
    """What the model is, as the subject of a sentence."""
    numbers = ", ".join(str(trial) for trial in model.trials)
    what = f"The model of trial {numbers}" if len(model.trials) == 1 else f"The mean of the models of trials {numbers}"
    return what + (", each image seen mirrored too," if model.tta else "")


def _result(study: Study, model: Tested | None, best: TrialRecord, finished: int) -> str:
    settings = study.settings
    if model is None:
        return (
            f"Trial {best.number} is the best of {finished} trials, with {percent(best.value)} validation "
            f"{settings.objective.replace('_', ' ')} on {settings.dataset}; no tested model of it is saved."
        )
    accuracy = model.accuracy
    return (
        f"{model_text(model)} names {percent(accuracy.value)} of the {model.images:,} test images of {settings.dataset} "
        f"rightly (95 % interval {percent(accuracy.low)} to {percent(accuracy.high)}), after a search of {finished} trials."
    )


def _caveats(
    study: Study, model: Tested | None, ranked: Sequence[TrialRecord], sure: Sequence[Confirmed], finished: int
) -> list[str]:
    """What an honest reader has to know beside the result."""
    told, settings, openings = [], study.settings, len(study.openings)
    first = sure[0].record if sure else ranked[0]
    if study.imported:
        told.append(
            "An imported study holds no models, and nothing of it was measured here: search from it to have one."
        )
    if (learnt := study.warm_start) is not None:
        told.append(
            f"The sampler began with what {learnt['fit']} trials of {learnt['study']} had shown; none of them counts here."
        )
    if settings.substituted:
        told.append(f"{settings.substituted} was not to be had: {settings.dataset} had to serve.")
    if openings > 1:
        times = "twice" if openings == 2 else f"{openings} times"
        told.append(
            f"The test set has been opened {times} for this study: whoever chooses between the results below has tuned on it."
        )
    if model is not None:
        told.append("The interval covers the choice of test images, not the luck of a training's seed.")
        if first.number not in model.trials:
            told.append(f"Trial {first.number} ranks first by now, and its model is not the one tested here.")
    if len(ranked) > 1 and not sure:
        told.append(
            f"Validation flatters: {percent(ranked[0].value)} is the best of {len(ranked)} complete trials, each run once."
        )
    if finished < study.target:
        told.append(f"The search is not at its end: {finished} of {study.target} trials are finished.")
    return told


def _leader(rank: int, record: TrialRecord, images: int | None) -> Leader:
    value = record.value or 0.0
    accuracy = next((said.accuracy for said in record.reports if said.epoch == record.best_epoch), value)
    return Leader(
        rank=rank,
        trial=record.number,
        value=value,
        accuracy=wilson(accuracy, images or 0),
        best_epoch=record.best_epoch or 0,
        seconds=record.seconds,
        curve=record.curve,
        config=record.config,
    )


def _telling(study: Study, trials: Sequence[TrialRecord], found: Mapping[str, float]) -> tuple[str, ...]:
    """Parameters that varied: by importance, then those that say most by the order of the space."""
    seen: dict[str, set[Value]] = {name: set() for name in study.space.params}
    for record in trials:
        if record.finished:
            for name in seen.keys() & record.config.keys():
                seen[name].add(record.config[name])
    varied = [name for name, values in seen.items() if len(values) > 1]
    return tuple(sorted(varied, key=lambda name: -found.get(name, 0.0)))


def _history(trials: Sequence[TrialRecord]) -> tuple[Point, ...]:
    elapsed, best, points = _elapsed(trials), None, []
    for record in trials:
        if not record.finished or record.value is None:
            continue
        if record.state is State.COMPLETE:
            best = max(record.value, best or 0.0)
        complete = record.state is State.COMPLETE
        points.append(Point(record.number, complete, record.value, best, elapsed.get(record.number)))
    return tuple(points)


def _elapsed(trials: Sequence[TrialRecord]) -> dict[int, float]:
    """Seconds of searching until each trial ended: wall clock while trials ran, pauses between two searches left out."""
    spans = sorted(
        (record.ended - timedelta(seconds=record.seconds), record.ended, record.number)
        for record in trials
        if record.ended is not None and record.seconds  # of an imported trial nobody knows how long it took
    )
    found: dict[int, float] = {}
    if not spans:
        return found
    paused, busy_until, first = 0.0, spans[0][0], spans[0][0]
    for began, ended, number in spans:
        paused += max(0.0, (began - busy_until).total_seconds())
        busy_until = max(busy_until, ended)
        found[number] = (ended - first).total_seconds() - paused
    return found


def _why_no_importances(finished: int) -> str:
    if finished < FEWEST:
        return f"{finished} finished trial{'s' * (finished != 1)} cannot tell: it takes {FEWEST}."
    return "Fewer than two parameters varied."


def _axis(name: str, param: Param) -> Axis:
    match param:
        case IntParam() | FloatParam():
            return Axis(name, (), float(param.low), float(param.high), param.log)
        case ChoiceParam():
            return Axis(name, tuple(param.values))
    return Axis(name, (False, True))


def _pruned_at(trials: Sequence[TrialRecord]) -> tuple[PrunedAt, ...]:
    stopped: dict[int, list[TrialRecord]] = {}
    for record in trials:
        if record.state is State.PRUNED:
            stopped.setdefault(len(record.curve), []).append(record)
    return tuple(
        PrunedAt(epoch, len(records), records[-1].why.partition(": ")[2] or records[-1].why)
        for epoch, records in sorted(stopped.items())
    )


def _cost(study: Study, trials: Sequence[TrialRecord], model: Tested | None) -> Cost:
    saved_seconds, saved_epochs, share = 0.0, 0, _later_pace(trials)
    images = next((int(run["train_images"]) for run in reversed(study.runs) if "train_images" in run), 0)
    for record in trials:
        if record.state is State.PRUNED and (record.reports or record.early):
            left = max(0, epochs_of(record.config, study.settings.epochs) - len(record.reports))
            saved_epochs += left
            saved_seconds += left * (_pace(record, images) or share * record.reports[0].seconds)
    curves: dict[int | None, int] = {record.number: len(record.curve) for record in trials}
    joules = [float(run["energy_joules"]) for run in study.runs if run.get("energy_joules") is not None]
    return Cost(
        trial_seconds=sum(record.seconds for record in trials),
        searching_seconds=max(_elapsed(trials).values(), default=None),
        epochs=sum(curves.values()) - sum(curves.get(record.continues, 0) for record in trials),
        saved_seconds=saved_seconds,
        saved_epochs=saved_epochs,
        refit_seconds=model.refit_seconds if model else None,
        energy_joules=sum(joules) if joules else None,
    )


def _pace(record: TrialRecord, images: int = 0) -> float | None:
    """Seconds an epoch after the first, which alone pays for the model's compilation; None where there is no second.

    images: in an epoch, for one that was stopped at its early look: it pays for the compilation too.
    """
    if not record.reports and record.early:
        return record.early.seconds * images / record.early.images
    first, *later = record.reports
    return (later[-1].seconds - first.seconds) / len(later) if later else None


def _later_pace(trials: Sequence[TrialRecord]) -> float:
    """How long a later epoch takes as a share of the first: the median over the trials that have both."""
    shares = [
        pace / record.reports[0].seconds
        for record in trials
        if record.reports and record.reports[0].seconds and (pace := _pace(record)) is not None
    ]
    return statistics.median(shares) if shares else 1.0


def _reproduce(study: Study, model: Tested | None) -> Reproduce:
    run: Mapping[str, Any] = study.runs[-1] if study.runs else {}
    commands = [_search_command(study)]
    if model is not None:
        flags = [f"--trial {model.trials[0]}"] if model.name.startswith("trial-") else []
        flags += [f"--ensemble {len(model.trials)}"] if len(model.trials) > 1 else []
        flags += ["--tta"] if model.tta else []
        flags += [f"--formats {shlex.quote(','.join(model.exports))}"] if set(model.exports) - {"keras"} else []
        commands.append(" ".join([f"autofash best {study.arguments} --export", *flags]))
    return Reproduce(
        commands=(*commands, f"autofash report {study.arguments}"),
        seed=study.settings.seed,
        versions={
            **{name: str(run[name]) for name in ("python", "autofash", "keras", "optuna") if name in run},
            **(model.versions if model else {}),
        },
        fingerprints={"data": study.settings.data_fingerprint, "space": study.space.fingerprint},
        machine=(model.machine if model else "") or str(run.get("machine", "")),
        plan=str(run.get("plan", "")),
        date=model.created if model else str(run.get("began", "")),
    )


def _search_command(study: Study) -> str:
    """The command that begins such a study; its space is a file of the user's own unless autofash ships it as it is."""
    settings = study.settings
    if study.imported:
        return f"autofash import {shlex.quote(source_of(study))} --study {study.arguments}"
    if settings.space == "baselines" and study.space.configs:
        return f"autofash baselines --dataset {settings.dataset}"
    shipped = (
        settings.space in shipped_spaces() and load_space(settings.space).fingerprint == settings.space_fingerprint
    )
    own = study.space.hypermodel
    flags: dict[str, object] = {
        "dataset": settings.dataset,
        **(
            {"hypermodel": own.source, "pixels": own.pixels}
            if own
            else {"space": settings.space if shipped else f"{settings.space}.toml"}
        ),
        "trials": study.target,
        "epochs": settings.epochs,
        "seed": settings.seed,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "objective": settings.objective,
    }
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in flags.items()]
    learnt = study.warm_start
    words += [f"--warm-start {shlex.quote(learnt['study'])}"] if learnt is not None else []
    switches = [*(["--flat"] if own and own.flat else []), *([] if settings.starters else ["--no-starters"])]
    return " ".join(["autofash search --study", study.arguments, *words, *switches])
