"""What a user asks of a search, and how every gap in it is filled: from the study where there is one, else from the defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofash import data, hardware
from autofash.errors import Problem, UsageError, unknown
from autofash.records import StudySettings
from autofash.space import HYPERMODEL, Hypermodel, Space, check_searchable, hypermodel_space, load_space
from autofash.study import Study, check_searched
from autofash.study.ledger import study_names
from autofash.study.oracles import HYPERBAND
from autofash.study.pruners import check_pruner
from autofash.study.samplers import check_sampler, sampler_of
from autofash.study.storage import DEFAULT_STORAGE, check_name, fitting_name

OBJECTIVES = ("accuracy", "macro_f1")
VALIDATION = 1 / 6  # of the training images: 10,000 of Fashion-MNIST's 60,000, a standard error of 0.27 points at 92 %
Progress = Callable[[str, int, int], None]  # a file that is fetched, bytes so far, bytes in all (0 where unknown)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a user asks of a search; None leaves it to the study, or to the default where the study is new."""

    space: str | Space | None = None  # default cnn
    hypermodel: str | None = None  # a user's own code instead: FILE.py:NAME or package.module:NAME
    pixels: str | None = None  # as its author feeds them; default unit
    flat: bool | None = None  # images as (pixels,); default no
    dataset: str | None = None  # default Fashion-MNIST, else digits
    data_dir: Path | None = None
    study: str | None = None  # default <dataset>-<space>
    new_study: bool = False  # never resume: take the next free name
    trials: int | None = None  # finished trials in all; default the study's, else 50
    more: int | None = None  # finished trials beyond the study's total
    at_least: int | None = None  # as trials, unless the study's total was raised beyond it; a study file's word
    budget_seconds: float | None = None  # wall clock of this search
    target: float | None = None  # stop once a trial reaches this objective, fraction
    workers: int | None = None  # default: what hardware.plan says
    epochs: int | None = None  # most of each trial; default 6
    seed: int | None = None  # default 0
    engine: str | None = None  # default optuna
    sampler: str | None = None  # default tpe, of the engine keras-tuner bayesian
    pruner: str | None = None  # default asha
    objective: str | None = None  # default accuracy
    patience_seconds: float | None = None  # a trial that says nothing for so long hangs, and fails; default an hour
    storage: str = DEFAULT_STORAGE
    warm_start: str | None = None  # a study of the same storage whose trials the sampler learns from
    starters: bool | None = None  # begin with the known-good configs; default yes


DEFAULTS: dict[str, Any] = {
    "space": "cnn",
    "epochs": 6,
    "seed": 0,
    "sampler": "tpe",
    "pruner": "asha",
    "objective": "accuracy",
}


def settle(request: SearchRequest, progress: Progress | None) -> tuple[StudySettings, str, data.PreparedData]:
    """The request with every gap filled: from the study where there is one, else from the defaults."""
    _check(request)
    known = study_names(request.storage)
    before = _begun(request.study, request.storage) if request.study in known and not request.new_study else None

    if request.hypermodel is not None:
        known_as = Study(str(request.study), request.storage).space.hypermodel if before else None
        default = known_as or Hypermodel(request.hypermodel)
        space = hypermodel_space(
            request.hypermodel,
            request.pixels if request.pixels is not None else default.pixels,
            request.flat if request.flat is not None else default.flat,
        )
    elif request.space is None and before is not None:
        space = Study(str(request.study), request.storage).space
    else:
        wanted = request.space if request.space is not None else DEFAULTS["space"]
        space = wanted if isinstance(wanted, Space) else load_space(str(wanted))
        check_searchable(space)
    dataset, folder, substituted = data.choose(
        request.dataset or (before.dataset if before else None), request.data_dir, progress
    )
    name = request.study or fitting_name(f"{dataset}-{space.name}")
    check_name(name, request.storage)
    if request.new_study:
        name = next(free for free in _names(name) if free not in known)
    elif before is None and name in known:
        before = _begun(name, request.storage)

    def filled(setting: str) -> object:
        asked = getattr(request, setting)
        return asked if asked is not None else getattr(before, setting) if before else DEFAULTS[setting]

    sampler = sampler_of(request.engine, request.sampler, before.sampler if before else None) or DEFAULTS["sampler"]
    check_sampler(sampler, space)
    if sampler == HYPERBAND:
        if request.pruner not in (None, "none"):
            raise UsageError(
                f"--pruner {request.pruner} cannot be had with {sampler}, whose brackets are its pruning",
                "--pruner none",
            )
        pruner = "none"
    else:
        pruner = str(filled("pruner"))
    seed = int(str(filled("seed")))
    prepared = data.prepare(dataset, folder, seed=seed, validation=VALIDATION)
    settings = StudySettings(
        dataset=dataset,
        data_fingerprint=prepared.fingerprint,
        space=space.name,
        space_table=space.declared.table(),
        space_fingerprint=space.declared.fingerprint,
        sampler=sampler,
        pruner=pruner,
        objective=str(filled("objective")),
        epochs=int(str(filled("epochs"))),
        seed=seed,
        validation=VALIDATION,
        starters=request.starters if request.starters is not None else before.starters if before else True,
        substituted=substituted,
    )
    return settings, name, prepared


def _begun(name: str | None, storage: str) -> StudySettings:
    """The settings of a study that is to go on. Raises UsageError where it is another program's."""
    found = Study(str(name), storage)
    if found.imported:
        check_searched(found)
    return found.settings


def task_of(settings: StudySettings) -> str:
    """The task, module:function, that trains a trial of the study."""
    own = settings.space_table["family"] == HYPERMODEL
    return "autofash.hypermodels:run_trial" if own else "autofash.training:run_trial"


def _check(request: SearchRequest) -> None:
    """Raise UsageError with everything in the request that cannot be."""
    problems = []
    if request.objective is not None and request.objective not in OBJECTIVES:
        problems.append(Problem(*unknown("objective", request.objective, OBJECTIVES)))
    for check in (_check_sampler, _check_pruner):
        try:
            check(request)
        except UsageError as error:
            problems.extend(error.problems)
    for name in ("trials", "more", "workers", "epochs"):
        if getattr(request, name) is not None and getattr(request, name) < 1:
            problems.append(Problem(f"--{name} {getattr(request, name)} is not above 0", f"--{name} 1"))
    most = 8 * hardware.usable_cores()
    if request.workers is not None and request.workers > most:
        problems.append(Problem(f"--workers {request.workers} is more than eight a core", f"--workers {most}"))
    if request.seed is not None and not 0 <= request.seed < 2**31:
        problems.append(Problem(f"--seed {request.seed} is not between 0 and {2**31 - 1}", "--seed 0"))
    if request.target is not None and not 0 < request.target <= 1:
        problems.append(Problem(f"--target {request.target:g} is no fraction", "--target 0.93"))
    if request.patience_seconds is not None and request.patience_seconds <= 0:
        problems.append(Problem(f"--patience {request.patience_seconds:g}s is not above 0", "--patience 1h"))
    if request.space is not None and request.hypermodel is not None:
        problems.append(Problem("--space and --hypermodel exclude each other", "one of them"))
    if (request.pixels is not None or request.flat is not None) and request.hypermodel is None:
        problems.append(
            Problem("--pixels and --flat say how a hypermodel is fed", "--hypermodel FILE.py:NAME beside them")
        )
    if request.trials is not None and request.more is not None:
        problems.append(Problem("--trials and --more exclude each other", "one of them"))
    if problems:
        raise UsageError(problems)


def _check_sampler(request: SearchRequest) -> None:
    if (sampler := sampler_of(request.engine, request.sampler, None)) is not None:
        check_sampler(sampler)


def _check_pruner(request: SearchRequest) -> None:
    if request.pruner is not None:
        check_pruner(request.pruner)


def total(request: SearchRequest, name: str) -> int | None:
    """Finished trials that the study shall have; None where the study keeps its own."""
    before = Study(name, request.storage).target if name in study_names(request.storage) else 0
    if request.more is not None:
        return request.more + before
    return request.trials if request.at_least is None else max(request.at_least, before)


def _names(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
