"""What every executor promises, run over all of them with tasks that bring no Keras."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autofash.executors import Event, Executor, InlineExecutor, ProcessExecutor
from autofash.records import Ending, EpochReport, ModelBuilt, Outcome, Started, TrialSpec, Verdict

MAKERS: dict[str, Callable[[], Executor]] = {
    "inline": InlineExecutor,
    "processes": lambda: ProcessExecutor("tests.fakes"),
}


@pytest.fixture(params=list(MAKERS))
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = MAKERS[request.param]()
    yield made
    made.close()


def spec(trial: int = 0, task: str = "learn", epochs: int = 3) -> TrialSpec:
    return TrialSpec(
        trial, {"family": "cnn", "learning_rate": 2e-3}, seed=1, epochs=epochs, data="", task=f"tests.fakes:{task}"
    )


def everything(
    executor: Executor, trials: int = 1, verdict: Callable[[EpochReport], Verdict] = lambda _: Verdict.go()
) -> list[Event]:
    """All events until this many outcomes, every report answered."""
    seen: list[Event] = []
    deadline = time.monotonic() + 120  # Keras may have to be imported first, on cores that others use
    while sum(isinstance(event, Outcome) for event in seen) < trials:
        assert time.monotonic() < deadline, seen
        for event in executor.events(0.5):
            seen.append(event)
            if isinstance(event, EpochReport):
                executor.reply(event.trial, verdict(event))
            if isinstance(event, ModelBuilt):
                executor.reply(event.trial, Verdict.go())
    return seen


def test_a_trial_starts_reports_and_ends_in_this_order(executor: Executor) -> None:
    executor.submit(spec())
    events = everything(executor)
    assert [type(event) for event in events] == [Started, EpochReport, EpochReport, EpochReport, Outcome]
    assert [event.epoch for event in events if isinstance(event, EpochReport)] == [1, 2, 3]
    end = events[-1]
    assert (
        isinstance(end, Outcome) and (end.ending, end.details) == (Ending.DONE, {"parameters": 7}) and end.seconds > 0
    )


def test_a_trial_waits_for_the_answer_and_obeys_a_stop(executor: Executor) -> None:
    executor.submit(spec(epochs=50))
    events = everything(executor, verdict=lambda report: Verdict.stop("enough") if report.epoch == 2 else Verdict.go())
    assert sum(isinstance(event, EpochReport) for event in events) == 2


def test_a_trial_says_how_large_its_model_is_and_waits_for_the_answer(executor: Executor) -> None:
    executor.submit(spec(task="build_and_learn"))
    assert [type(event) for event in everything(executor)] == [Started, ModelBuilt, EpochReport, Outcome]
    executor.submit(spec(task="build_and_learn"))
    while not (said := [event for event in executor.events(0.5) if isinstance(event, ModelBuilt)]):
        pass
    assert said == [ModelBuilt(0, parameters=7, work=1e6)]
    executor.reply(0, Verdict.pause("too dear for now"))
    assert [type(event) for event in everything(executor)] == [Outcome]


def test_a_trial_that_pauses_ends_and_goes_on_when_it_is_submitted_again(executor: Executor, tmp_path: Path) -> None:
    given = replace(spec(epochs=5), checkpoint=str(tmp_path / "state"))
    executor.submit(given)
    first = everything(executor, verdict=lambda report: Verdict.pause("") if report.epoch == 2 else Verdict.go())
    assert isinstance(first[-1], Outcome) and first[-1].ending is Ending.DONE
    executor.submit(given)
    second = everything(executor)
    epochs = [[event.epoch for event in events if isinstance(event, EpochReport)] for events in (first, second)]
    assert epochs == [[1, 2], [3, 4, 5]]


def test_several_trials_run_at_once_and_are_told_apart(executor: Executor) -> None:
    for trial in range(6):
        executor.submit(spec(trial))
    events = everything(executor, trials=6)
    for trial in range(6):
        own = [event for event in events if event.trial == trial]
        assert [type(event) for event in own] == [Started, EpochReport, EpochReport, EpochReport, Outcome]


def test_an_exception_is_the_trials_outcome_on_one_line(executor: Executor) -> None:
    executor.submit(spec(task="raise_an_error"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and (end.ending, end.reason) == (
        Ending.FAILED,
        "ValueError: the fake is out of order",
    )


def test_an_infeasible_config_fails_in_its_own_words(executor: Executor) -> None:
    executor.submit(spec(trial=1, task="be_infeasible"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.reason == "a pooling too many: 1 × 1 pixels are left"


def test_a_full_disk_is_not_the_trials_failure(executor: Executor) -> None:
    executor.submit(spec(trial=1, task="fill_the_disk"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.ending is Ending.DISK and "No space left on device" in end.reason


def test_a_task_that_does_not_exist_fails_the_trial(executor: Executor) -> None:
    executor.submit(spec(task="nothing_of_the_kind"))
    end = everything(executor)[-1]
    assert isinstance(end, Outcome) and end.ending is Ending.FAILED and "nothing_of_the_kind" in end.reason


def test_events_come_back_within_the_time_out_when_nothing_happens(executor: Executor) -> None:
    began = time.monotonic()
    assert list(executor.events(0.1)) == [] and time.monotonic() - began < 2


def test_a_reply_to_a_trial_that_is_gone_is_passed_over(executor: Executor) -> None:
    executor.reply(99, Verdict.go())
    executor.submit(spec())
    everything(executor)
    executor.reply(0, Verdict.go())


def test_closing_twice_is_fine(executor: Executor) -> None:
    executor.close()
    executor.close()
