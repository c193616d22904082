"""How a user's code asks for parameters: KerasTuner's `hp` and Optuna's `trial`, both answered by the study's sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, TypeVar

from autofash.errors import InfeasibleConfig
from autofash.records import Value
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Param

Ask = Callable[[str, Param], Value]
Plain = bool | int | float | str
T = TypeVar("T")
REVERSED = 32  # values in which a continuous reverse_log is cut, because no sampler draws by it


def asking(answers: MutableMapping[str, Value], ask: Ask) -> Ask:
    """Ask for a parameter once: what the answers hold already, from the config or from before, is not asked for again."""

    def answer(name: str, param: Param) -> Value:
        problem = next((fact for _, fact, _ in param.faults()), None)
        if problem:
            raise InfeasibleConfig(f"the parameter {name}: {problem}")
        if name not in answers:
            answers[name] = ask(name, param)
        return answers[name]

    return answer


def hyperparameters(ask: Ask) -> Any:
    """A keras_tuner.HyperParameters whose values are asked for, one by one, as a builder comes to them.

    Raises InfeasibleConfig where KerasTuner cannot be imported.
    """
    try:
        import keras_tuner
    except ImportError as error:
        raise InfeasibleConfig(f"build(hp) needs KerasTuner: {error}", "pip install 'autofash[keras-tuner]'") from None

    class Asked(keras_tuner.HyperParameters):
        """Conditional and name scopes, defaults and inactive parameters stay KerasTuner's own."""

        def _retrieve(self, hp: Any) -> Any:
            # Private, but the one place through which Int, Float, Choice, Boolean and Fixed all come.
            if not self._exists(hp.name, hp.conditions):
                self._register(hp)
                if self.is_active(hp):
                    self.values[hp.name] = _asked_for(hp, ask)
            return self.values[hp.name] if self.is_active(hp) else None

    return Asked()


def _asked_for(hp: Any, ask: Ask) -> Any:
    kind = type(hp).__name__
    if kind == "Fixed":
        return hp.value
    if kind == "Boolean":
        return ask(hp.name, BoolParam())
    if kind == "Choice":
        return _one_of(hp.name, list(hp.values), ask)
    sampling, whole = hp.sampling or "linear", kind == "Int"
    if (sampling == "log" and hp.step is None) or sampling == "linear":
        step = hp.step or (1 if whole else None)
        high = _last(hp.min_value, hp.max_value, step)
        made: Param = (
            IntParam(low=hp.min_value, high=int(high), step=int(step or 1), log=sampling == "log")
            if whole
            else FloatParam(low=float(hp.min_value), high=float(high), step=step, log=sampling == "log")
        )
        return ask(hp.name, made)
    # By factors of step, or denser towards the upper end: KerasTuner knows the values.
    points = hp.values if hp.step is not None else [hp.prob_to_value((n + 0.5) / REVERSED) for n in range(REVERSED)]
    return _one_of(hp.name, sorted({int(value) if whole else float(value) for value in points}), ask)


def _last(low: float, high: float, step: float | None) -> float:
    """The highest value that steps from low reach; 0.1 and six steps of 0.1 is 0.7, though floats come out a hair below."""
    return high if step is None else round(low + math.floor((high - low) / step + 1e-8) * step, 12)


def _one_of(name: str, values: Sequence[T], ask: Ask) -> T:
    """One of any values; those that are not plain are known by their text."""
    known: dict[Plain, T] = {(value if isinstance(value, Plain) else repr(value)): value for value in values}
    return known[ask(name, ChoiceParam(values=list(known)))]


class TrialAsking:
    """What an Optuna-style define(trial) is given: it suggests, has params and a number; what it is told is let pass.

    A user's define() builds a model and does not train it, so that nothing is there to prune.
    """

    def __init__(self, number: int, ask: Ask) -> None:
        self.number = number
        self.params: dict[str, Any] = {}
        self.user_attrs: dict[str, Any] = {}
        self._ask = ask

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from low to high; see optuna.Trial.suggest_int."""
        made = IntParam(low=low, high=int(_last(low, high, step)), step=step, log=log)
        return int(self._noted(name, self._ask(name, made)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from low to high; see optuna.Trial.suggest_float."""
        made = FloatParam(low=float(low), high=float(_last(low, high, step)), step=step, log=log)
        return float(self._noted(name, self._ask(name, made)))

    def suggest_categorical(self, name: str, choices: Sequence[T]) -> T:
        """One of the choices; see optuna.Trial.suggest_categorical."""
        chosen: T = self._noted(name, _one_of(name, list(choices), self._ask))
        return chosen

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """As Optuna had it once."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """As Optuna had it once."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """As Optuna had it once."""
        return self.suggest_float(name, low, high, step=q)

    def set_user_attr(self, key: str, value: Any) -> None:
        """Kept for the user's own code."""
        self.user_attrs[key] = value

    def report(self, value: float, step: int) -> None:
        """Let pass: autofash reports each epoch itself."""

    def should_prune(self) -> bool:
        """No: autofash prunes."""
        return False

    def _noted(self, name: str, value: Any) -> Any:
        self.params[name] = value
        return value
