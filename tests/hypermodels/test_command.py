"""From a user's file to an exported model that answers: the commands as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.keras
MODELS = Path(__file__).with_name("models.py")


def autofash(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autofash", *words], capture_output=True, text=True, check=False, env=dict(os.environ)
    )


def test_a_users_model_is_searched_refitted_exported_and_asked(workplace: Path) -> None:
    (workplace / "my_model.py").write_text(MODELS.read_text())
    settings = ("--dataset", "digits", "--trials", "3", "--epochs", "2", "--workers", "1")
    found = autofash("search", "--hypermodel", "my_model.py:Network", *settings, "--json")
    assert found.returncode == 0, found.stderr
    best = json.loads(found.stdout)["best"]
    assert {"kind", "batch_size"} <= best["config"].keys()
    exported = autofash("best", "--export", "--formats", "keras,litert", "--json")
    assert exported.returncode == 0, exported.stderr
    assert (workplace / "studies" / "digits-Network" / "best" / "model.keras").exists()
    shown = autofash("show")
    assert "my_model.py" not in shown.stdout.partition("config, or why")[2], "it is the same in every row"
    report = autofash("report")
    assert report.returncode == 0, report.stderr
    page = (workplace / "studies" / "digits-Network" / "report.html").read_text()
    assert "--hypermodel my_model.py:Network --pixels unit" in page


def test_a_line_of_a_users_code_that_fails_is_what_the_search_ends_with(workplace: Path) -> None:
    (workplace / "my_model.py").write_text("def build(hp):\n    return hp.Choise('a', [1])\n")
    failed = autofash("search", "--hypermodel", "my_model.py:build", "--dataset", "digits", "--trials", "1", "--quiet")
    assert failed.returncode == 5
    assert "my_model.py:2: AttributeError" in failed.stderr and "Traceback" not in failed.stderr
