"""The loop over real processes and real SQLite files, with a trainer that never imports Keras."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from autofash import loop
from autofash.errors import AutofashError, Interrupted, NoTrial, ResourceError, StudyBusy, UsageError
from autofash.loop import (
    SearchBegan,
    SearchEnded,
    SearchEvent,
    Started,
    TrialBegan,
    TrialEnded,
    TrialPaused,
    TrialReported,
)
from autofash.records import State
from autofash.request import SearchRequest
from autofash.study import Study, load_study
from tests.executors.test_processes import alive, until


def search(task: str = "learn", **settings: object) -> tuple[Study, list[SearchEvent]]:
    events: list[SearchEvent] = []
    request = SearchRequest(**{"dataset": "digits", "space": "mlp", "trials": 6, "epochs": 3, **settings})
    return loop.search(request, [events.append], task=f"tests.fakes:{task}"), events


def ended(events: list[SearchEvent]) -> list[TrialEnded]:
    return [event for event in events if isinstance(event, TrialEnded)]


def why(events: list[SearchEvent]) -> str:
    assert isinstance(events[-1], SearchEnded)
    return events[-1].why


def test_a_search_ends_with_exactly_the_trials_that_were_asked_for() -> None:
    study, events = search(trials=7)
    assert sum(trial.finished for trial in study.trials()) == 7
    assert [event.finished for event in ended(events)] == list(range(1, 8))
    assert isinstance(events[0], SearchBegan) and why(events) == "all 7 trials are finished"


def test_every_trial_is_told_of_from_its_beginning_to_its_end() -> None:
    _, events = search(trials=3, pruner="none")
    for number in range(3):
        own = [
            event
            for event in events
            if getattr(event, "trial", None) == number
            or (isinstance(event, TrialReported) and event.report.trial == number)
        ]
        assert [type(event) for event in own] == [TrialBegan, Started, TrialReported, TrialReported, TrialReported]


def test_the_same_again_says_that_nothing_is_left_and_starts_nothing() -> None:
    search()
    study, events = search()
    assert [type(event) for event in events] == [SearchBegan, SearchEnded]
    assert why(events) == "all 6 trials are finished already"
    assert len(study.trials()) == 6


def test_more_adds_to_the_studys_total() -> None:
    search(trials=4)
    study, _ = search(trials=None, more=3)
    assert study.target == 7 and sum(trial.finished for trial in study.trials()) == 7


def test_without_trials_the_stored_total_counts() -> None:
    with pytest.raises(NoTrial, match="budget of 0 s is used up"):
        search(trials=4, budget_seconds=0.0)
    study, _ = search(trials=None)
    assert sum(trial.finished for trial in study.trials()) == 4


def test_a_resumed_search_takes_space_data_and_settings_from_its_study() -> None:
    search(study="mine", seed=5, sampler="random", pruner="none", trials=2)
    study, _ = search(study="mine", dataset=None, space=None, epochs=None, trials=4)
    assert (study.settings.seed, study.settings.sampler, study.settings.space) == (5, "random", "mlp")
    assert sum(trial.finished for trial in study.trials()) == 4


def test_a_search_cut_in_two_equals_a_whole_one() -> None:
    whole, _ = search(study="whole", trials=10, workers=1, pruner="none")
    search(study="cut", trials=4, workers=1, pruner="none")
    cut, _ = search(study="cut", trials=10, workers=1, pruner="none")
    assert [(t.config, t.seed, t.curve) for t in cut.trials()] == [(t.config, t.seed, t.curve) for t in whole.trials()]


def test_a_search_with_paused_trials_that_is_interrupted_and_resumed_equals_a_whole_one() -> None:
    settings = {"dataset": "digits", "space": "mlp", "trials": 14, "epochs": 6, "workers": 1}
    whole, _ = search(study="whole", **settings)
    ends = 0

    def interrupt(event: SearchEvent) -> None:
        nonlocal ends
        ends += isinstance(event, TrialPaused)
        if ends == 6:
            ends += 1
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        loop.search(SearchRequest(study="cut", **settings), [interrupt], task="tests.fakes:learn")
    assert State.PAUSED in {trial.state for trial in load_study("cut").trials()}
    cut, _ = search(study="cut", **settings)
    ran = [t for t in cut.trials() if t.state is not State.FAILED]  # the interrupted attempt of one trial is FAILED
    assert {(str(t.config), t.seed, t.curve) for t in ran} == {(str(t.config), t.seed, t.curve) for t in whole.trials()}


def test_a_new_study_takes_the_next_free_name() -> None:
    search(trials=1)
    study, _ = search(trials=1, new_study=True)
    assert study.name == "digits-mlp-2"


def test_the_budget_ends_the_search_and_running_trials_are_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.2")
    study, events = search(trials=200, budget_seconds=4.0, pruner="none")
    assert "budget of 4 s is used up" in why(events)
    states = [trial.state for trial in study.trials()]
    assert State.RUNNING not in states and State.WAITING in states
    assert study.target == 200


def test_a_study_files_total_begins_a_study_and_never_takes_back_trials_that_were_added() -> None:
    assert search(trials=None, at_least=3)[0].target == 3
    assert search(trials=None, more=2)[0].target == 5
    assert search(trials=None, at_least=3)[0].target == 5


def test_the_target_ends_the_search() -> None:
    study, events = search(trials=50, target=0.5)
    assert "target of 0.5 is reached" in why(events)
    assert (study.best().value or 0) >= 0.5 and len(study.trials()) < 50


def test_pruned_trials_say_why_and_count_as_finished() -> None:
    study, _ = search(trials=15, epochs=6, pruner="asha")
    pruned = [trial for trial in study.trials() if trial.state is State.PRUNED]
    reason = r"epoch [14]: 0\.\d{4}(, among the first there| is below the rung's best quarter, 0\.\d{4})"
    assert pruned and all(re.fullmatch(reason, trial.why) for trial in pruned)
    assert all(len(trial.curve) in (1, 4, 5) for trial in pruned), "who is ahead at a rung may give way an epoch later"


def test_a_trial_that_pauses_is_continued_from_its_checkpoint_and_never_trained_again() -> None:
    study, events = search(trials=12, epochs=6, pruner="asha", workers=1)
    reported = [(event.report.trial, event.report.epoch) for event in events if isinstance(event, TrialReported)]
    assert len(reported) == len(set(reported)) > 12
    begun = [event.trial for event in events if isinstance(event, TrialBegan)]
    continued = {trial for trial in begun if begun.count(trial) > 1}
    assert continued and any(isinstance(event, TrialPaused) for event in events)
    for trial in study.trials():
        assert [report.epoch for report in trial.reports] == list(range(1, len(trial.curve) + 1))
    assert not list(study.folder.glob("trials/*/checkpoint")), "what has ended keeps no checkpoint"


def test_a_search_ends_with_at_least_three_trials_that_were_trained_to_the_end_and_they_lead_their_rungs() -> None:
    study, _ = search(trials=7, epochs=9, pruner="asha", workers=1)
    complete = study.leaderboard()
    assert len(complete) == 3 and all(len(trial.curve) == 9 for trial in complete)
    assert min(trial.curve[0] for trial in complete) >= max(t.curve[0] for t in study.trials() if t not in complete)


def test_trials_that_are_paused_when_the_budget_ends_are_taken_up_by_the_next_search_and_never_trained_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    with suppress(NoTrial):  # on a busy machine none may have come to its end
        search(trials=300, epochs=6, budget_seconds=5.0)
    first = load_study()
    paused = {t.number: t for t in first.trials() if t.state is State.PAUSED}
    assert paused and all((first.folder / f"trials/{number}/checkpoint").exists() for number in paused)
    second, events = search(trials=len(first.trials()) + 8, epochs=6)
    now = {t.number: t for t in second.trials()}
    assert all(now[n].finished and now[n].curve[: len(t.curve)] == t.curve for n, t in paused.items())
    # One that was continued, and runs when the budget ends, goes back to where it paused.
    waited = {number for number, trial in paused.items() if trial.why != "interrupted"}
    again = [event.report for event in events if isinstance(event, TrialReported) and event.report.trial in waited]
    assert waited and all(said.epoch > len(paused[said.trial].curve) for said in again)


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median", "none"])
def test_every_pruner_searches_to_the_end(pruner: str) -> None:
    study, _ = search(trials=12, epochs=6, pruner=pruner)
    assert sum(trial.finished for trial in study.trials()) == 12
    assert study.leaderboard()


def test_infeasible_configs_fail_and_the_search_goes_on() -> None:
    study, _ = search("be_infeasible", trials=5)
    failed = [trial for trial in study.trials() if trial.state is State.FAILED]
    assert sum(trial.finished for trial in study.trials()) == 5
    assert failed and all("a pooling too many" in trial.why for trial in failed)


def test_a_trial_that_finds_the_disk_full_is_queued_again_and_the_search_ends() -> None:
    with pytest.raises(ResourceError, match=r"studies/digits-mlp: the disk is full\. Try: the same command") as caught:
        search("fill_the_disk", trials=20, pruner="none", workers=1)
    assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", 6)
    first, second, retry = load_study().trials()
    assert (first.state, second.state, retry.state) == (State.COMPLETE, State.FAILED, State.WAITING)
    assert "No space left" in second.why and (retry.config, retry.seed) == (second.config, second.seed)
    study, _ = search(trials=20, pruner="none")
    assert sum(trial.finished for trial in study.trials()) == 20


def test_values_that_are_not_finite_fail_their_trials_and_are_never_best() -> None:
    study, _ = search("leave_the_numbers", trials=4, pruner="none")
    assert {trial.state for trial in study.trials()} == {State.COMPLETE, State.FAILED}
    assert study.best().value == 0.5


def test_ten_failures_in_a_row_end_a_search_that_has_nothing_with_the_top_reason() -> None:
    with pytest.raises(NoTrial, match="the fake is out of order") as caught:
        search("raise_an_error", trials=50)
    assert caught.value.exit_code == 5
    failed = [trial for trial in load_study().trials() if trial.state is State.FAILED]
    assert 10 <= len(failed) <= 12


def test_ten_failures_in_a_row_end_a_search_that_has_something_without_an_error() -> None:
    search(trials=3)
    study, events = search("raise_an_error", trials=50)
    assert "10 trials in a row failed" in why(events) and study.best().value


def test_a_killed_trial_is_tried_once_more_with_its_config_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_MARKS", str(tmp_path))
    study, _ = search("die_once", trials=4)
    trials = study.trials()
    dead = [trial for trial in trials if trial.state is State.FAILED]
    assert sum(trial.finished for trial in trials) == 4 and len(dead) >= 4
    for trial in dead[:4]:
        assert "signal 9" in trial.why
        [again] = [other for other in trials if other.origin == f"retry of {trial.number}"]
        assert (again.config, again.seed) == (trial.config, trial.seed)


def test_a_config_that_kills_every_attempt_gets_two() -> None:
    with pytest.raises(NoTrial, match="signal 9"):
        search("always_die", trials=5)
    trials = load_study().trials()
    per_seed = [sum(other.seed == trial.seed for other in trials if other.state is State.FAILED) for trial in trials]
    assert max(per_seed) == 2


def test_a_grid_that_is_used_up_ends_the_search_and_says_so() -> None:
    Path("tiny.toml").write_text('format = 1\nfamily = "mlp"\n[params.width]\ntype = "choice"\nvalues = [8, 16, 32]\n')
    study, events = search(space="tiny.toml", sampler="grid", trials=50, pruner="none")
    assert why(events) == "the space has nothing left to try" and len(study.trials()) == 3


def test_what_a_search_worked_with_is_noted() -> None:
    study, _ = search(trials=1)
    assert study.runs[0]["sampler"] == "tpe" and study.runs[0]["keras"] and study.runs[0]["machine"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "tpa", "pruner": "ash"}, "sampler 'tpa'.*pruner 'ash'"),
        ({"trials": 0}, "--trials 0 is not above 0"),
        ({"trials": 5, "more": 5}, "exclude each other"),
        ({"seed": -1}, "--seed -1"),
        ({"target": 93.0}, "--target 93 is no fraction"),
        ({"objective": "acuracy"}, "objective 'acuracy'. Try: accuracy"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_anything_is_made(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(**settings)
    assert not Path("studies").exists()


# -- a coordinator in a process of its own, killed and interrupted ---------------------------------------------------------

DRIVER = """
import json, sys
from autofash import loop
from autofash.errors import AutofashError
from autofash.request import SearchRequest
def told(event):
    name = type(event).__name__
    number = event.trial if name == "Started" else event.record.number if name == "TrialEnded" else None
    print(name, number, getattr(event, "pid", ""), flush=True)
try:
    loop.search(SearchRequest(**json.loads(sys.argv[1])), [told], task="tests.fakes:" + sys.argv[2])
except AutofashError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def coordinator(task: str = "learn", **settings: object) -> subprocess.Popen[str]:
    request = {"dataset": "digits", "space": "mlp", "trials": 12, "epochs": 3, "pruner": "none", **settings}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(request), task],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str], begins: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(begins):
            return line
    raise AssertionError(f"it ended without {begins}: {process.stderr.read() if process.stderr else ''}")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.parametrize("kills", [3])
def test_a_coordinator_killed_again_and_again_loses_no_finished_trial_and_resumes_to_the_exact_total(
    kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.1")
    kept: dict[int, object] = {}
    for _ in range(kills):
        process = coordinator()
        for _ in range(2):
            line_of(process, "TrialEnded")
        children = family(process)
        process.kill()
        finish(process)
        assert until(lambda children=children: not any(alive(child) for child in children), seconds=2.0)
        now = {trial.number: trial for trial in load_study().trials() if trial.finished}
        assert all(now[number] == trial for number, trial in kept.items())
        kept = dict(now)
    process = coordinator()
    assert finish(process)[0] == 0
    trials = load_study().trials()
    assert sum(trial.finished for trial in trials) == 12
    assert not [trial for trial in trials if trial.state in (State.RUNNING, State.WAITING)]
    assert all({t.number: t for t in trials}[number] == trial for number, trial in kept.items())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_search_keeps_what_is_finished_queues_the_rest_and_leaves_no_process(
    number: int, code: int
) -> None:
    process = coordinator("spin")
    line_of(process, "Started")
    time.sleep(0.3)
    children = family(process)
    process.send_signal(number)
    returned, said = finish(process)
    assert returned == code and "finished trials are kept" in said and "Try: autofash search --study digits-mlp" in said
    assert until(lambda: not any(alive(child) for child in children))
    states = {trial.state for trial in load_study().trials()}
    assert State.RUNNING not in states and State.WAITING in states


def test_a_second_search_of_the_study_is_refused_with_the_holders_process_id() -> None:
    process = coordinator("spin")
    line_of(process, "Started")
    with pytest.raises(StudyBusy, match=f"process {process.pid} is searching"):
        search(trials=12)
    process.kill()
    finish(process)


def test_a_coordinator_killed_while_trials_are_paused_continues_them_from_their_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.05")
    process = coordinator(trials=40, epochs=6, pruner="asha")
    for _ in range(8):
        line_of(process, "TrialPaused")
    process.kill()
    finish(process)
    before = {t.number: t for t in load_study().trials() if t.state is State.PAUSED}
    assert len(before) >= 5
    process = coordinator(trials=40, epochs=6, pruner="asha")
    code, said = finish(process)
    assert code == 0, said
    after = {t.number: t for t in load_study().trials()}
    assert sum(trial.finished for trial in after.values()) == 40
    assert not [t for t in after.values() if t.state in (State.RUNNING, State.PAUSED, State.WAITING)]
    for number, trial in before.items():
        assert after[number].finished and after[number].curve[: len(trial.curve)] == trial.curve
        log = (load_study().folder / f"trials/{number}/log.txt").read_text()
        assert log.count("goes on after epoch") == log.count("learns with seed") - 1, (
            "none was trained from scratch again"
        )


def test_two_studies_in_one_file_are_searched_at_once() -> None:
    both = [coordinator(study="one"), coordinator(study="two")]
    assert [finish(process)[0] for process in both] == [0, 0]
    assert [sum(trial.finished for trial in load_study(name).trials()) for name in ("one", "two")] == [12, 12]


def test_a_trial_killed_from_outside_costs_that_trial_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.3")
    process = coordinator(trials=4)
    victim = line_of(process, "Started").split()
    os.kill(int(victim[2]), signal.SIGKILL)
    assert finish(process)[0] == 0
    trials = {trial.number: trial for trial in load_study().trials()}
    assert "signal 9" in trials[int(victim[1])].why
    assert sum(trial.finished for trial in trials.values()) == 4


def test_the_coordinator_never_imports_keras_not_even_while_trials_run() -> None:
    program = (
        "import sys\nfrom autofash import loop\nfrom autofash.request import SearchRequest\n"
        "def told(event):\n    assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules), event\n"
        "loop.search(SearchRequest(dataset='digits', space='mlp', trials=2, epochs=1), [told], task='tests.fakes:learn')\n"
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_interrupted_is_an_error_of_ours() -> None:
    assert issubclass(Interrupted, AutofashError)
