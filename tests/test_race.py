"""The race's clock and its arithmetic; the contestants themselves take minutes each and are not run here."""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from autofash.space import load_space
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import race
import race_report
import sections
import stopwatch

TELLING = """
import json, os, subprocess, sys, time
def tell(trial, epoch=0, value=None):
    print(json.dumps({"trial": trial, "epoch": epoch, "value": value}), flush=True)
"""


def watched(program: str, folder: Path, *, cap_seconds: float = 300.0) -> stopwatch.Watched:
    command = [sys.executable, "-c", TELLING + program]
    return stopwatch.watch(command, cap_seconds=cap_seconds, target=0.9, folder=folder, environment=os.environ)


def result(seed: int, *reached: tuple[float, float], minutes: float = 10.0, **changed: Any) -> dict[str, Any]:
    reports = [{"seconds": seconds, "cpu_seconds": 2 * seconds, "value": value} for seconds, value in reached]
    told = {"space": "race", "contestant": "autofash", "seed": seed, "minutes": minutes, "reports": reports}
    about = {"machine": "2 cores", "python": "3.11", "versions": {}, "commit": "abc", "command": "race", "date": "2026"}
    return {
        **told,
        **about,
        "ended": "cap",
        "seconds": 60 * minutes,
        "trials": 3,
        "peak_bytes": 2**30,
        "others": 0.0,
        **changed,
    }


def test_a_contestant_ends_at_the_target_and_leaves_no_process(tmp_path: Path) -> None:
    program = """
child = subprocess.Popen(["sleep", "600"], start_new_session=True)  # not of its group
open("child", "w").write(str(child.pid))
tell(0); print("chatter"); print('["no", "report"]'); tell(0, 1, 0.85); tell(1); tell(1, 1, 0.9); tell(1, 2, 0.99)
time.sleep(600)
"""
    seen = watched(program, tmp_path)
    assert (seen.ended, seen.trials) == ("target", 2)
    assert [(told["trial"], told["epoch"], told["value"]) for told in seen.reports] == [(0, 1, 0.85), (1, 1, 0.9)]
    assert 0 < seen.reports[0]["seconds"] <= seen.reports[1]["seconds"] <= seen.seconds
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))


def test_a_contestant_ends_at_the_cap(tmp_path: Path) -> None:
    seen = watched("time.sleep(600)", tmp_path, cap_seconds=1.0)
    assert (seen.ended, seen.seconds, seen.trials, seen.reports) == ("cap", 1.0, 0, [])


def test_a_contestant_that_breaks_down_is_said_to_have_failed(tmp_path: Path) -> None:
    seen = watched("tell(0); raise ValueError('no such layer')", tmp_path)
    assert seen.ended == "failed: exit code 1, ValueError: no such layer"


def test_what_its_children_use_is_counted(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    seen = watched(f"subprocess.run([sys.executable, '-c', {busy!r}]); tell(0, 1, 0.9); time.sleep(600)", tmp_path)
    assert seen.reports[0]["cpu_seconds"] >= 0.5
    assert seen.peak_bytes > 2**20


@pytest.mark.parametrize(
    ("ours", "peer", "expected"),
    [
        ([(50, 0.91)], [(100, 0.89), (150, 0.90)], (3.0, "")),
        ([(50, 0.91)], [(100, 0.89)], (12.0, ">")),
        ([(50, 0.89)], [(150, 0.90)], (0.25, "<")),
        ([], [], (0.0, "–")),
    ],
)
def test_a_ratio_with_somebody_missing_is_a_bound(ours: Any, peer: Any, expected: tuple[float, str]) -> None:
    assert race_report.ratio(result(0, *ours), result(0, *peer), 0.90) == expected


def test_the_middle_of_ratios_claims_no_more_than_is_certain() -> None:
    ours = [result(seed, (100, 0.91)) for seed in (0, 1, 2)]
    peers = [result(2, (900, 0.91), minutes=20), result(0, (200, 0.91)), result(1, (200, 0.89))]
    assert race_report.ratios(ours, peers, 0.90) == "**> 6.0×** (2.0×, > 6.0×, 9.0×)"


def test_a_run_that_failed_counts_nowhere_but_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "machine"
    folder.mkdir(parents=True)
    for run in (result(0, (50, 0.91)), result(1, (1, 0.99), ended="failed: exit code 1, boom")):
        (folder / f"{run['seed']}.json").write_text(race.json.dumps(run))
    race_report.write(tmp_path / "results", tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| autofash | 1 | 50 / 100 | not in 10 min | not in 10 min | 0.9100 | 3 | 1.0 GiB |" in page
    assert "Not counted: autofash on race, seed 1, failed: exit code 1, boom." in page
    assert (tmp_path / "race.png").exists()


def test_the_page_keeps_what_other_programs_wrote(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    sections.put_section(page, "scale", "slow")
    sections.put_section(page, "race", r"a \1 first")
    sections.put_section(page, "scale", "fast")
    text = page.read_text()
    assert text.index("fast") < text.index(r"a \1 first") and "slow" not in text
    sections.put_section(page, "scale", "fast")
    assert page.read_text() == text


def test_everybody_races_on_every_seed_and_begins_in_turn() -> None:
    heats = race.programme()
    assert len(heats) == len(set(heats)) == 19
    begin = [next(heat for heat in heats if (heat.space, heat.seed) == ("race", seed)) for seed in race.SEEDS]
    assert len({heat.contestant for heat in begin}) == len(race.SEEDS)
    assert {heat.contestant for heat in heats} == set(race_report.NAMES) == set(race_report.LINES)


def test_the_race_has_a_space_that_autofash_reads() -> None:
    assert load_space(ROOT / "benchmarks" / "race.toml").family == "cnn"
