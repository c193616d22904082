"""A finished study of fakes, for every test of the report; no Keras."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from autofash import loop
from autofash.executors import InlineExecutor
from autofash.records import Ending, EpochReport, Outcome, StudySettings, Value
from autofash.request import SearchRequest
from autofash.space import BoolParam, ChoiceParam, FloatParam, NamedConfig, Space
from autofash.study import Study, StudyWriter, load_study
from autofash.study.storage import DEFAULT_STORAGE

SPACE = Space(
    "cnn",
    {
        "width": ChoiceParam(values=[8, 12, 16]),
        "optimizer": ChoiceParam(values=["adam", "adamw"]),
        "learning_rate": FloatParam(low=1e-4, high=1e-2, log=True),
        "weight_decay": FloatParam(low=1e-5, high=1e-2, log=True, when={"optimizer": ["adamw"]}),
        "flip": BoolParam(),
    },
    name="small",
)
CONFIG = {"family": "cnn", "width": 8, "optimizer": "adam", "learning_rate": 1e-3, "flip": False}


def search(**settings: object) -> Study:
    """A study of the fake that learns, in this process."""
    request = SearchRequest(**{"dataset": "digits", "space": SPACE, "trials": 24, "epochs": 4, **settings})
    executor = InlineExecutor()
    try:
        return loop.search(request, task="tests.fakes:learn", executor=executor)
    finally:
        executor.close()


def told(
    space: Space,
    trials: Sequence[tuple[Mapping[str, Value], Sequence[float]]],
    *,
    name: str = "told",
    dataset: str = "digits",
) -> Study:
    """A study whose trials are told by hand: each one's config, and what it reached after each epoch."""
    settings = StudySettings(
        dataset=dataset,
        data_fingerprint="d" * 64,
        space=space.name,
        space_table=space.table(),
        space_fingerprint=space.fingerprint,
        sampler="grid" if space.configs else "random",
        pruner="none",
        objective="accuracy",
        epochs=max(len(curve) for _, curve in trials),
        seed=0,
        validation=1 / 6,
        starters=False,
    )
    starters = [NamedConfig(f"number {number}", config) for number, (config, _) in enumerate(trials)]
    writer = StudyWriter(name, DEFAULT_STORAGE, settings, target=len(trials), starters=starters)
    try:
        for config, curve in trials:
            asked = writer.ask()
            assert asked is not None and config.items() <= asked.config.items()
            for epoch, value in enumerate(curve, 1):
                writer.observe(
                    EpochReport(asked.number, epoch, value, value, 0.3, value, 0.3, 50_000 * epoch, float(epoch))
                )
            writer.tell(Outcome(asked.number, Ending.DONE, seconds=float(len(curve))))
    finally:
        writer.close()
    return load_study(name)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of two dozen trials, to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    search(storage=f"sqlite:///{folder}/studies.db", pruner="median", workers=1)
    return folder


@pytest.fixture
def study(searched: Path, workplace: Path) -> Study:
    """A copy of it, in the default storage of the current folder."""
    shutil.copytree(searched, workplace / "studies")
    return load_study("digits-small")
