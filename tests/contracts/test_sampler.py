"""What every sampler promises, over every shipped space that it can take."""

import math
from collections.abc import Iterator

import pytest

from autofash.errors import SpaceError, UsageError
from autofash.records import Ending, EpochReport, Outcome, StudySettings
from autofash.space import BoolParam, ChoiceParam, FloatParam, IntParam, Space, load_space
from autofash.study import SAMPLERS, StudyWriter
from autofash.study.samplers import check_sampler

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


def writer(sampler: str, space: Space, name: str = "s") -> StudyWriter:
    settings = StudySettings(
        "digits", "d", space.name, space.table(), space.fingerprint, sampler, "none", "accuracy", 3, 0, 0.1, False
    )
    return StudyWriter(name, "sqlite:///studies/studies.db", settings, target=100)


def configs(found: StudyWriter, most: int) -> Iterator[dict[str, object]]:
    while most and (asked := found.ask()) is not None:
        most -= 1
        value = 0.5 + 0.4 * math.exp(-float(asked.config.get("dropout", 0.0)))
        found.observe(EpochReport(asked.number, 1, value, value, 0, value, 0, 1, 1.0))
        found.tell(Outcome(asked.number, Ending.DONE))
        yield dict(asked.config)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("name", ["cnn", "all", "stepped"])
def test_a_sampler_draws_whole_distinct_configs_that_lie_within_the_space(sampler: str, name: str) -> None:
    space = STEPPED if name == "stepped" else load_space(name)
    if sampler == "grid" and name != "stepped":
        with pytest.raises(SpaceError, match="has no grid"):
            next(configs(writer(sampler, space), 1))
        return
    found = writer(sampler, space)
    drawn = list(configs(found, 25))
    found.close()
    assert len(drawn) == 25
    assert all(space.fit(config) == config for config in drawn)
    assert len({str(sorted(config.items(), key=str)) for config in drawn}) == 25


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_the_same_seed_draws_the_same_configs(sampler: str) -> None:
    drawn = []
    for name in ("one", "two"):
        found = writer(sampler, STEPPED, name)
        drawn.append(list(configs(found, 8)))
        found.close()
    assert drawn[0] == drawn[1]


def test_a_grid_ends_after_every_config_even_when_it_is_interrupted() -> None:
    whole = list(STEPPED.grid())
    drawn: list[dict[str, object]] = []
    for _ in range(4):
        found = writer("grid", STEPPED)
        drawn += configs(found, 10)
        found.close()
    assert len(drawn) == len(whole) == 36
    assert sorted(map(str, drawn)) == sorted(map(str, whole))


def test_an_unknown_sampler_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="there is no sampler 'tpa'. Try: tpe"):
        check_sampler("tpa")


def test_a_sampler_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'autofash\[cmaes\]'"):
        check_sampler("cmaes")
