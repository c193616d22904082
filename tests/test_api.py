"""The Python API as a user's script meets it, trained for real."""

import subprocess
import sys
from pathlib import Path

import pytest

import autofash
from autofash.space import FloatParam

pytestmark = pytest.mark.keras

SCRIPT = """
import autofash
from autofash.space import FloatParam

print("the script runs")
space = autofash.Space("mlp", {"learning_rate": FloatParam(low=3e-3, high=6e-3)}, name="mine")
seen = []
study = autofash.search(space, dataset="digits", trials=2, epochs=2, pruner="none", listeners=[seen.append])
print(study.name, len(study.trials()), study.best().value > 0.5, len(seen) > 6)
model = autofash.refit(study)
print(model.model.name, model.metrics["test_accuracy"] > 0.5)
print(autofash.load_study().name, [found.name for found in autofash.list_studies()])
"""


def test_a_script_without_a_main_guard_searches_and_refits_and_runs_once() -> None:
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "the script runs",
        "digits-mine 2 True True",
        "model.keras True",
        "digits-mine ['digits-mine']",
    ], done.stderr


def test_what_is_wrong_is_raised_as_an_error_of_ours() -> None:
    with pytest.raises(autofash.SpaceError, match="there is no parameter 'learning_rte'"):
        autofash.Space("mlp", {"learning_rte": FloatParam(low=1e-3, high=1e-2)})
    with pytest.raises(autofash.UsageError, match="sampler 'tpa'"):
        autofash.search(dataset="digits", sampler="tpa")
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        autofash.serach  # noqa: B018
