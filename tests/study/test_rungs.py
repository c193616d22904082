"""Who goes on, who pauses, who is continued, and who is put off."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.records import EpochReport
from autofash.study.rungs import EARLY, EARLY_IMAGES, Costs, RungPruning, Rungs, early_images, rungs_of
from autofash.study.underway import Situation, Underway


def waiting(*stands: tuple[int, int | None]) -> dict[int, Underway]:
    study = optuna.create_study()
    return {number: Underway(study.ask(), {}, 9, 0, "sampled", rung=rung) for number, rung in stands}


def test_rungs_are_powers_of_four_below_the_last_epoch_after_an_early_look() -> None:
    assert rungs_of(6, early=True) == [EARLY, 1, 4]
    assert rungs_of(20, early=True) == [EARLY, 1, 4, 16]
    assert rungs_of(16, early=False) == [1, 4]
    assert rungs_of(1, early=False) == []


def test_an_early_look_is_only_where_an_epoch_is_long_enough() -> None:
    assert early_images(50_000) == EARLY_IMAGES and early_images(1_498) == 0


def test_the_first_three_at_a_rung_pause_and_the_best_of_four_goes_on() -> None:
    rungs = Rungs([1, 4])
    for trial, value in ((0, 0.8), (1, 0.7), (2, 0.6)):
        rungs.reach(trial, 1, value)
        assert not rungs.goes_on(trial, 1)
        assert "among the first there" in rungs.why(trial, 1)
    rungs.reach(3, 1, 0.9)
    assert rungs.goes_on(3, 1) and rungs.next(waiting((0, 1), (1, 1), (2, 1))) is None


def test_from_the_third_rung_on_the_best_goes_on_however_few_have_come() -> None:
    rungs = Rungs([EARLY, 1, 4])
    rungs.reach(0, 1, 0.8)
    rungs.reach(0, 4, 0.8)
    assert not rungs.goes_on(0, 1) and rungs.goes_on(0, 4)
    rungs.reach(1, 4, 0.7)
    rungs.reach(2, 4, 0.9)
    assert not rungs.goes_on(1, 4) and rungs.goes_on(2, 4)
    assert rungs.why(1, 4) == "epoch 4: 0.7000 is below the rung's best quarter, 0.9000"


def test_a_paused_trial_is_continued_once_enough_have_come_in_below_it() -> None:
    rungs = Rungs([1, 4])
    for trial, value in enumerate((0.8, 0.7, 0.6, 0.5)):
        rungs.reach(trial, 1, value)
    assert not rungs.goes_on(3, 1) and rungs.why(3, 1) == "epoch 1: 0.5000 is below the rung's best quarter, 0.8000"
    assert rungs.next(waiting((0, 1), (1, 1), (2, 1), (3, 1))) == 0


def test_the_highest_rung_is_served_first() -> None:
    rungs = Rungs([1, 4])
    for trial in range(16):
        rungs.reach(trial, 1, trial / 20)
    for trial in (12, 13, 14, 15):
        rungs.reach(trial, 4, trial / 20)
    assert rungs.next(waiting((15, 4), (14, 4), (13, 4), (12, 1))) == 15


def test_between_rungs_and_at_the_end_nobody_pauses() -> None:
    rungs = Rungs([1, 3])
    rungs.reach(0, 2, 0.1)
    assert rungs.goes_on(0, 2)


def test_hopeless_is_who_could_not_be_among_the_best_quarter_even_of_all_trials() -> None:
    rungs = Rungs([1])
    for trial in range(6):
        rungs.reach(trial, 1, trial / 10)
    assert rungs.hopeless(0, 1, target=20) and not rungs.hopeless(0, 1, target=24)
    assert not rungs.hopeless(3, 1, target=3), "three are trained to the end, however few there are"


def test_the_leader_is_the_best_of_the_highest_rung_and_nobody_without_a_rung() -> None:
    rungs = Rungs([1, 3])
    rungs.reach(0, 1, 0.9)
    rungs.reach(1, 1, 0.5)
    rungs.reach(1, 3, 0.6)
    assert rungs.leader(waiting((0, 1), (1, 3))) == 1 and rungs.leader(waiting((0, 1))) == 0
    assert rungs.leader(waiting((7, None))) is None


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_of_a_rung_exactly_one_in_four_has_earned_to_go_on_and_they_are_the_best(values: list[float]) -> None:
    rungs, paused, continued = Rungs([1]), {}, []
    for trial, value in enumerate(values):
        rungs.reach(trial, 1, value)
        paused |= waiting((trial, 1))
    while (found := rungs.next(paused)) is not None:
        continued.append(found)
        del paused[found]
    assert len(continued) == len(values) // 4
    assert sorted((values[n] for n in continued), reverse=True) == sorted(values, reverse=True)[: len(continued)]


def report(images: int, seconds: float, *, trial: int = 0, epoch: int = EARLY, value: float = 0.5) -> EpochReport:
    return EpochReport(trial, epoch, value, value, 1.0, value, 1.0, images, seconds)


class Pruned:
    """Trials of six epochs of 50,000 images under rungs, all of which run until they pause."""

    def __init__(self, trials: int) -> None:
        self.pruning = RungPruning(6, 50_000)
        self.running = waiting(*((number, EARLY) for number in range(trials)))
        self.paused: dict[int, Underway] = {}

    @property
    def situation(self) -> Situation:
        return Situation(50, 0, self.running, self.paused, all_begun=False, seconds_left=None)

    def say(self, trial: int, epoch: int, value: float) -> str:
        said = report(50_000 * epoch, 20.0, trial=trial, epoch=epoch, value=value)
        verdict = self.pruning.verdict(self.running[trial], said, self.situation)
        if verdict.action == "pause":
            self.paused[trial] = self.running.pop(trial)
        return str(verdict.action)

    def due(self) -> int | None:
        number = self.pruning.due(self.situation)
        if number is not None:
            self.running[number] = self.paused.pop(number)
        return number


def test_while_too_few_have_come_to_epoch_1_its_best_goes_ahead_and_gives_way_once_another_is_better() -> None:
    study = Pruned(3)
    assert [study.say(0, 1, 0.8), study.say(1, 1, 0.7), study.say(0, 2, 0.95)] == ["go", "pause", "go"]
    assert study.say(2, 1, 0.9) == "go"
    assert study.say(0, 3, 0.96) == "pause", "it is behind where it went ahead"
    assert [study.say(2, epoch, 0.9) for epoch in (2, 3, 4)] == ["go", "go", "go"] and study.due() is None


def test_the_best_at_epoch_1_that_pauses_there_goes_ahead_once_another_runs() -> None:
    study = Pruned(2)
    other = study.running.pop(1)
    assert study.say(0, 1, 0.9) == "pause" and study.due() is None, "nobody else runs that could come to the rung"
    study.running[1] = other
    assert study.due() == 0 and study.say(0, 2, 0.9) == "go"
    assert study.say(1, 1, 0.8) == "pause" and study.due() is None


def test_who_is_ahead_and_among_the_best_quarter_when_there_is_one_has_earned_its_way_to_the_next_rung() -> None:
    study = Pruned(9)
    assert study.say(0, 1, 0.8) == "go"
    assert [study.say(number, 1, 0.5 + number / 100) for number in (1, 2, 3)] == ["pause"] * 3
    assert study.say(0, 2, 0.82) == "go"
    assert [study.say(number, 1, 0.9) for number in (4, 5)] == ["go", "pause"]
    assert study.say(0, 3, 0.84) == "go", "what was earned stays so"


def test_nobody_goes_ahead_of_the_early_look() -> None:
    assert Pruned(3).say(0, EARLY, 0.9) == "pause"


def test_a_first_rung_may_cost_a_tenth_of_what_was_spent_and_five_seconds_always() -> None:
    costs = Costs(8192)
    assert costs.affordable(4.9) and not costs.affordable(5.1)
    costs.spend(200.0)
    assert costs.affordable(20.0) and not costs.affordable(21.0)


def test_what_a_first_rung_costs_is_foretold_at_the_rate_of_the_trials_before() -> None:
    costs = Costs(1000)
    costs.learn(1e6, [report(1000, 11.0)])
    costs.learn(2e6, [report(1000, 21.0)])
    costs.learn(None, [report(1000, 99.0)])
    assert costs.first_rung(3e6) == pytest.approx(30.0) and costs.first_rung(None) == 0
