"""What proposes configs: Optuna's samplers, and a grid of our own that knows our conditional parameters."""

from __future__ import annotations

import copy
import heapq
import importlib.util
import io
import json
import pickle  # noqa: TID251  (Optuna's CMA-ES pickles; SafeCmaEs reads it)
import warnings
from collections.abc import Callable, Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autofash.errors import SpaceError, UnsafeFile, UsageError, brief, unknown
from autofash.records import Config, Value
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Param, Space
from autofash.study.oracles import BAYESIAN, ENGINE, ORACLES, PREFIX

MOST_SEEN = 500  # trials that TPE looks at besides the good ones: docs/LOG.md
GOOD = 25  # trials at most that TPE takes for good ones
CMAES_STATE = {  # all that the pickled state of CMA-ES is made of: numbers and arrays of them
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class BoundedTPE(BaseSampler):
    """Optuna's TPE; of a large study it sees the GOOD best trials, and of the others MOST_SEEN, spread evenly from first to last.

    What it models as good is then the same, because TPE takes no more than that. What it models as bad is a sample of the same
    shape: the most recent trials alone would all lie where the good ones do. Its time grows with the trials that it sees.
    """

    def __init__(self, seed: int) -> None:
        # constant_liar: trials that run count as bad ones, so that workers do not all propose the same.
        self._tpe = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
        self._seen: list[FrozenTrial] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all finished trials have, as Optuna finds them; equal distributions are mostly one object here."""
        self._seen = seen_by_tpe(study.get_trials(deepcopy=False))
        finished = [found.distributions for found in self._seen if found.state.is_finished()]
        return {
            name: kind
            for name, kind in sorted(finished[-1].items() if finished else ())
            if not kind.single() and all(other.get(name) is kind or other.get(name) == kind for other in finished)
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them jointly."""
        return self._tpe.sample_relative(Shown(study, self._seen), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a conditional parameter."""
        return self._tpe.sample_independent(Shown(study, self._seen), trial, param_name, param_distribution)


def seen_by_tpe(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of these, by number: all that run, and of those that are complete or pruned the best, and an even sample of the others."""
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(finished) > GOOD + MOST_SEEN:
        complete = [trial for trial in finished if trial.state is TrialState.COMPLETE]
        good = heapq.nsmallest(GOOD, complete if len(complete) >= GOOD else finished, key=_rank)
        numbers = {trial.number for trial in good}
        others = [trial for trial in finished if trial.number not in numbers]
        finished = good + [others[place * len(others) // MOST_SEEN] for place in range(MOST_SEEN)]
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    return sorted([*finished, *running], key=lambda trial: trial.number)


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """TPE's own order: complete trials by value, then pruned ones by how far they came."""
    if trial.state is TrialState.COMPLETE:
        return False, 0, -(trial.value or 0.0)
    reached = trial.last_step  # 0 is the early look
    return True, 1 if reached is None else -reached, -(trial.value or 0.0)


class Shown(optuna.Study):
    """A study that shows a sampler these trials instead of its own. Optuna's own Hyperband does it like this."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))  # the same storage and caches
        self._shown = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Private, but where samplers look: there is no public way to show one other trials than the ledger's.
        return [trial for trial in self._shown if states is None or trial.state in states]


def as_seen(study: optuna.Study, paused: Container[int], hints: Sequence[FrozenTrial] = ()) -> Shown:
    """The study as its sampler is to see it: hints before its own trials, and trials that pause at a rung look pruned there.

    TPE learns from a pruned trial's last value, and takes every running one for bad.
    """
    trials = study.get_trials(deepcopy=False)
    return Shown(study, [*hints, *(_pruned(trial) if trial.number in paused else trial for trial in trials)])


def _pruned(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    shown.value = trial.intermediate_values[max(trial.intermediate_values)]
    return shown


class GivenSampler(BaseSampler):
    """Hands a config that is chosen already to Optuna, as one trial's sampler.

    config: in the space's own parameters; it grows with what shows itself while a hypermodel builds.
    """

    def __init__(self, config: Config) -> None:
        self.config = dict(config)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Value:
        """The config's value."""
        return self.config[param_name]


class GridSampler(GivenSampler):
    """Every config of a space once, in the order of its file. Optuna's own grid has no conditional parameters.

    Asked for a config when none is left, it hands out the last again: look at `untried` first.
    """

    def __init__(self, space: Space) -> None:
        super().__init__({})
        self._configs = [space.own(config) for config in space.grid()]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Take the first config that is left."""
        left = untried(study, self._configs)
        self.config = dict(left[0] if left else self._configs[-1])


def untried(study: optuna.Study, configs: Sequence[Config]) -> list[Config]:
    """Those configs, in the space's own parameters, that no trial has or is queued with."""
    taken = {
        frozenset({**trial.user_attrs.get("queued", {}), **trial.params}.items())
        for trial in study.get_trials(deepcopy=False)
    }
    return [config for config in configs if frozenset(config.items()) not in taken]


def _tpe(space: Space, seed: int, trial_seed: int) -> BaseSampler:
    return BoundedTPE(trial_seed)


def _random(space: Space, seed: int, trial_seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=trial_seed)


def _qmc(space: Space, seed: int, trial_seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's major version is pinned
        # The study's seed, not the trial's: the points are those of one sequence.
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=seed,
            independent_sampler=optuna.samplers.RandomSampler(seed=trial_seed),
            warn_independent_sampling=False,
        )


class SafeCmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's CMA-ES, which keeps its state pickled in the ledger. A ledger may be another's: only a state is made of it."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        # Private, but the one place where Optuna unpickles. Its major version is pinned, and a test plants a pickle with code.
        for trial in reversed(completed_trials):
            parts = {key: text for key, text in trial.system_attrs.items() if key.startswith(self._attr_key_optimizer)}
            if parts:
                try:
                    return _StateReader(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(parts)))).load()
                except Exception as error:  # of a strange pickle, any
                    raise UnsafeFile(
                        f"trial {trial.number} holds no state of CMA-ES: {error}",
                        "--sampler tpe, or --new-study",
                        where="the ledger",
                        code="E-UNSAFE-LEDGER",
                    ) from error
        return None


class _StateReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in CMAES_STATE:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _cmaes(space: Space, seed: int, trial_seed: int) -> BaseSampler:
    return SafeCmaEs(
        seed=trial_seed,
        independent_sampler=optuna.samplers.RandomSampler(seed=trial_seed),
        warn_independent_sampling=False,
    )


def _grid(space: Space, seed: int, trial_seed: int) -> BaseSampler:
    return GridSampler(space)


SAMPLERS: dict[str, Callable[[Space, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "grid": _grid,
    "qmc": _qmc,
    "cmaes": _cmaes,
}
LEARN = (
    "tpe",
)  # those that learn from hints: the others look at no trials, or, as CMA-ES, at those alone that they proposed
OPTUNA = "optuna"  # the engine of these
LARGEST_GRID = 100_000  # configs
NEEDS = {  # sampler → modules, and the extra that brings them
    "cmaes": (("cmaes",), "cmaes"),
    **{name: (("keras_tuner", "six"), ENGINE) for name in ORACLES},
}


def check_sampler(name: str, space: Space | None = None) -> None:
    """Raise UsageError when there is no such sampler, or its package is not installed.

    space: what it is to draw from; SpaceError where a grid of it has no end, or too many configs.
    """
    if name not in (*SAMPLERS, *ORACLES):
        raise UsageError(*unknown("sampler", name, (*SAMPLERS, *ORACLES)))
    modules, extra = NEEDS.get(name, ((), ""))
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"the sampler {name} needs the package {missing[0]}", f"pip install 'autofash[{extra}]'")
    if name == "grid" and space is not None:
        next(space.grid())
        if space.few_configs(LARGEST_GRID) is None:
            raise SpaceError(f"its grid has more than {LARGEST_GRID:,} configs", "--sampler qmc", where=space.name)


def sampler_of(engine: str | None, name: str | None, before: str | None) -> str | None:
    """The sampler's name in the ledger, of what was asked for: "bayesian" of the engine keras-tuner is "kt-bayesian".

    before: the study's own, which stays where nothing else is asked for; None where the study is new, or there is none yet.
    Returns None where it is left to the default. Raises UsageError with what there is.
    """
    if engine is None:
        return name or before
    if engine not in (OPTUNA, ENGINE):
        raise UsageError(*unknown("engine", engine, (OPTUNA, ENGINE)))
    own: Sequence[str] = ORACLES if engine == ENGINE else tuple(SAMPLERS)
    if name is None:
        return before if before in own else BAYESIAN if engine == ENGINE else None
    found = f"{PREFIX}{name}" if f"{PREFIX}{name}" in own else name
    if found not in own:
        there = ", ".join(sampler.removeprefix(PREFIX) for sampler in own)
        raise UsageError(f"the engine {engine} has no sampler {brief(name)}", f"--sampler with one of {there}")
    return found


def make_sampler(name: str, space: Space, *, seed: int, trial_seed: int) -> BaseSampler:
    """The sampler of this name for one trial.

    A new one for each trial, seeded by it: a sampler seeded alike in a resumed run would repeat its first suggestions.
    """
    return SAMPLERS[name](space, seed, trial_seed)


def suggest(trial: optuna.Trial, space: Space) -> Config:
    """The whole config of a trial, suggested before its first report: a trial pruned halfway would empty TPE's joint space."""
    return space.walk(lambda name, param: suggest_one(trial, name, param))


def suggest_one(trial: optuna.Trial, name: str, param: Param) -> Value:
    """The value of one parameter: what the trial was queued with, where the parameter holds it, else by its study's sampler."""
    queued = trial._fixed_params  # private; Optuna takes what is queued whether it can be or not, or raises
    if name in queued and not param.holds(queued[name]):
        queued.pop(name)
    match param:
        case IntParam():
            return trial.suggest_int(name, param.low, param.high, step=param.step, log=param.log)
        case FloatParam():
            return trial.suggest_float(name, param.low, param.high, step=param.step, log=param.log)
        case ChoiceParam():
            chosen = trial.suggest_categorical(name, param.values)
            assert chosen is not None
            return chosen
        case BoolParam():
            return bool(trial.suggest_categorical(name, [False, True]))


def distribution(param: Param) -> BaseDistribution:
    """What Optuna draws such a parameter from; the same as `suggest` writes into the ledger."""
    match param:
        case IntParam():
            return IntDistribution(param.low, param.high, step=param.step, log=param.log)
        case FloatParam():
            return FloatDistribution(param.low, param.high, step=param.step, log=param.log)
        case ChoiceParam():
            return CategoricalDistribution(param.values)
        case BoolParam():
            return CategoricalDistribution([False, True])


def key_of(config: Config) -> str:
    """A config as text that is the same for the same values in any order."""
    return json.dumps(dict(config), sort_keys=True)
