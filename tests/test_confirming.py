"""The leaders again over several seeds, with trainers that never import Keras."""

import shutil
from pathlib import Path

import pytest

from autofash import loop
from autofash.confirming import confirm
from autofash.errors import NoTrial, StudyMissing, UsageError
from autofash.intervals import over_seeds
from autofash.loop import SearchEvent, TrialEnded
from autofash.records import State
from autofash.refitting import refit
from autofash.request import SearchRequest
from autofash.study import Confirmed, Study, candidates, confirmed, extent, is_settled, list_studies, load_study

LUCK = "tests.fakes:learn_by_luck"


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study, to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    request = SearchRequest(
        dataset="digits",
        space="mlp",
        trials=8,
        epochs=3,
        sampler="random",
        pruner="none",
        storage=f"sqlite:///{folder}/studies.db",
    )
    loop.search(request, task=LUCK)
    return folder


@pytest.fixture
def study(searched: Path, workplace: Path) -> Study:
    """A copy of it, in the default storage of the current folder."""
    shutil.copytree(searched, workplace / "studies")
    return load_study("digits-mlp")


def again(study: Study, top: int, seeds: int) -> tuple[list[Confirmed], list[SearchEvent]]:
    events: list[SearchEvent] = []
    return confirm(study, top, seeds, task=LUCK, listeners=[events.append]), events


def ended(events: list[SearchEvent]) -> int:
    return sum(isinstance(event, TrialEnded) for event in events)


def test_the_top_configs_are_run_again_over_the_same_seeds_and_none_is_pruned(study: Study) -> None:
    found, events = again(study, 2, 3)
    assert ended(events) == 6 and all(len(entry.values) == 3 for entry in found)
    runs = load_study("digits-mlp@confirm").trials()
    assert {run.state for run in runs} == {State.COMPLETE} and all(len(run.curve) == 3 for run in runs)
    assert [sorted(run.seed for run in runs if run.config == entry.record.config) for entry in found][0:1] == [
        sorted(run.seed for run in runs if run.config == found[1].record.config)
    ]
    assert not {run.seed for run in runs} & {trial.seed for trial in study.trials()}, "none that the search has used"
    assert {entry.record.number for entry in found} == {trial.number for trial in study.leaderboard()[:2]}
    assert {run.origin.partition(",")[0] for run in runs} == {f"trial {entry.record.number}" for entry in found}


def test_they_are_ranked_by_the_lower_bound_of_their_mean_and_refitted_in_that_order(study: Study) -> None:
    found, _ = again(study, 3, 3)
    assert [entry.interval for entry in found] == [over_seeds(entry.values) for entry in found]
    lows = [entry.interval.low for entry in found]
    assert lows == sorted(lows, reverse=True) and not found[0].tied
    first = candidates(study)[0]
    assert first.record == found[0].record and first.epochs == found[0].epochs == 3
    assert [c.record.number for c in candidates(study)[3:]] == [t.number for t in study.leaderboard()[3:]]


def test_the_same_command_again_runs_nothing_and_a_larger_one_runs_what_is_missing(study: Study) -> None:
    again(study, 2, 2)
    assert ended(again(study, 2, 2)[1]) == 0
    found, events = again(study, 3, 3)
    assert ended(events) == 5 and len(found) == 3


def test_a_config_whose_process_died_in_a_confirmation_is_run_with_the_same_seed_again(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_MARKS", str(tmp_path_factory.mktemp("marks")))
    found = confirm(study, 1, 2, task="tests.fakes:die_once")
    assert len(found[0].values) == 2


def test_differences_that_may_be_luck_are_called_ties_and_large_ones_are_not() -> None:
    request = SearchRequest(dataset="digits", space="mlp", trials=12, epochs=3, sampler="random", pruner="none")
    study = loop.search(request, task=LUCK)
    found, _ = again(study, 12, 3)
    gaps = {entry.tied: found[0].interval.value - entry.interval.value for entry in found[1:]}
    assert not found[-1].tied and gaps[False] > 0.02


def test_a_confirmation_is_listed_but_never_the_study_that_a_command_takes_by_default(study: Study) -> None:
    again(study, 1, 1)
    assert [summary.name for summary in list_studies()] == ["digits-mlp@confirm", "digits-mlp"]
    assert load_study().name == "digits-mlp"


def test_a_confirmation_that_is_not_at_its_end_ranks_nothing(study: Study) -> None:
    class Interrupt(Exception):
        pass

    def stop(event: SearchEvent) -> None:
        if isinstance(event, TrialEnded):
            raise Interrupt

    with pytest.raises(Interrupt):
        confirm(study, 3, 3, task=LUCK, listeners=[stop])
    assert len(confirmed(study)) == 1 and not is_settled(study) and extent(study) == (3, 3)
    assert [c.record for c in candidates(study)] == study.leaderboard()
    again(study, 3, 3)
    assert is_settled(study)


def test_one_run_of_each_ranks_nothing_either(study: Study) -> None:
    again(study, 2, 1)
    assert not is_settled(study)


def test_a_config_with_fewer_runs_than_others_comes_after_them(study: Study) -> None:
    again(study, 1, 3)
    found, _ = again(study, 3, 2)
    assert [len(entry.values) for entry in found] == [3, 2, 2]


def test_a_confirmation_cannot_be_confirmed_or_refitted_itself(study: Study) -> None:
    again(study, 1, 2)
    itself = load_study("digits-mlp@confirm")
    with pytest.raises(UsageError, match="only confirms digits-mlp.*Try: digits-mlp"):
        confirm(itself)
    with pytest.raises(UsageError, match="has no model of its own"):
        refit(itself)


def test_without_a_confirmation_the_search_ranks(study: Study) -> None:
    assert confirmed(study) == []
    assert [c.record for c in candidates(study)] == study.leaderboard()


@pytest.mark.parametrize(("top", "seeds"), [(0, 3), (3, 0), (3, 101)])
def test_impossible_numbers_are_refused(study: Study, top: int, seeds: int) -> None:
    with pytest.raises(UsageError, match="--confirm 3 --seeds 3"):
        confirm(study, top, seeds)


def test_a_study_without_a_complete_trial_cannot_be_confirmed() -> None:
    with pytest.raises(NoTrial):
        loop.search(SearchRequest(dataset="digits", space="mlp", trials=1), task="tests.fakes:raise_an_error")
    with pytest.raises(NoTrial):
        confirm(load_study("digits-mlp"))
    with pytest.raises(StudyMissing):
        load_study("digits-mlp@confirm")
