from pathlib import Path

import pytest

from autofash.errors import SpaceError, UsageError
from autofash.study.definition import load_definition, seconds
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_definitions_are_valid(path: Path) -> None:
    assert load_definition(path).space is not None


def test_a_definition_reports_all_its_problems() -> None:
    Path("mine.toml").write_text('format = 1\ntrails = 5\nseed = "0"\n')
    with pytest.raises(SpaceError) as caught:
        load_definition(Path("mine.toml"))
    lines = "\n".join(str(problem) for problem in caught.value.problems)
    assert "there is no key 'trails'. Try: trials" in lines and "seed" in lines


def test_a_space_beside_the_definition_is_found() -> None:
    Path("folder").mkdir()
    Path("folder/mine.toml").write_text('format = 1\nspace = "own.toml"\n')
    Path("folder/own.toml").write_text("")
    assert load_definition(Path("folder/mine.toml")).space == "folder/own.toml"


def test_durations_are_hours_minutes_and_seconds() -> None:
    assert [seconds(text) for text in ("90s", "30m", "1h30m", "1.5h")] == [90, 1800, 5400, 5400]
    for wrong in ("", "5", "m", "-3m", "1d"):
        with pytest.raises(UsageError, match="no duration"):
            seconds(wrong)
    with pytest.raises(UsageError) as caught:
        seconds("1" * 10**6)
    assert len(str(caught.value)) < 200
