import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.errors import SpaceError
from autofash.space import (
    BoolParam,
    ChoiceParam,
    FloatParam,
    IntParam,
    Space,
    load_space,
    load_starters,
    shipped_spaces,
    space_from_table,
)
from autofash.space.space import config_faults

HEAD = ChoiceParam(values=["dense", "average"])
UNITS = ChoiceParam(values=[64, 128], when={"head": ["dense"]})


def test_a_conditional_parameter_is_drawn_only_where_its_condition_holds() -> None:
    space = Space("cnn", {"head": HEAD, "head_units": UNITS})
    seen = {("head_units" in config, config["head"]) for config in (space.sample(random.Random(i)) for i in range(40))}
    assert seen == {(True, "dense"), (False, "average")}


def test_the_grid_enumerates_conditions_without_repeating() -> None:
    space = Space("cnn", {"head": HEAD, "head_units": UNITS})
    assert list(space.grid()) == [
        {"family": "cnn", "head": "dense", "head_units": 64},
        {"family": "cnn", "head": "dense", "head_units": 128},
        {"family": "cnn", "head": "average"},
    ]


def test_a_float_without_a_step_has_no_grid() -> None:
    space = Space("cnn", {"dropout": FloatParam(low=0.0, high=0.5), "head": HEAD})
    with pytest.raises(SpaceError, match="dropout.*without a step has no grid"):
        list(space.grid())


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        Space(
            "cnn",
            {
                "widht": IntParam(low=8, high=64),
                "dropout": FloatParam(low=0.0, high=1.4),
                "head_units": UNITS,
                "learning_rate": FloatParam(low=0.0, high=0.1, log=True),
            },
        )
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 4
    assert "there is no parameter 'widht' of cnn. Try: width" in lines[0]
    assert "1.4 is not between 0 and 0.95. Try: 0 to 0.95" in lines[1]
    assert "when names 'head', which does not exist" in lines[2]
    assert "log = true needs low above 0" in lines[3]


def test_when_looks_back_only_and_must_be_possible() -> None:
    with pytest.raises(SpaceError, match="stands below it"):
        Space("cnn", {"head_units": UNITS, "head": HEAD})
    with pytest.raises(SpaceError, match="never met"):
        Space("cnn", {"head": HEAD, "head_units": ChoiceParam(values=[64], when={"head": ["desne"]})})


def test_an_unknown_family_suggests_the_nearest() -> None:
    with pytest.raises(SpaceError, match="there is no family 'cn'. Try: cnn"):
        Space("cn", {"width": IntParam(low=1, high=2)})


def test_the_fingerprint_follows_what_is_searched_not_what_it_is_called() -> None:
    one = Space("cnn", {"width": IntParam(low=8, high=64)}, name="one")
    two = Space("cnn", {"width": IntParam(low=8, high=64)}, name="two", about="other words")
    three = Space("cnn", {"width": IntParam(low=8, high=65)}, name="one")
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert three.difference(one.table()) == [
        "width {low = 8, high = 64, step = 1, log = False} → {low = 8, high = 65, step = 1, log = False}"
    ]


@pytest.mark.parametrize("name", [*shipped_spaces(), "starters", "baselines"])
def test_a_space_survives_its_way_through_the_ledger(name: str) -> None:
    space = load_space(name)
    again = space_from_table(space.table(), name=name, where=name)
    assert (
        again.fingerprint == space.fingerprint and again.params == space.params and not again.difference(space.table())
    )


@pytest.mark.parametrize("name", shipped_spaces())
@given(seed=st.integers(0, 2**32))
def test_a_shipped_space_holds_every_config_that_it_samples(name: str, seed: int) -> None:
    space = load_space(name)
    config = space.sample(random.Random(seed))
    assert space.nearest(config) == config
    assert space.sample(random.Random(seed)) == config


def test_every_starter_can_be_built_and_has_a_nearest_config_in_the_spaces_of_its_family_and_of_all() -> None:
    starters = load_starters()
    assert starters
    for starter in starters:
        assert not list(config_faults(starter.config))
        assert load_space("cnn").nearest(starter.config) and load_space("all").nearest(starter.config)


@given(seed=st.integers(0, 2**32), other=st.sampled_from(["cnn", "mlp", "resnet"]))
def test_the_nearest_config_is_one_of_the_space_wherever_the_given_one_comes_from(seed: int, other: str) -> None:
    space, rng = load_space(other), random.Random(seed)
    given_config = {**load_space("cnn").sample(rng), "family": other, "learning_rate": rng.choice([1e-9, 5.0, 1e-3])}
    nearest = space.nearest(given_config)
    assert nearest is not None
    assert all(param.holds(nearest[name]) for name, param in space.params.items() if name in nearest)
    assert space.nearest(nearest) == nearest


def test_a_config_from_elsewhere_moves_to_the_nearest_values_and_what_it_does_not_name_is_at_its_least() -> None:
    params = {
        "width": IntParam(low=8, high=16, step=4),
        "head_units": ChoiceParam(values=[64, 256]),
        "optimizer": ChoiceParam(values=["sgd", "adam"]),
        "learning_rate": FloatParam(low=1e-3, high=1e-2),
        "dropout": FloatParam(low=0.0, high=0.5, step=0.25),
        "flip": BoolParam(),
    }
    nearest = Space("cnn", params).nearest(
        {"family": "cnn", "width": 13, "head_units": 128, "optimizer": "lion", "learning_rate": 1e-4, "flip": True}
    )
    assert nearest == {
        "family": "cnn",
        "width": 12,
        "head_units": 64,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "flip": True,
    }


def test_of_two_choices_alike_the_smaller_is_the_nearest_and_what_is_no_whole_number_goes_by_ratio() -> None:
    assert ChoiceParam(values=[64, 32, 16]).nearest(24) == 16
    assert ChoiceParam(values=[1e-4, 1e-3, 1e-2]).nearest(4e-3) == 1e-2
    assert ChoiceParam(values=["none", 8, 16]).nearest(15) == 16


def test_no_config_is_near_to_one_of_another_family() -> None:
    space = Space("cnn", {"width": IntParam(low=8, high=16)})
    assert space.nearest({"family": "mlp", "width": 8}) is None and load_space("baselines").nearest({}) is None
