"""Intervals against published figures and against chance itself."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.intervals import apart, over_seeds, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    found = wilson(81 / 263, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_accuracy_and_stays_within_0_and_1(case: tuple[int, int]) -> None:
    hits, images = case
    found = wilson(hits / images, images)
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1


def test_the_interval_over_seeds_covers_the_truth_19_times_in_20() -> None:
    rng = random.Random(0)
    inside = 0
    for _ in range(2000):
        found = over_seeds([rng.gauss(0.9, 0.01) for _ in range(3)])
        inside += found.low <= 0.9 <= found.high
    assert 0.935 < inside / 2000 < 0.965


def test_one_run_says_nothing_about_the_spread() -> None:
    found = over_seeds([0.9])
    assert (found.value, found.low, found.high) == (0.9, 0.0, 1.0)


def test_equal_configs_are_told_apart_one_time_in_20() -> None:
    rng = random.Random(0)
    found = statistics.fmean(
        apart([rng.gauss(0.9, 0.01) for _ in range(4)], [rng.gauss(0.9, 0.02) for _ in range(4)]) for _ in range(2000)
    )
    assert 0.02 < found < 0.065


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [([0.9, 0.9], [0.9, 0.9], False), ([0.9, 0.9], [0.8, 0.8], True), ([0.9], [0.1], False)],
)
def test_runs_without_spread_differ_when_they_differ_and_single_runs_never_do(
    first: list[float], second: list[float], told: bool
) -> None:
    assert apart(first, second) is told
