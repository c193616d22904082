"""`autofash report` as its user meets it."""

import json
import subprocess
import sys
from pathlib import Path

from autofash.study import Study
from tests.report.handmade import save


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "autofash", "report", *arguments], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_short_of_it_stands_on_the_terminal_and_the_whole_in_the_page(study: Study) -> None:
    save(study, names=("[red]zero[/]", *(str(digit) for digit in range(1, 10))))
    done = report()
    assert done.returncode == 0, done.stderr
    for told in (f"The model of trial {study.best().number} names", "what tells most", "[red]zero[/]", "taken for"):
        assert told in done.stdout, done.stdout
    assert "studies/digits-small/report.html" in done.stdout.splitlines()[-1]
    assert Path("studies/digits-small/report.html").read_text().startswith("<!DOCTYPE html>")


def test_before_there_is_a_model_it_says_how_to_make_one(study: Study) -> None:
    done = report("digits-small")
    assert done.returncode == 0 and "Test it:  autofash best digits-small --export" in done.stdout


def test_as_json_it_prints_the_facts_and_writes_the_page_where_it_is_wanted(study: Study) -> None:
    told = json.loads(report("--json", "--output", "mine.html").stdout)
    assert told["page"] == "mine.html" and Path("mine.html").exists()
    assert told["facts"]["finished"] == 24 and told["facts"]["tested"] is None


def test_what_is_not_there_or_was_changed_ends_in_one_line(study: Study) -> None:
    missing = report("digits-smal")
    assert (missing.returncode, missing.stderr.count("\n")) == (4, 1) and "Try: digits-small" in missing.stderr
    (save(study) / "gallery.npz").unlink()
    damaged = report()
    assert (damaged.returncode, damaged.stderr.count("\n")) == (7, 1) and "E-MODEL-INCOMPLETE" in damaged.stderr
