"""What a user's code asks for is what it wrote down: bounds, steps and choices, answered with values of its own."""

import pytest

from autofash.errors import InfeasibleConfig
from autofash.hypermodels.asking import TrialAsking, asking, hyperparameters
from autofash.records import Value
from autofash.space import ChoiceParam, FloatParam, IntParam, Param

pytestmark = pytest.mark.keras


class Asked:
    """Answers with the highest value, and remembers what was asked."""

    def __init__(self) -> None:
        self.params: dict[str, Param] = {}

    def __call__(self, name: str, param: Param) -> Value:
        self.params[name] = param
        values = param.grid()
        return values[-1] if values else param.nearest(float("inf"))


@pytest.mark.parametrize(
    ("low", "high", "step", "last"), [(0.1, 0.7, 0.1, 0.7), (0.0, 0.5, 0.1, 0.5), (0.0, 1.0, 0.3, 0.9)]
)
def test_the_last_step_of_a_range_is_reached_however_floats_come_out(
    low: float, high: float, step: float, last: float
) -> None:
    ask = Asked()
    assert hyperparameters(asking({}, ask)).Float("rate", low, high, step=step) == last
    assert ask.params["rate"] == FloatParam(low=low, high=last, step=step)
    assert TrialAsking(0, asking({}, ask)).suggest_float("rate", low, high, step=step) == last
    assert not [*ask.params["rate"].faults()]


def test_a_range_that_its_steps_do_not_fill_ends_at_the_last_of_them() -> None:
    ask = Asked()
    assert hyperparameters(asking({}, ask)).Int("units", 6, 13, step=3) == 12
    assert TrialAsking(0, asking({}, ask)).suggest_int("width", 6, 13, step=3) == 12
    assert ask.params["units"] == ask.params["width"] == IntParam(low=6, high=12, step=3)


def test_steps_by_factors_and_mirrored_logarithms_are_kerastuners_own_values() -> None:
    ask = Asked()
    hp = hyperparameters(asking({}, ask))
    assert hp.Int("batch", 2, 32, step=2, sampling="log") == 32
    assert ask.params["batch"] == ChoiceParam(values=[2, 4, 8, 16, 32])
    assert 1e-4 < hp.Float("rate", 1e-4, 1.0, sampling="reverse_log") <= 1.0


def test_choices_that_are_no_plain_values_come_back_as_themselves() -> None:
    trial = TrialAsking(0, asking({}, Asked()))
    assert trial.suggest_categorical("shape", [(3, 3), (5, 5)]) == (5, 5)
    assert trial.suggest_categorical("act", ["relu", None]) is None


def test_a_name_is_asked_for_once_and_what_cannot_be_is_refused() -> None:
    ask = Asked()
    hp = hyperparameters(asking({"known": 3}, ask))
    assert hp.Int("known", 1, 9) == 3 and "known" not in ask.params
    with pytest.raises(InfeasibleConfig, match="units"):
        TrialAsking(0, asking({}, ask)).suggest_int("units", 9, 1)
