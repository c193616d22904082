"""KerasTuner's projects: written by KerasTuner itself in a process of its own, or by hand in its format."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEARCH = """
import sys
import keras, keras_tuner
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
images, labels = images[:200] / 16, labels[:200]

def build(hp):
    model = keras.Sequential([keras.Input((64,))])
    for layer in range(hp.Int("layers", 1, 2)):
        with hp.conditional_scope("layers", list(range(layer + 1, 3))):
            model.add(keras.layers.Dense(hp.Int(f"units_{layer}", 8, 32, step=8), hp.Choice(f"act_{layer}", ["relu", "tanh"])))
    hp.Boolean("unused")
    hp.Fixed("classes", 10)
    model.add(keras.layers.Dense(10, "softmax"))
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

kind, objective, trials = sys.argv[1:4]
more = {"max_trials": int(trials)} if kind != "Hyperband" else {"max_epochs": 3, "factor": 3}
tuner = getattr(keras_tuner, kind)(build, objective=objective, seed=3, directory=".", project_name="project", **more)
tuner.search(images[:150], labels[:150], validation_data=(images[150:], labels[150:]), epochs=2, verbose=0)
"""


def searched(folder: Path, kind: str, objective: str, trials: int = 4) -> Path:
    """Let KerasTuner search, and return its project."""
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, kind, objective, str(trials)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "project"


def entry(kind: str, name: str, conditions: Mapping[str, list[Any]] | None = None, **config: Any) -> dict[str, Any]:
    """A hyperparameter. conditions: of which other one which values."""
    parents = [
        {"class_name": "Parent", "config": {"name": of, "values": values}} for of, values in (conditions or {}).items()
    ]
    return {"class_name": kind, "config": {"name": name, "conditions": parents, "default": None, **config}}


RATE = entry("Float", "rate", min_value=1e-4, max_value=0.1, step=None, sampling="log")
UNITS = entry("Int", "units", min_value=8, max_value=64, step=8, sampling="linear")


def trial(
    number: int,
    accuracy: float | None = 0.5,
    values: Mapping[str, Any] | None = None,
    space: list[dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A trial's state, as KerasTuner keeps it. accuracy: None for none at all."""
    told = (
        {}
        if accuracy is None
        else {"val_accuracy": {"direction": "max", "observations": [{"value": [accuracy], "step": 1}]}}
    )
    return {
        "trial_id": f"{number:04}",
        "hyperparameters": {
            "space": space if space is not None else [RATE, UNITS],
            "values": {"rate": 0.001 * (number + 1), "units": 16} if values is None else values,
        },
        "metrics": {"metrics": told},
        "score": accuracy,
        "best_step": 1,
        "status": "COMPLETED",
        "message": None,
        **more,
    }


def project(folder: Path, *trials: Mapping[str, Any], **oracle: Any) -> Path:
    """Write a project, or write it anew."""
    folder.mkdir(parents=True, exist_ok=True)
    order = [told["trial_id"] for told in trials]
    state = {
        "ongoing_trials": {},
        "start_order": order,
        "retry_queue": [],
        "seed": 7,
        "alpha": 1e-4,
        "beta": 2.6,
        **oracle,
    }
    (folder / "oracle.json").write_text(json.dumps(state))
    for told in trials:
        place = folder / f"trial_{told['trial_id']}"
        place.mkdir(exist_ok=True)
        (place / "trial.json").write_text(json.dumps(told))
    return folder
