"""What every sampler promises, over every shipped space that it can take."""

import math
from collections.abc import Iterator

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autofash.errors import SpaceError, UsageError
from autofash.records import Ending, EpochReport, Outcome, StudySettings
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Space, load_space
from autofash.study import SAMPLERS, StudyWriter, samplers
from autofash.study.oracles import ORACLES
from autofash.study.samplers import check_sampler, seen_by_tpe

STEPPED = Space(
    "cnn",
    {
        "head": ChoiceParam(values=["dense", "average"]),
        "head_units": ChoiceParam(values=[64, 128], when={"head": ["dense"]}),
        "depth": IntParam(low=1, high=2),
        "dropout": FloatParam(low=0.0, high=0.2, step=0.1),
        "flip": BoolParam(),
    },
    name="stepped",
)


pytestmark = pytest.mark.usefixtures("lent")


def writer(sampler: str, space: Space, name: str = "s") -> StudyWriter:
    settings = StudySettings(
        "digits", "d", space.name, space.table(), space.fingerprint, sampler, "none", "accuracy", 3, 0, 0.1, False
    )
    return StudyWriter(name, "sqlite:///studies/studies.db", settings, target=100)


def configs(found: StudyWriter, most: int) -> Iterator[dict[str, object]]:
    """The configs of new trials; Hyperband continues some of them in between."""
    while most and ((asked := found.ask()) is not None or found.waits):
        if asked is None:
            continue
        value = 0.5 + 0.4 * math.exp(-float(asked.config.get("dropout", 0.0)))
        found.observe(EpochReport(asked.number, 1, value, value, 0, value, 0, 1, 1.0))
        found.tell(Outcome(asked.number, Ending.DONE))
        if not asked.origin.startswith("continues"):
            most -= 1
            yield dict(asked.config)


@pytest.mark.parametrize("sampler", [*SAMPLERS, *ORACLES])
@pytest.mark.parametrize("name", ["cnn", "all", "stepped"])
def test_a_sampler_draws_whole_distinct_configs_that_lie_within_the_space(sampler: str, name: str) -> None:
    space = STEPPED if name == "stepped" else load_space(name)
    if sampler == "grid" and name != "stepped":
        with pytest.raises(SpaceError, match="has no grid"):
            next(configs(writer(sampler, space), 1))
        return
    found = writer(sampler, space)
    most = 17 if sampler == "kt-bayesian" else 25  # from the 16th on by a Gaussian process, which takes its time
    drawn = list(configs(found, most))
    found.close()
    assert len(drawn) == most
    assert all(space.nearest(config) == config for config in drawn)
    assert len({str(sorted(config.items(), key=str)) for config in drawn}) == most


@pytest.mark.parametrize("sampler", [name for name in (*SAMPLERS, *ORACLES) if name != "cmaes"])
def test_the_same_seed_draws_the_same_configs(sampler: str) -> None:
    drawn = []
    for name in ("one", "two"):
        found = writer(sampler, STEPPED, name)
        drawn.append(list(configs(found, 8)))
        found.close()
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("sampler", ["grid", "kt-grid"])
def test_a_grid_ends_after_every_config_even_when_it_is_interrupted(sampler: str) -> None:
    whole = list(STEPPED.grid())
    drawn: list[dict[str, object]] = []
    for _ in range(4):
        found = writer(sampler, STEPPED)
        drawn += configs(found, 10)
        found.close()
    assert len(drawn) == len(whole) == 36
    assert sorted(map(str, drawn)) == sorted(map(str, whole))


def test_an_unknown_sampler_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no sampler 'tpa'. Try: tpe"):
        check_sampler("tpa")


@pytest.mark.parametrize(("sampler", "extra"), [("cmaes", "cmaes"), ("kt-random", "keras-tuner")])
def test_a_sampler_whose_package_is_missing_says_how_to_get_it(
    sampler: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"pip install 'autofash\[{extra}\]'"):
        check_sampler(sampler)


def test_tpe_draws_what_optunas_own_draws_while_a_study_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = writer("tpe", load_space("cnn"), "ours")
    drawn = list(configs(ours, 25))
    ours.close()

    def optunas(space: Space, seed: int, trial_seed: int) -> BaseSampler:
        return optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=trial_seed)

    monkeypatch.setitem(SAMPLERS, "tpe", optunas)
    theirs = writer("tpe", load_space("cnn"), "theirs")
    assert list(configs(theirs, 25)) == drawn
    theirs.close()


def test_tpe_sees_the_best_trials_of_a_large_study_and_an_even_sample_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "MOST_SEEN", 3)
    monkeypatch.setattr(samplers, "GOOD", 2)
    study = optuna.create_study(direction="maximize")
    for value in (0.5, 0.9, 0.1, 0.8, 0.2, 0.3, 0.4):
        study.add_trial(optuna.trial.create_trial(value=value))
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.99}))
    study.enqueue_trial({})
    study.ask()  # runs
    study.enqueue_trial({})  # waits
    assert [trial.number for trial in seen_by_tpe(study.get_trials())] == [0, 1, 3, 4, 6, 9]


def test_pruned_trials_are_among_the_best_that_tpe_sees_where_few_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "MOST_SEEN", 1)
    monkeypatch.setattr(samplers, "GOOD", 3)
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=0.1))
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED))
    for curve in ({1: 0.9}, {1: 0.1, 2: 0.2}, {1: 0.8}, {0: 0.7}):
        study.add_trial(
            optuna.trial.create_trial(state=TrialState.PRUNED, intermediate_values=curve, value=curve[max(curve)])
        )
    assert [trial.number for trial in seen_by_tpe(study.get_trials())] == [0, 1, 2, 3]


def test_a_large_study_cut_in_two_asks_for_the_configs_of_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "MOST_SEEN", 12)
    drawn: dict[str, list[dict[str, object]]] = {"whole": [], "halves": []}
    for name, cuts in (("whole", 1), ("halves", 2)):
        for _ in range(cuts):
            found = writer("tpe", STEPPED, name)
            drawn[name] += configs(found, 30 // cuts)
            found.close()
    assert drawn["whole"] == drawn["halves"] and len(drawn["whole"]) == 30
