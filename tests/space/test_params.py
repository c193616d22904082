import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.errors import SpaceError
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Space


def facts(param: IntParam | FloatParam | ChoiceParam | BoolParam) -> str:
    return "; ".join(f"{key}: {fact}" for key, fact, _ in param.faults())


def test_a_range_upside_down_is_named_with_the_fix() -> None:
    [(key, fact, fix)] = list(IntParam(low=5, high=2).faults())
    assert (key, fact, fix) == ("low", "low = 5 is above high = 2", "low = 2, high = 5")


def test_log_needs_a_positive_low() -> None:
    assert "log = true needs low above 0" in facts(FloatParam(low=0.0, high=1.0, log=True))
    assert "log = true needs low above 0" in facts(IntParam(low=0, high=8, log=True))


def test_a_step_that_does_not_divide_the_range_is_named() -> None:
    assert "step = 3 does not divide" in facts(IntParam(low=0, high=8, step=3))
    assert "step = 0.3 does not divide" in facts(FloatParam(low=0.0, high=1.0, step=0.3))


def test_step_and_log_exclude_each_other() -> None:
    assert "exclude each other" in facts(IntParam(low=1, high=8, step=2, log=True))
    assert "exclude each other" in facts(FloatParam(low=1.0, high=8.0, step=1.0, log=True))


def test_choices_are_distinct_and_not_empty() -> None:
    assert "leaves nothing to choose" in facts(ChoiceParam(values=[]))
    assert "'a' stands there twice" in facts(ChoiceParam(values=["a", "a"]))
    assert facts(ChoiceParam(values=[1, True, "1"])) == ""


def test_an_endless_bound_is_refused() -> None:
    assert "finite" in facts(FloatParam(low=0.0, high=math.inf))


@given(st.integers(-1000, 1000), st.integers(0, 200), st.integers(1, 9))
def test_an_int_param_holds_exactly_its_grid(low: int, steps: int, step: int) -> None:
    param = IntParam(low=low, high=low + steps * step, step=step)
    assert not facts(param)
    grid = param.grid()
    assert grid is not None and len(grid) == steps + 1
    assert all(param.holds(value) for value in grid)
    assert not param.holds(low - 1) and not param.holds(low + steps * step + 1) and not param.holds(float(low))


@given(st.floats(-10, 10), st.integers(1, 50), st.sampled_from([0.05, 0.1, 0.25, 1.0]))
def test_a_stepped_float_holds_its_grid(low: float, steps: int, step: float) -> None:
    param = FloatParam(low=low, high=low + steps * step, step=step)
    grid = param.grid()
    assert grid is not None and len(grid) == steps + 1
    assert all(param.holds(min(max(value, param.low), param.high)) for value in grid)


def test_true_is_not_the_number_one() -> None:
    assert not IntParam(low=0, high=1).holds(True)
    assert not ChoiceParam(values=[1, 2]).holds(True)
    assert BoolParam().holds(True) and not BoolParam().holds(1)


def test_numbers_beyond_all_bounds_are_refused_in_one_line_each() -> None:
    huge = 10**400
    assert facts(IntParam(low=huge, high=1)) == "high: a bound beyond 2**53 is not exact"
    assert "finite" in facts(FloatParam(low=-1e308, high=1e308, step=0.1))
    assert "too small" in facts(FloatParam(low=0.0, high=0.5, step=5e-324))
    with pytest.raises(SpaceError, match="not exact"):
        Space("cnn", {"width": IntParam(low=1, high=huge)})
