"""Rows 37 to 39 of the faults: space and study files of any content cost a second at most, and a line for each problem."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autofash.errors import MOST_PROBLEMS, SpaceError
from autofash.space import load_space
from autofash.study.definition import load_definition
from tests.data.test_pictures import a_plain_user

HEAD = 'format = 1\nfamily = "cnn"\n'
MEGABYTE = 2**20
LONGEST_LINE = 1000  # characters; a path may be long, what a file says is cut
# CPU of a megabyte. It takes a quarter of that; what is quadratic, as Python's parser is over dotted keys, takes an hour.
MOST_SECONDS = 3.0


def complaints(text: str | bytes, load: Callable[[Path], object] = load_space) -> list[str]:
    """What is said about a file of this content."""
    path = Path("mine.toml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpaceError) as caught:
        load(path)
    assert caught.value.exit_code == 2 and caught.value.code == "E-SPACE"
    lines = [str(problem) for problem in caught.value.problems]
    assert lines and all(
        line.startswith("mine.toml") and len(line) < LONGEST_LINE and "\n" not in line for line in lines
    )
    return lines


# -- row 37: nesting, encodings, no TOML ---------------------------------------------------------------------------------------

NESTED = {
    "brackets": "x = " + "[" * MEGABYTE,
    "inline tables": "x = " + "{a = " * (MEGABYTE // 5),
    "a dotted key": "a." * (MEGABYTE // 2) + "a = 1",
    "a quoted dotted key": '"a".' * (MEGABYTE // 4) + "a = 1",
    "a dotted table": "[" + "a." * (MEGABYTE // 2) + "a]",
    "a dotted key in an inline table": "x = {" + "a." * (MEGABYTE // 2) + "a = 1}",
    "tables below a deep one": "[" + "a." * 1000 + "a]\n" + "".join(f"k{n} = 1\n" for n in range(90_000)),
    "a deep table where a word is wanted": "family." + "a." * 5000 + "a = 1",
}


@pytest.mark.parametrize(
    ("kind", "load"), [*((kind, load_space) for kind in NESTED), ("a dotted key", load_definition)]
)
def test_a_megabyte_of_nesting_is_refused_by_its_line_and_column_at_once(
    kind: str, load: Callable[[Path], object]
) -> None:
    began = time.process_time()
    [line] = complaints((HEAD + NESTED[kind])[: MEGABYTE - 1], load)
    assert time.process_time() - began < MOST_SECONDS
    assert "nested too deeply (at line 3, column " in line


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"[params.p{n}]\n" for n in range(20_000)),
        "".join(f"k{n} = 1\n" for n in range(20_000)),
        "".join(f'[params.p{n}]\ntype = "bool"\nwhen = {{ x = [1] }}\n' for n in range(10_000)),
        '[params.width]\ntype = "choice"\nvalues = [' + ", ".join(map(str, range(50_000))) + "]\n",
        '[params.activation]\ntype = "choice"\nvalues = [' + '"relu", ' * 50_000 + "]\n",
    ],
    ids=["tables", "keys", "conditions", "values", "the same value"],
)
def test_of_ten_thousand_problems_and_more_the_first_fifty_are_told_at_once(text: str) -> None:
    began = time.process_time()
    lines = complaints((HEAD + text)[: MEGABYTE - 1])
    assert time.process_time() - began < MOST_SECONDS
    assert len(lines) <= MOST_PROBLEMS + 1
    if len(lines) > MOST_PROBLEMS:
        assert lines[-1] == "mine.toml: these are the first 50 problems of more. Try: again, once they are mended"


def test_dots_and_brackets_in_texts_and_comments_are_no_nesting() -> None:
    marks = "a.b.c.d.e.f.g.h.i.j [[[[[[[[[[ {{{{{{{{{{"
    Path("mine.toml").write_text(
        f'{HEAD}about = """\n{marks} \\""" {marks}"""  # {marks}\n[params.width]  # \'\'\'\ntype = "choice"\nvalues = [8, 16]\n'
    )
    assert load_space("mine.toml").params["width"].grid() == [8, 16]


def test_what_is_not_utf8_or_not_toml_is_told_with_its_place() -> None:
    assert "byte 5 of line 2 is not UTF-8. Try: save the file as UTF-8" in complaints(b"a = 1\nb = \xff")[0]
    assert "byte 1 of line 1 is not UTF-8" in complaints("format = 1".encode("utf-16"))[0]
    assert "not TOML: Invalid value (at line 2, column 10)" in complaints("format = 1\nfamily = \n")[0]
    assert "not TOML" in complaints(b"\x00\x01\x02")[0] and "not TOML" in complaints('{"format": 1}')[0]
    assert "more than 200 characters (at line 3, column 8)" in complaints(HEAD + "x    = 0x" + "f" * 10_000)[0]
    assert len(complaints(HEAD + f'"{"k" * 100_000}" = 1')[0]) < 300


def test_a_file_that_cannot_be_read_is_told_by_the_systems_own_word() -> None:
    os.mkfifo("pipe.toml")
    Path("loop.toml").symlink_to("loop.toml")
    Path("folder.toml").mkdir()
    Path("closed.toml").write_text(HEAD)
    Path("closed.toml").chmod(0)
    told = {
        "pipe.toml": "is no file",
        "folder.toml": "is no file",
        "/dev/zero": "is no file",
        "loop.toml": "cannot be read: Too many levels of symbolic links",
        "closed.toml": "cannot be read: Permission denied. Try: chmod +r closed.toml",
        "a\0b.toml": "cannot be read: embedded null byte",
        "a" * 5000 + ".toml": "cannot be read: File name too long",
    }
    load_space("cnn")  # what it takes to import is the superuser's
    for name, fact in told.items():
        with a_plain_user(), pytest.raises(SpaceError) as caught:
            load_space(Path(name))
        assert fact in str(caught.value), name


# -- rows 38 and 39: what a space may not say ----------------------------------------------------------------------------------


def param(name: str, *lines: str) -> str:
    return f"[params.{name}]\n" + "\n".join(lines) + "\n"


INT, FLOAT, CHOICE = 'type = "int"', 'type = "float"', 'type = "choice"'
FAULTS: dict[str, tuple[str, str]] = {
    "an unknown key": (
        param("depth", INT, "low = 1", "high = 4", "hihg = 3"),
        "[params.depth] hihg: there is no key 'hihg'. Try: high",
    ),
    "an unknown parameter": (
        param("widht", INT, "low = 8", "high = 16"),
        "[params.widht]: there is no parameter 'widht' of cnn. Try: width",
    ),
    "a wrong type": (
        param("depth", INT, 'low = "1"', "high = 4"),
        "[params.depth] low: '1': input should be a valid int",
    ),
    "a missing end": (param("depth", INT, "low = 1"), "[params.depth] high: is missing. Try: high = …"),
    "an unknown kind": (param("depth", 'type = "integer"'), "[params] depth: there is no type 'integer'. Try: int"),
    "a truth value for a number": (param("depth", INT, "low = true", "high = 4"), "[params.depth] low: True: input"),
    "a whole number beyond all bounds": (
        param("depth", INT, "low = 1", f"high = {10**30}"),
        "[params.depth]: a bound beyond 2**53 is not exact. Try: a smaller range",
    ),
    "a range beyond what can be built": (
        param("width", INT, "low = 1", "high = 1000000"),
        "[params.width]: 1000000 is not between 1 and 1024. Try: 1 to 1024",
    ),
    "an endless range": (param("dropout", FLOAT, "low = 0.0", "high = inf"), "[params.dropout]: low, high and the way"),
    "no number": (param("dropout", FLOAT, "low = nan", "high = 0.5"), "[params.dropout]: low, high and the way"),
    "a step of nothing": (
        param("dropout", FLOAT, "low = 0.0", "high = 0.5", "step = 0.0"),
        "[params.dropout]: step = 0 is not",
    ),
    "low above high": (
        param("depth", INT, "low = 4", "high = 1"),
        "[params.depth]: low = 4 is above high = 1. Try: low = 1, high = 4",
    ),
    "a logarithm of nothing": (
        param("learning_rate", FLOAT, "low = 0.0", "high = 0.1", "log = true"),
        "[params.learning_rate]: log = true needs low above 0",
    ),
    "a step that does not divide": (
        param("depth", INT, "low = 1", "high = 8", "step = 3"),
        "[params.depth]: step = 3 does not divide 8 - 1. Try: high = 7",
    ),
    "a value twice": (param("width", CHOICE, "values = [8, 8]"), "[params.width]: 8 stands there twice"),
    "no value": (param("width", CHOICE, "values = []"), "[params.width]: values = [] leaves nothing to choose"),
    "a condition on nothing": (
        param("flip", 'type = "bool"', "when = { haed = [1] }"),
        "[params.flip]: when names 'haed', which does not exist",
    ),
    "a condition on a later parameter": (
        param("flip", 'type = "bool"', 'when = { head = ["dense"] }') + param("head", CHOICE, 'values = ["dense"]'),
        "[params.flip]: when names 'head', which stands below it",
    ),
    "a condition that is never met": (
        param("head", CHOICE, 'values = ["dense"]') + param("flip", 'type = "bool"', 'when = { head = ["desne"] }'),
        "[params.flip]: when head = 'desne' is never met",
    ),
}


@pytest.mark.parametrize("kind", list(FAULTS))
def test_a_fault_is_one_line_with_its_key_and_its_fix(kind: str) -> None:
    text, expected = FAULTS[kind]
    [line] = complaints(HEAD + text)
    assert line.startswith(f"mine.toml: {expected}"), line


def test_faults_of_every_kind_in_one_file_are_told_at_once() -> None:
    text = (
        param("depth", INT, 'low = "1"', "high = 4")  # not well formed
        + param(
            "widht", INT, "low = 64", "high = 8"
        )  # three faults of its own, of which two are told by the name and the range
        + param("dropout", FLOAT, "low = 0.0", "high = 1.4", "setp = 0.1")
        + param("learning_rate", FLOAT, "low = 0.0", "high = 0.1", "log = true")
        + param("kernel_size", INT, "low = 3", "high = 8", "step = 2")
        + param("flip", 'type = "bool"', "when = { depth = [1], haed = [1] }")
    )
    lines = complaints(HEAD + text)
    for expected in (
        "[params.depth] low: '1'",
        "[params.widht]: there is no parameter 'widht' of cnn. Try: width",
        "[params.widht]: low = 64 is above high = 8",
        "[params.dropout] setp: there is no key 'setp'. Try: step",
        "[params.learning_rate]: log = true needs low above 0",
        "[params.kernel_size]: step = 2 does not divide 8 - 3",
        "[params.flip]: when names 'haed', which does not exist",
    ):
        assert len([line for line in lines if line.startswith(f"mine.toml: {expected}")]) == 1, (expected, lines)
    assert len(lines) == 7, "of a condition on a parameter that is broken itself nothing is said"


def test_a_key_that_stands_there_twice_is_told_with_its_line() -> None:
    assert "this key is there already (at line 5" in complaints(HEAD + "[params.depth]\nlow = 1\nlow = 2\n")[0]
    assert "(at line 4" in complaints(HEAD + "[params.depth]\n[params.depth]\n")[0]
    assert "Duplicate inline table key 'a'" in complaints(HEAD + "x = {a = 1, a = 2}")[0]


def test_a_number_beyond_what_python_prints_is_refused_in_a_space_from_python_too() -> None:
    from autofash.space import ChoiceParam, IntParam, Space

    endless = 10**5000
    for found in (IntParam(low=1, high=endless), IntParam(low=1, high=8, step=endless), ChoiceParam(values=[endless])):
        with pytest.raises(SpaceError) as caught:
            Space("cnn", {"width": found})
        assert len(str(caught.value)) < LONGEST_LINE


def test_a_study_file_of_wrong_types_and_unknown_keys_is_told_whole_and_a_name_that_no_file_can_have_is_no_crash() -> (
    None
):
    lines = complaints('format = 2\ntrials = "5"\nseed = 1.5\ntarget = []\nbugdet = "1h"\nspace = 3\n', load_definition)
    assert [line.split(": ")[1] for line in lines] == ["format", "space", "trials", "target", "seed", "bugdet"]
    for space in ("a" * 5000 + ".toml", "a\\u0000b.toml", "missing.toml"):
        Path("mine.toml").write_text(f'format = 1\nspace = "{space}"\n')
        with pytest.raises(SpaceError, match="cannot be read"):
            load_space(str(load_definition(Path("mine.toml")).space))


@pytest.mark.parametrize("command", [["spaces", "--check"], ["search"], ["search", "--space"]])
def test_on_the_command_line_a_broken_file_is_exit_code_2_and_leaves_nothing_behind(command: list[str]) -> None:
    Path("mine.toml").write_text("a." * 100_000 + "a = 1")
    done = subprocess.run(
        [sys.executable, "-m", "autofash", *command, "mine.toml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "autofash: error[E-SPACE]: mine.toml: nested too deeply (at line 1, column 1). Try: at most a table in a table\n"
    )
    assert [path.name for path in Path().iterdir()] == ["mine.toml"]
