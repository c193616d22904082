import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.errors import SpaceError
from autofash.space import load_space, shipped_spaces, space_from_table
from autofash.space.vocabulary import FAMILIES


def complaints(text: str) -> list[str]:
    Path("mine.toml").write_text(text)
    with pytest.raises(SpaceError) as caught:
        load_space("mine.toml")
    return [str(problem) for problem in caught.value.problems]


def test_the_four_spaces_are_shipped() -> None:
    assert shipped_spaces() == ["all", "cnn", "mlp", "resnet"]


def test_the_default_space_searches_what_the_readme_promises() -> None:
    promised = {
        "depth", "width", "dropout", "conv_blocks", "kernel_size", "pooling", "normalization", "activation", "head", "batch_size",
        "optimizer", "learning_rate", "schedule", "weight_decay", "label_smoothing", "flip", "shift", "erase", "mixup",
    }  # fmt: skip
    assert promised <= set(load_space("cnn").params)


def test_an_unknown_space_suggests_the_nearest() -> None:
    with pytest.raises(SpaceError, match="there is no space 'cnm'. Try: cnn"):
        load_space("cnm")


def test_the_file_of_a_problem_and_its_key_are_named() -> None:
    [line] = complaints('format = 1\nfamily = "cnn"\n[params.width]\ntype = "int"\nlow = 8\nhihg = 9\nhigh = 16\n')
    assert line == "mine.toml: [params.width] hihg: there is no key 'hihg'. Try: high"


def test_every_kind_of_problem_is_found_in_one_reading() -> None:
    lines = complaints(
        'format = 2\nfamily = "cnn"\n[params.width]\ntype = "int"\nlow = "8"\nhigh = 16\n'
        '[params.depth]\nlow = 1\n[params.head]\ntype = "chioce"\nvalues = []\n'
    )
    text = "\n".join(lines)
    assert (
        "format" in text
        and "[params.width] low" in text
        and "type is missing" in text
        and "there is no type 'chioce'. Try: choice" in text
    )


def test_toml_that_is_none_says_line_and_column() -> None:
    [line] = complaints("format = 1\nfamily = \n")
    assert "not TOML" in line and "line 2" in line


def test_a_file_that_is_not_utf8_or_not_there_or_too_large_is_refused() -> None:
    Path("mine.toml").write_bytes(b"format = 1 # \xff")
    with pytest.raises(SpaceError, match="not UTF-8"):
        load_space("mine.toml")
    with pytest.raises(SpaceError, match="cannot be read: No such file"):
        load_space("missing.toml")
    Path("mine.toml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(SpaceError, match="too many"):
        load_space("mine.toml")


def test_deep_nesting_is_refused_in_one_line() -> None:
    [line] = complaints("x = " + "[" * 100_000)
    assert len(line) < 300


@given(st.text(max_size=200))
def test_no_text_makes_anything_but_a_space_error(text: str) -> None:
    try:
        space_from_table(tomllib.loads(text), name="any", where="any.toml")
    except (tomllib.TOMLDecodeError, SpaceError):
        pass


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
PARAMS = st.dictionaries(
    st.sampled_from(["type", "low", "high", "step", "log", "values", "when", "hihg"]),
    SCALARS
    | st.sampled_from(["int", "float", "choice", "bool"])
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.text(max_size=5), st.lists(SCALARS)),
)


@given(
    st.dictionaries(st.sampled_from([*FAMILIES["cnn"], "nonsense"]), PARAMS, max_size=4),
    st.sampled_from(["cnn", "all", "fixed", "no", ""]),
)
def test_no_table_makes_anything_but_a_space_error(params: dict[str, object], family: str) -> None:
    try:
        space_from_table({"format": 1, "family": family, "params": params}, name="any", where="any.toml")
    except SpaceError as error:
        assert error.problems and all("\n" not in str(problem) for problem in error.problems)


def test_a_fixed_space_lists_every_fault_of_its_configs() -> None:
    lines = complaints(
        'format = 1\nfamily = "fixed"\n[configs.a]\nfamily = "cnn"\nwidht = 3\n'
        '[configs.b]\nfamily = "cnn"\ndepth = 99\n[configs.c]\nfamily = "rnn"\n'
    )
    assert len(lines) == 3
    assert "[configs.a]" in lines[0] and "Try: width" in lines[0]
    assert "99 is not between 1 and 8" in lines[1]
