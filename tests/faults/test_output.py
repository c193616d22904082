"""What is printed: nobody's pipe, name or file can make a mess of a terminal, a page or an exit code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autofash.errors import AutofashError, UsageError, printable
from autofash.study.storage import NAME, check_name, fitting_name
from tests.cli.test_commands import AUTOFASH
from tests.faults import searching
from tests.faults.searching import STORAGE, TOLD


def test_every_command_that_prints_ends_quietly_where_nobody_reads_on() -> None:
    assert searching.search()[0] == 0
    for command in (["show"], ["show", "--json"], ["studies"], ["spaces", "cnn"], ["best"], ["report"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)  # nobody reads at all: the first write meets EPIPE
        done = subprocess.run([*AUTOFASH, *command], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_a_search_whose_reader_goes_away_ends_quietly_and_keeps_what_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOFASH_FAKE_SECONDS", "0.1")
    process = searching.begin()
    out = searching.read_until(process, TOLD)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.wait(searching.PATIENCE_SECONDS)
    process.stderr.close()
    assert (process.returncode, err) == (0, "")
    searching.assert_kept(out, err)
    assert searching.search()[0] == 0
    searching.assert_kept(out, err, finished=12)


@settings(deadline=None)
@given(st.text())
def test_no_text_gets_a_control_character_or_a_second_line_into_a_message(text: str) -> None:
    shown = str(AutofashError(text, text, where=text))
    assert "\x1b" not in shown and len(shown.splitlines()) <= 1
    assert printable(printable(text)) == printable(text) and all(c.isprintable() for c in printable(text))


@settings(deadline=None)
@given(st.text(max_size=80))
def test_a_name_is_taken_as_it_is_or_refused_and_then_the_one_that_is_proposed_will_do(name: str) -> None:
    try:
        check_name(name, STORAGE)
    except UsageError:
        proposed = fitting_name(name)
        if not proposed.startswith("studies.db"):
            check_name(proposed, STORAGE)
    else:
        assert (
            NAME.fullmatch(name)
            and name.isascii()
            and Path("studies", name).resolve().parent == Path("studies").resolve()
        )


HOSTILE = "<img src=x onerror=alert(1)>\x1b]0;owned\x07\x1b[2J\r\n& \u202e'\"`"


def test_a_name_that_is_markup_and_escapes_is_refused_for_a_study_in_one_line() -> None:
    words = [*searching.USUAL, "--study", HOSTILE]
    code, _, err = searching.search(arguments=words)
    assert code == 2 and not Path("studies").exists()
    searching.assert_one_line(err, "E-USAGE", "cannot be a study's name")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err)


def test_what_a_trial_says_of_its_end_is_escaped_on_the_terminal_and_on_the_page() -> None:
    code, out, err = searching.search("fail_in_colours", [*searching.USUAL, "--trials", "3"])
    assert code == 0, err
    shown = subprocess.run(
        [sys.executable, "-m", "autofash", "show", "--all"], capture_output=True, text=True, check=True
    ).stdout
    for text in (out, shown, err):
        assert "\x1b" not in text and "\x07" not in text
    made = subprocess.run(
        [sys.executable, "-m", "autofash", "report", "--output", "page.html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    written = Path("page.html").read_text()
    assert "<img src=x" not in written and "\x1b" not in written
