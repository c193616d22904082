"""A bounded torture, as `make torture` is an unbounded one."""

from pathlib import Path

from tests.faults.torture import torture


def test_sixty_random_kills_of_trials_and_coordinators_lose_nothing_run_nothing_twice_and_leave_nothing_stuck(
    workplace: Path,
) -> None:
    figures = torture(workplace, seed=1, trials=25, coordinators=20, failpoints=15)
    assert figures.broken == []
    assert (figures.trials, figures.coordinators, figures.failpoints) == (25, 20, 15)
    assert figures.acknowledged >= 25, "a study at least has come to its end"
