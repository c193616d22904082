"""Benchmarks that take long and are seldom run still run: their parts, at a hundredth of the size."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from autofash import load_study
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import pruners
import scale


def test_the_study_that_scale_measures_is_one_that_a_search_could_have_left_and_goes_on_with(tmp_path: Path) -> None:
    storage = scale.make(tmp_path, 30)
    trials = load_study(scale.STUDY, storage=storage).trials()
    assert [trial.number for trial in trials] == list(range(30))
    assert all(trial.finished and len(trial.curve) >= 1 for trial in trials)
    program = [sys.executable, str(ROOT / "benchmarks/scale.py"), str(tmp_path)]
    told = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    assert set(told) <= set(scale.MEASURED) and len(told["ask"]) == scale.ASKED


@pytest.mark.parametrize("name", pruners.CONTESTANTS)
def test_every_contestant_of_the_replay_comes_to_its_end_and_completes_something(name: str) -> None:
    curves = json.loads(pruners.CURVES.read_text())["curves"]
    order = random.Random(1).sample(curves, 20)
    run = pruners.CONTESTANTS[name](order)
    assert run.complete >= 3 and run.seconds > 0
    assert run.best <= max(max(curve["accuracy"]) for curve in order)
