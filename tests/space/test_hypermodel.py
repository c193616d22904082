"""The space of a user's own code: what is declared, and what has shown itself."""

from pathlib import Path

import pytest

from autofash.errors import SpaceError
from autofash.space import (
    BoolParam,
    ChoiceParam,
    FloatParam,
    Hypermodel,
    IntParam,
    Param,
    Space,
    hypermodel_space,
    load_space,
)
from autofash.space.space import HYPERMODEL, PIXELS

OWN = Space(HYPERMODEL, {}, name="net", hypermodel=Hypermodel("my.py:net", "raw", True))


def test_a_config_says_where_its_model_comes_from_and_how_it_is_fed() -> None:
    assert OWN.expand({"units": 8}) == {
        "family": "hypermodel",
        "hypermodel": "my.py:net",
        "pixels": "raw",
        "flat": True,
        "units": 8,
    }


def test_what_has_shown_itself_is_of_the_space_and_not_of_what_was_declared() -> None:
    seen = OWN.showing("units", IntParam(low=8, high=16)).showing("act", ChoiceParam(values=["relu"]))
    assert list(seen.params) == ["units", "act"] and seen.declared == OWN
    assert seen.showing("units", IntParam(low=8, high=16)) is seen


def test_the_bounds_of_a_number_may_move_and_the_space_holds_them_all() -> None:
    seen = OWN.showing("units", IntParam(low=8, high=16)).showing("units", IntParam(low=4, high=12))
    assert seen.params["units"] == IntParam(low=4, high=16)


@pytest.mark.parametrize(
    "now",
    [
        FloatParam(low=8.0, high=16.0),
        IntParam(low=8, high=64, log=True),
        IntParam(low=8, high=16, step=4),
        IntParam(low=9, high=17, step=2),
        BoolParam(),
        ChoiceParam(values=[8, 16]),
    ],
)
def test_a_name_stays_one_kind_of_parameter(now: Param) -> None:
    with pytest.raises(SpaceError, match=r"units was \{low = 8, high = 16.*and is .* now.*another name") as error:
        OWN.showing("units", IntParam(low=8, high=16, step=2)).showing("units", now)
    assert error.value.code == "E-SPACE-MISMATCH"


def test_choices_must_be_the_same() -> None:
    seen = OWN.showing("act", ChoiceParam(values=["relu", "tanh"]))
    with pytest.raises(SpaceError, match="act was"):
        seen.showing("act", ChoiceParam(values=["relu", "gelu"]))


@pytest.mark.parametrize("name", ["family", "hypermodel", "pixels", "flat"])
def test_names_that_a_config_has_already_are_refused(name: str) -> None:
    with pytest.raises(SpaceError, match=f"cannot be called {name}"):
        OWN.showing(name, BoolParam())


def test_a_space_file_may_name_a_model_of_ones_own(workplace: Path) -> None:
    (workplace / "own.toml").write_text(
        'format = 1\nfamily = "hypermodel"\n[model]\nsource = "my.py:net"\npixels = "raw"\nflat = true\n'
    )
    assert load_space("own.toml").hypermodel == OWN.hypermodel
    (workplace / "half.toml").write_text('format = 1\nfamily = "hypermodel"\n')
    with pytest.raises(SpaceError, match="nothing to search"):
        load_space("half.toml")


@pytest.mark.parametrize("line", ["def net(hp): ...", "class net: ...", "net = 1", "from elsewhere import x as net"])
def test_a_file_is_read_and_not_run(workplace: Path, line: str) -> None:
    (workplace / "my.py").write_text(f"{line}\nopen('canary', 'w')\n")
    space = hypermodel_space("my.py:net")
    assert (space.name, space.hypermodel) == ("net", Hypermodel("my.py:net")) and PIXELS[1] == "unit"
    assert not (workplace / "canary").exists()
