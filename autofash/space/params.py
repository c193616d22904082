"""The four kinds of parameter. Each says what is wrong with it, what it holds, what a grid takes, and what is nearest."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from autofash.errors import brief, cut
from autofash.records import Value

Fault = tuple[str, str, str]  # key, fact, fix
GRID_LIMIT = 100_000  # values of one parameter; more is no grid


class _Param(BaseModel):
    """What the four kinds share; each adds `grid`, `holds` and `draw`, and what can be wrong with it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    when: Mapping[str, list[Value]] = Field(default_factory=dict)  # earlier parameter → values that call for this one

    def faults(self) -> Iterator[Fault]:
        """Key, fact and fix of everything that is wrong within this parameter."""
        for name, values in self.when.items():
            if not values:
                yield "when", f"{cut(name)} = [] is never met", f'when = {{ {cut(name)} = ["a value of it"] }}'
        yield from self._own_faults()

    def _own_faults(self) -> Iterator[Fault]:
        yield from ()


class IntParam(_Param):
    """A whole number from low to high, both included, by step, or drawn by its logarithm."""

    type: Literal["int"] = "int"
    low: int
    high: int
    step: int = 1
    log: bool = False

    def _own_faults(self) -> Iterator[Fault]:
        if max(abs(self.low), abs(self.high)) > 2**53:
            yield "high", "a bound beyond 2**53 is not exact", "a smaller range"
            return
        yield from _range_faults(self.low, self.high, self.log)
        if self.step < 1:
            yield "step", f"step = {brief(self.step)} is not above 0", "step = 1"
        elif self.log and self.step != 1:
            yield "step", "step and log exclude each other", "leave one out"
        elif self.high > self.low and (self.high - self.low) % self.step:
            yield (
                "step",
                f"step = {brief(self.step)} does not divide {self.high} - {self.low}",
                f"high = {self.high - (self.high - self.low) % self.step}",
            )

    def grid(self) -> list[Value] | None:
        """Every value, or None where they cannot be counted."""
        values = range(self.low, self.high + 1, self.step)
        return list(values) if len(values) <= GRID_LIMIT else None

    def holds(self, value: Value) -> bool:
        """Whether the value is one of this parameter's."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= int(value) <= self.high and (int(value) - self.low) % self.step == 0

    def draw(self, rng: random.Random) -> Value:
        """A random value; by its logarithm where log is set."""
        if not self.log:
            return rng.randrange(self.low, self.high + 1, self.step)
        return min(max(round(_log_uniform(self.low, self.high, rng)), self.low), self.high)

    def nearest(self, value: Value | None) -> Value:
        """The value of this parameter that is nearest to one from elsewhere; of none, and of a word, the lowest."""
        within = min(max(_number(value, self.low), self.low), self.high)
        return self.low + round((within - self.low) / self.step) * self.step


class FloatParam(_Param):
    """A number from low to high, both included, by step, or drawn by its logarithm."""

    type: Literal["float"] = "float"
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def _own_faults(self) -> Iterator[Fault]:
        if not math.isfinite(self.high - self.low):
            yield "low", "low, high and the way between them must be finite", "low = 0.0"
            return
        yield from _range_faults(self.low, self.high, self.log)
        if self.step is None:
            return
        if not self.step > 0 or not math.isfinite(self.step) or not math.isfinite((self.high - self.low) / self.step):
            yield "step", f"step = {self.step:g} is not above 0, or too small", "leave step out"
        elif self.log:
            yield "step", "step and log exclude each other", "leave one out"
        elif self.high > self.low and not _divides(self.step, self.high - self.low):
            steps = math.floor((self.high - self.low) / self.step)
            yield (
                "step",
                f"step = {self.step:g} does not divide {self.high:g} - {self.low:g}",
                f"high = {self.low + steps * self.step:g}",
            )

    def grid(self) -> list[Value] | None:
        """Every value, or None where they cannot be counted."""
        if self.low == self.high:
            return [self.low]
        if self.step is None or (self.high - self.low) / self.step > GRID_LIMIT:
            return None
        # Rounded to 12 digits, so that 0.1 + 2 * 0.1 is 0.3 in a ledger too.
        return [round(self.low + i * self.step, 12) for i in range(round((self.high - self.low) / self.step) + 1)]

    def holds(self, value: Value) -> bool:
        """Whether the value is one of this parameter's."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or _divides(self.step, value - self.low)

    def draw(self, rng: random.Random) -> Value:
        """A random value; by its logarithm where log is set."""
        if self.step is not None:
            return round(self.low + self.step * rng.randint(0, round((self.high - self.low) / self.step)), 12)
        drawn = _log_uniform(self.low, self.high, rng) if self.log else rng.uniform(self.low, self.high)
        return min(max(drawn, self.low), self.high)

    def nearest(self, value: Value | None) -> Value:
        """The value of this parameter that is nearest to one from elsewhere; of none, and of a word, the lowest."""
        within = min(max(_number(value, self.low), self.low), self.high)
        return within if self.step is None else round(self.low + round((within - self.low) / self.step) * self.step, 12)


class ChoiceParam(_Param):
    """One of these values, without an order."""

    type: Literal["choice"] = "choice"
    values: list[Value]

    def _own_faults(self) -> Iterator[Fault]:
        if not self.values:
            yield "values", "values = [] leaves nothing to choose", "name at least one value"
        seen: set[tuple[type, Value]] = set()
        for value in self.values:
            if (type(value), value) in seen:
                yield "values", f"{brief(value)} stands there twice", "name each value once"
            if isinstance(value, float) and not math.isfinite(value):
                yield "values", f"{value!r} is not a finite number", "name a finite number"
            seen.add((type(value), value))

    def grid(self) -> list[Value] | None:
        """Every value, or None where they cannot be counted."""
        return list(self.values)

    def holds(self, value: Value) -> bool:
        """Whether the value is one of this parameter's."""
        return any(value == own and isinstance(value, bool) == isinstance(own, bool) for own in self.values)

    def draw(self, rng: random.Random) -> Value:
        """A random value."""
        return rng.choice(self.values)

    def nearest(self, value: Value | None) -> Value:
        """The same value, else the number that is nearest to a number, else the first value.

        Whole numbers go by difference, others above 0 by ratio; of two alike the smaller is taken.
        """
        if value is not None and self.holds(value):
            return value
        numbers = [own for own in self.values if not isinstance(own, str | bool)]
        if not numbers or value is None or isinstance(value, str | bool):
            return self.values[0]
        by_ratio = min(value, *numbers) > 0 and not all(isinstance(number, int) for number in (value, *numbers))
        return min(sorted(numbers), key=lambda own: abs(math.log(own / value) if by_ratio else own - value))


class BoolParam(_Param):
    """True or false."""

    type: Literal["bool"] = "bool"

    def grid(self) -> list[Value] | None:
        """Every value, or None where they cannot be counted."""
        return [False, True]

    def holds(self, value: Value) -> bool:
        """Whether the value is one of this parameter's."""
        return isinstance(value, bool)

    def draw(self, rng: random.Random) -> Value:
        """A random value."""
        return rng.random() < 0.5

    def nearest(self, value: Value | None) -> Value:
        """The same value; False of anything else."""
        return value if isinstance(value, bool) else False


Param = Annotated[IntParam | FloatParam | ChoiceParam | BoolParam, Field(discriminator="type")]


def _range_faults(low: float, high: float, log: bool) -> Iterator[Fault]:
    if low > high:
        yield "low", f"low = {low} is above high = {high}", f"low = {high}, high = {low}"
    if log and low <= 0:
        yield "low", f"log = true needs low above 0, and low = {low}", "low = 1e-6, or leave log out"


def _number(value: Value | None, otherwise: float) -> float:
    return otherwise if value is None or isinstance(value, str | bool) else value


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return float(low * (high / low) ** rng.random())


def _divides(step: float, span: float) -> bool:
    steps = span / step
    return abs(steps - round(steps)) < 1e-6
