"""How sure an accuracy is: the interval of a share of hits, and of a mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # standard normal, 97.5 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval, all fractions."""

    value: float
    low: float
    high: float


def wilson(accuracy: float, images: int) -> Interval:
    """The interval of an accuracy that was measured on this many independent images.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; it stays within 0 to 1 where the normal interval does not.
    """
    if images < 1:
        return Interval(accuracy, 0.0, 1.0)
    square = Z95**2
    centre = (accuracy + square / (2 * images)) / (1 + square / images)
    reach = Z95 / (1 + square / images) * math.sqrt(accuracy * (1 - accuracy) / images + square / (4 * images**2))
    return Interval(accuracy, max(0.0, centre - reach), min(1.0, centre + reach))


def over_seeds(values: Sequence[float]) -> Interval:
    """The interval of the mean of a few runs that differ in their seed alone, by Student's t.

    values: from 1. One run says nothing about the spread: its interval is 0 to 1.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, 0.0, 1.0)
    reach = _t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the means of two configs' runs differ, by Welch's test at 5 %.

    Source: Welch 1947, doi:10.1093/biomet/34.1-2.28. Fewer than two runs each tell nothing apart.
    """
    if min(len(first), len(second)) < 2:
        return False
    spreads = [statistics.variance(values) / len(values) for values in (first, second)]
    if sum(spreads) == 0:
        return statistics.fmean(first) != statistics.fmean(second)
    t = abs(statistics.fmean(first) - statistics.fmean(second)) / math.sqrt(sum(spreads))
    freedom = sum(spreads) ** 2 / sum(
        spread**2 / (len(values) - 1) for spread, values in zip(spreads, (first, second), strict=True)
    )
    return t > _t95(freedom)


def _t95(freedom: float) -> float:
    """Student's t at 97.5 % for these degrees of freedom."""
    from scipy.special import stdtrit  # not scipy.stats, which takes a second to import

    return float(stdtrit(freedom, 0.975))
