"""The baselines, trained for real on the digits."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.keras


def baselines(*more: str) -> str:
    command = [sys.executable, "-m", "autofash", "baselines", "--dataset", "digits", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_five_classics_are_set_beside_their_claims_and_a_second_run_trains_nothing() -> None:
    shown = baselines()
    for name in ("ann", "cnn", "dense-128", "dense-100", "dense-dropout", "99 %", "94 % train, 91 % test"):
        assert name in shown, name
    told = json.loads(baselines("--json"))
    assert told["study"] == "digits-baselines" and len(told["baselines"]) == 5
    assert all(row["metrics"]["test_accuracy"] > 0.6 for row in told["baselines"])
    listed = subprocess.run(
        [sys.executable, "-m", "autofash", "show", "--json"], capture_output=True, text=True, check=True
    )
    study = json.loads(listed.stdout)
    assert len(study["openings"]) == 5 and len(study["trials"]) == 5
    assert {trial["config"]["config"] for trial in study["trials"]} == {row["name"] for row in told["baselines"]}
