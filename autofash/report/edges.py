"""The parameters whose best value lies at the end of what was searched, and what to write into the space to reach beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autofash.records import TrialRecord, Value
from autofash.space import ChoiceParam, FloatParam, IntParam, Param
from autofash.space.vocabulary import Limits, Real, Whole, misfit, vocabulary
from autofash.study import Study

EDGE = 0.05  # of a range


@dataclass(frozen=True, slots=True)
class Edge:
    """A parameter whose best value lies at the end of what was searched."""

    name: str
    value: Value  # of the best trial
    end: Value  # the bound, or the first or last value
    leaders: int  # how many of the leaders lie at that end
    of: int  # the leaders that have the parameter
    widen: str  # what to write into the space


def edges(study: Study, leaders: Sequence[TrialRecord]) -> tuple[Edge, ...]:
    """Parameters whose best value lies at an end beyond which the space could be widened; the surest first.

    leaders: complete trials, the best first.
    """
    foreign = study.space.configs or study.space.hypermodel or study.imported  # no names of our vocabulary
    known = {} if foreign else vocabulary(study.space.family)
    found = []
    for name, param in study.space.params.items():
        values = [record.config[name] for record in leaders if name in record.config]
        end = _end(param, values[0]) if name in leaders[0].config else None
        if end is None or name not in known:
            continue
        widen = _beyond(param, end, known[name])
        if widen:
            close = sum(_end(param, value) == end for value in values)
            found.append(Edge(name, values[0], end, close, len(values), widen))
    return tuple(sorted(found, key=lambda edge: -edge.leaders))


def _end(param: Param, value: Value) -> Value | None:
    """The end of the parameter that the value lies at: within EDGE of a range, or the first or last of ordered numbers."""
    match param:
        case IntParam() | FloatParam() if param.high > param.low:
            place = _place(param, float(value))
            return param.low if place <= EDGE else param.high if place >= 1 - EDGE else None
        case ChoiceParam():
            numbers = [number for number in param.values if isinstance(number, int | float)]
            ordered = numbers == sorted(numbers) or numbers == sorted(numbers, reverse=True)
            plain = len(numbers) == len(param.values) > 1 and not any(isinstance(n, bool) for n in numbers)
            return value if ordered and plain and value in (numbers[0], numbers[-1]) else None
    return None


def _place(param: IntParam | FloatParam, value: float) -> float:
    """Where the value lies in its range, 0 to 1; by its logarithm where log is set."""
    scale: Callable[[float], float] = math.log if param.log else float
    return (scale(value) - scale(param.low)) / (scale(param.high) - scale(param.low))


def _beyond(param: Param, end: Value, limits: Limits) -> str:
    """What to write into the space to reach beyond this end: half a range further, or a choice's next value.

    Empty where the limits of the vocabulary leave nothing beyond.
    """
    match param:
        case IntParam() | FloatParam():
            upward, span = end == param.high, param.high - param.low
            least, most = (limits.low, limits.high) if isinstance(limits, Whole | Real) else (param.low, param.high)
            if param.log:
                factor = math.sqrt(param.high / param.low)
                reached = min(param.high * factor, most) if upward else max(param.low / factor, least)
            else:
                step = param.step or 0.0
                reach = min(max(span / 2, step), most - param.high if upward else param.low - least)
                reach = math.floor(reach / step + 1e-9) * step if step else reach
                reached = param.high + reach if upward else param.low - reach
            beyond = round(reached) if isinstance(param, IntParam) else float(f"{reached:.2g}")
            return f"{'high' if upward else 'low'} = {beyond:g}" if beyond != end else ""
        case ChoiceParam():
            numbers = [float(number) for number in param.values]
            first = end == param.values[0]
            last, inner = numbers[:2] if first else (numbers[-1], numbers[-2])
            even = inner > 0 and max(last / inner, inner / last) >= 2
            reached = last * last / inner if even else 2 * last - inner
            further = round(reached) if isinstance(end, int) else float(f"{reached:.2g}")
            if misfit(limits, further):
                return ""
            values = [further, *param.values] if first else [*param.values, further]
            return f"values = [{', '.join(f'{value:g}' for value in values)}]"
    return ""
