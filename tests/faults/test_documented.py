"""docs/faults.md is true: every row has a test that exists, or stands among what is not covered, and every code is listed."""

import ast
import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text()
MATRIX, REST = PAGE.split("## Every code")
CODES, REST = REST.split("## Figures of the last torture")
NOT_COVERED = REST[REST.index("## Not covered") :]
ROWS = {int(row[0]): row[1] for row in re.findall(r"^\| (\d+) \|(.*)\|$", MATRIX, re.MULTILINE)}
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
CODE = re.compile(r"\b[EW]-[A-Z]+(?:-[A-Z]+)*\b")


def test_every_row_of_the_matrix_stands_there_once() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", MATRIX, re.MULTILINE)]
    assert sorted(numbers) == list(range(1, 44))


@pytest.mark.parametrize("row", sorted(ROWS))
def test_a_row_names_a_test_or_stands_among_what_is_not_covered(row: int) -> None:
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", ROWS[row]) or f"row {row}" in NOT_COVERED


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    functions = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert name in functions


def test_every_code_that_the_program_knows_is_listed_and_no_other() -> None:
    known = set()
    for path in (ROOT / "autofash").rglob("*.py"):
        texts = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        for text in texts:
            if isinstance(text.value, str) and "\n" not in text.value:  # not what a docstring explains
                known |= set(CODE.findall(text.value))
    assert set(CODE.findall(CODES)) == known
    assert set(CODE.findall(MATRIX)) - {"E-CODE", "W-CODE"} <= known


def test_every_limit_of_time_that_the_page_names_is_the_programs_own() -> None:
    from autofash import loop
    from autofash.executors import processes
    from autofash.study import soundness, storage

    assert (soundness.WARN_SECONDS, storage.LOCK_SECONDS, loop.LOST_SECONDS) == (5, 120, 120)
    assert (processes.GRACE_SECONDS, loop.PATIENCE_SECONDS, loop.MOST_FAILURES) == (10, 3600, 10)
