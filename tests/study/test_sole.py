"""What the one writer knows and writes, against what Optuna reads from the file, and would have written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autofash.study.sole import SoleStorage
from autofash.study.storage import open_storage

TABLES = ("trials", "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes")
MOMENTS = ("datetime_start", "datetime_complete")


def work(study: optuna.Study) -> None:
    """All that a writer does to trials: some sampled, one queued, one repeated, one that runs."""
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.enqueue_trial({"depth": 2, "rate": 0.01, "head": "dense", "flip": True}, user_attrs={"queued": {"depth": 2}})
    for number in range(4):
        trial = study.ask()
        trial.suggest_int("depth", 0, 4, step=2)
        trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("head", ["dense", "average"])
        trial.suggest_categorical("flip", [False, True])
        trial.set_user_attr("seed", number)
        trial.report(0.25, 1)
        trial.set_user_attr("reports", [{"epoch": 1, "loss": 0.5, "why": "ü"}])
        trial.set_user_attr("reports", [])
        trial.storage.set_trial_system_attr(trial._trial_id, "rung", {"a": None})
        if number < 3:
            state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number]
            study.tell(trial, 0.5 if state is TrialState.COMPLETE else None, state)


def made(storage: RDBStorage) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def optunas(file: str) -> list[FrozenTrial]:
    storage = RDBStorage(f"sqlite:///{file}")
    return storage.get_all_trials(storage.get_study_id_from_name("s"))


def rows(file: str) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(file)) as ledger:
        columns = {
            t: [row[1] for row in ledger.execute(f"PRAGMA table_info({t})") if row[1] not in MOMENTS] for t in TABLES
        }
        return {t: ledger.execute(f"SELECT {', '.join(columns[t])} FROM {t}").fetchall() for t in TABLES}


@pytest.fixture
def study() -> optuna.Study:
    return made(open_storage(f"sqlite:///{Path('sole.db')}", write=True, sole=True))


def test_the_rows_are_those_that_optuna_writes(study: optuna.Study) -> None:
    work(study)
    work(made(RDBStorage("sqlite:///optuna.db")))
    assert rows("sole.db") == rows("optuna.db")


def test_what_is_known_is_what_optuna_reads_at_every_step(study: optuna.Study) -> None:
    seen = 0
    add = SoleStorage.set_trial_user_attr

    def add_and_compare(self: SoleStorage, trial_id: int, key: str, value: object) -> None:
        nonlocal seen
        add(self, trial_id, key, value)
        seen += 1
        assert study.get_trials() == optunas("sole.db")

    with pytest.MonkeyPatch.context() as watched:
        watched.setattr(SoleStorage, "set_trial_user_attr", add_and_compare)
        work(study)
    assert seen == 12
    assert study.get_trials() == optunas("sole.db")
    assert study.get_trials(states=(TrialState.PRUNED,))[0].value == 0.25


def test_what_fails_at_once_is_neither_in_the_ledger_nor_known(study: optuna.Study) -> None:
    work(study)
    before = optunas("sole.db")
    with pytest.raises(RuntimeError), study._storage._backend.at_once("tell"):
        study.enqueue_trial({"depth": 4})
        study.tell(3, 0.75)
        assert study.get_trials()[3].value == 0.75 and len(study.get_trials()) == 5
        raise RuntimeError("cut short")
    assert optunas("sole.db") == before
    assert study.get_trials()[:4] == before
    study.tell(3, 0.5)
    assert study.get_trials()[:4] == optunas("sole.db")


def test_a_trial_that_is_not_there_is_none(study: optuna.Study) -> None:
    with pytest.raises(KeyError):
        study._storage.get_trial(99)


def test_another_kind_of_parameter_of_the_same_name_is_refused(study: optuna.Study) -> None:
    work(study)
    trial = study.ask()
    with pytest.raises(ValueError, match="Cannot set different distribution kind"):
        trial.suggest_float("depth", 0.0, 1.0)


DISTRIBUTIONS = {
    "depth": IntDistribution(0, 4, step=2),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "head": CategoricalDistribution(["dense", "average"]),
    "flip": CategoricalDistribution([False, True]),
}


def test_parameters_are_read_in_the_order_in_which_they_were_written(study: optuna.Study) -> None:
    work(study)
    assert all(list(trial.params) == list(DISTRIBUTIONS) for trial in optunas("sole.db"))
    assert all(trial.distributions == DISTRIBUTIONS for trial in optunas("sole.db"))
