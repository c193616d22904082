"""The fuzzer of `make fuzz`: every parser takes a few hundred of its inputs, and what it is there to notice it does notice."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autofash.errors import AutofashError, DataCorrupt, Problem
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import fuzz
from fuzz_parsers import AS_IT_IS, PARSERS, WRAPPED, Parser

CANARY = fuzz.Canary()  # of this process: an audit hook stays


WARM: set[str] = set()
SEEDS: dict[str, list[bytes]] = {}


def feeder(parser: Parser, folder: Path) -> tuple[fuzz.Feeder, fuzz.Counts]:
    if parser.name not in WARM:
        fuzz.warm_up(parser, folder)
        WARM.add(parser.name)
    counts = fuzz.Counts(folder / "counts")
    return fuzz.Feeder(parser, folder, counts, CANARY), counts


@pytest.mark.parametrize("name", [name for name in PARSERS if name != "ledger"])  # that one takes 20 ms an input
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**63))
def test_no_input_makes_a_parser_do_anything_but_read_or_refuse_on_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int
) -> None:
    parser = PARSERS[name]
    folder = tmp_path_factory.mktemp(name)
    fed, counts = feeder(parser, folder)
    seeds = SEEDS.setdefault(name, list(parser.seeds()))
    fed.feed(fuzz.mutated(seeds, parser.words, random.Random(seed)))
    assert counts["refused"] + counts["accepted"] == 1 and counts["tracebacks"] == counts["canaries"] == 0, [
        path.read_text() for path in (folder / "kept").glob("*.txt")
    ]


@pytest.mark.parametrize("name", list(PARSERS))
def test_of_the_files_that_a_parser_is_fed_some_are_taken_and_some_refused(name: str, tmp_path: Path) -> None:
    fed, counts = feeder(PARSERS[name], tmp_path)
    for content in PARSERS[name].seeds():
        fed.feed(content)
    assert counts["tracebacks"] == 0 and counts["canaries"] == 0
    assert counts["accepted"] >= 1 and counts["accepted"] + counts["refused"] == counts["inputs"]


def refuse_on_two_lines(path: Path) -> None:
    raise DataCorrupt([Problem("")])


def refuse_as_a_bug(path: Path) -> None:
    raise AutofashError("what")


def crash(path: Path) -> None:
    [][1]


def shell(path: Path) -> None:
    os.system("touch canary")


def write(path: Path) -> None:
    Path("elsewhere").write_text("x")


def write_and_hush(path: Path) -> None:
    try:
        Path("elsewhere").write_text("x")
    except RuntimeError as error:
        raise DataCorrupt("is damaged") from error


def unpickle(path: Path) -> None:
    import pickle  # noqa: TID251

    pickle.loads(path.read_bytes())  # noqa: S301


def fill(path: Path) -> None:
    bytes(range(256)) * 2**20


@pytest.mark.parametrize(
    ("read", "count", "word"),
    [
        (refuse_on_two_lines, "tracebacks", "not on one line"),
        (refuse_as_a_bug, "tracebacks", "E-BUG"),
        (crash, "tracebacks", "IndexError"),
        (shell, "canaries", "os.system"),
        (write, "canaries", "elsewhere"),
        (write_and_hush, "canaries", "elsewhere"),
        (unpickle, "canaries", "pickle.find_class"),
        (fill, "kilobytes", "25"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_parser_may_not_do_is_noticed_and_its_input_kept(
    read: Callable[[Path], object], count: str, word: str, tmp_path: Path
) -> None:
    pickled = b"cos\nsystem\n(S'touch sung'\ntR."
    fed, counts = feeder(Parser("bad", 1, "a", read, lambda: []), tmp_path)
    fed.feed(AS_IT_IS + pickled)
    assert counts[count] > 0 and counts["inputs"] == 1
    assert word in (tmp_path / "kept" / "0.txt").read_text()
    assert (tmp_path / "kept" / "0.input").read_bytes() == AS_IT_IS + pickled
    assert not Path("elsewhere").exists() and not Path("sung").exists() and not Path("canary").exists()
    assert (
        fuzz.Row("bad", 1, 0, 0, counts["tracebacks"], counts["canaries"], 0, 0, counts["kilobytes"] / 1024, 0).clean
        is False
    )


def test_a_first_byte_says_whether_the_format_is_wrapped_around_an_input() -> None:
    idx = PARSERS["idx"]
    assert idx.content(AS_IT_IS + b"abc") == b"abc"
    assert idx.content(WRAPPED + b"abc") == idx.wrapped(b"abc") != b"abc"
    assert idx.content(b"") == b""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_program_prints_a_row_for_each_parser_and_says_who_makes_the_inputs() -> None:
    done = run("--own", "--count", "60", "--parser", "idx", "--parser", "study")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    head, columns, *rows = done.stdout.splitlines()
    assert "by a mutator of our own, blind to coverage, seed 0 (as asked)" in head
    assert columns.split()[:6] == ["parser", "inputs", "refused", "accepted", "tracebacks", "canaries"]
    assert [row.split()[:2] for row in rows] == [["idx", "60"], ["study", "60"]]
    for row in rows:
        _, inputs, refused, accepted, *others = row.split()
        assert int(inputs) == int(refused) + int(accepted) and others[:4] == ["0", "0", "0", "0"]
    again = run("--own", "--count", "60", "--parser", "idx")
    assert again.stdout.splitlines()[2].split()[:7] == rows[0].split()[:7], "the same seed feeds the same inputs"


CRASHING = """
import os, sys, time
sys.path[:0] = {paths!r}
import fuzz, fuzz_parsers
def read(path):
    content = path.read_bytes()
    if content == b"die":
        os.abort()
    while content == b"hang":
        time.sleep(1)
fuzz.PARSERS["bad"] = fuzz_parsers.Parser(
    "bad", 5, "a", read, lambda: [b"\\0" + word for word in (b"ok", b"die", b"ok", b"hang", b"ok")]
)
fuzz.STALL_SECONDS = 2.0
fuzz.__file__ = __file__
fuzz.warm_up = lambda *_: None
fuzz.main()
"""


def test_a_parser_that_crashes_or_hangs_is_counted_and_fed_on_behind_the_input_that_did_it() -> None:
    Path("crashing.py").write_text(CRASHING.format(paths=[str(ROOT), str(ROOT / "benchmarks")]))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "crashing.py", "--own", "--parser", "bad"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1 and "what failed lies in fuzz-found/" in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1].split()[:7] == ["bad", "5", "0", "3", "0", "0", "2"]
    assert [Path(f"fuzz-found/bad/{number}.input").read_bytes() for number in (0, 1)] == [b"\0die", b"\0hang"]
    assert "the process ended with -6" in Path("fuzz-found/bad/0.txt").read_text()
    assert time.monotonic() - began < 100
