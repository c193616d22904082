"""Reading by plain SQL, against Optuna's own reading of the same file."""

import math
import warnings
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from autofash.study.rows import TRIALS, read_standings, read_trials
from autofash.study.storage import open_storage

DISTRIBUTIONS = {
    "zeta": IntDistribution(2, 8, step=2),
    "alpha": FloatDistribution(1e-4, 1e-1, log=True),
    "head": CategoricalDistribution(["dense", "average"]),
    "flip": CategoricalDistribution([False, True]),
}
PARAMS = {"zeta": 4, "alpha": 0.01, "head": "average", "flip": True}


@pytest.fixture
def study() -> optuna.Study:
    """A study with a trial of every state and every odd value, beside another study."""
    study = optuna.create_study(study_name="s", storage=open_storage(f"sqlite:///{Path('s.db')}"))
    optuna.create_study(study_name="another", storage=study._storage).ask()
    some = {name: DISTRIBUTIONS[name] for name in ("zeta", "flip")}
    study.add_trials(
        [
            create_trial(
                value=0.5,
                params=PARAMS,
                distributions=DISTRIBUTIONS,
                user_attrs={"reports": [{"epoch": 1, "loss": 0.1}], "why": "", "seed": 7},
                system_attrs={"completed_rung_0": 0.4},
                intermediate_values={2: 0.5, 1: 0.25, 3: math.inf},
            ),
            create_trial(state=TrialState.PRUNED, intermediate_values={1: -math.inf}),
            create_trial(state=TrialState.FAIL, params={"zeta": 2, "flip": False}, distributions=some),
            create_trial(state=TrialState.FAIL, user_attrs={"duplicate_of": 0}),
            create_trial(value=math.inf, params=PARAMS, distributions=DISTRIBUTIONS),
        ]
    )
    study.enqueue_trial({"zeta": 6}, user_attrs={"queued": {"zeta": 6}})
    study.ask().suggest_int("zeta", 2, 8, step=2)
    study.enqueue_trial({"zeta": 8})
    return study


def optunas(study: optuna.Study) -> list[FrozenTrial]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RDBStorage("sqlite:///s.db").get_all_trials(study._study_id)


def test_every_trial_is_read_as_optuna_reads_it_its_parameters_in_their_order(study: optuna.Study) -> None:
    with sqlalchemy.create_engine("sqlite:///s.db", poolclass=sqlalchemy.NullPool).connect() as connection:
        read = read_trials(connection, TRIALS.c.study_id == study._study_id)
    assert read == optunas(study)
    assert [list(trial.params) for trial in read] == [list(trial.params) for trial in optunas(study)]


def test_optuna_itself_reads_this_way_and_equal_distributions_are_one_object(study: optuna.Study) -> None:
    first, *_, last = [trial for trial in study.get_trials(deepcopy=False) if len(trial.params) == 4]
    assert all(first.distributions[name] is last.distributions[name] for name in DISTRIBUTIONS)
    assert study.get_trials() == optunas(study)


def test_what_changes_after_it_was_read_is_read_again(study: optuna.Study) -> None:
    running = next(trial for trial in study.get_trials() if trial.state is TrialState.RUNNING)
    study.tell(running.number, 0.75)
    study.add_trial(create_trial(value=0.8))
    assert study.get_trials() == optunas(study)
    assert [trial.value for trial in study.get_trials()[-3:]] == [0.75, None, 0.8]


def test_standings_are_the_trials_numbers_states_and_best_reports_without_repetitions(study: optuna.Study) -> None:
    with sqlalchemy.create_engine("sqlite:///s.db", poolclass=sqlalchemy.NullPool).connect() as connection:
        found = list(read_standings(connection, study._study_id))
    assert found == [
        (0, TrialState.COMPLETE, False, 0.5),
        (1, TrialState.PRUNED, False, None),
        (2, TrialState.FAIL, False, None),
        (4, TrialState.COMPLETE, False, None),
        (5, TrialState.RUNNING, False, None),
        (6, TrialState.WAITING, False, None),
    ]


def test_what_is_written_at_once_is_seen_within_and_by_others_only_at_its_end(study: optuna.Study) -> None:
    storage = study._storage._backend
    before = len(study.get_trials())
    with storage.at_once("ask"):
        study.add_trial(create_trial(value=0.6, params=PARAMS, distributions=DISTRIBUTIONS))
        study.enqueue_trial({})
        assert len(study.get_trials()) == before + 2
        assert len(optunas(study)) == before
    assert optunas(study) == study.get_trials() and len(study.get_trials()) == before + 2
    study.enqueue_trial({})
    assert len(optunas(study)) == before + 3, "each by itself again"
