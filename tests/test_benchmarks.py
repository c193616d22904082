"""Benchmarks that take long and are seldom run still run: their parts, at a hundredth of the size."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autofash import load_study
from autofash.data.augment import Augmentation
from autofash.space import load_space
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import peers
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


def test_a_peer_trains_with_keras_own_optimizer_and_on_augmented_batches_that_differ_from_epoch_to_epoch() -> None:
    import keras

    from autofash.data.batches import Batches

    bench = peers.Bench.__new__(peers.Bench)
    bench.seed, bench.classes, bench.labels = 0, 10, np.arange(40) % 10
    bench.images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    bench.targets = keras.utils.to_categorical(bench.labels, 10)
    drawn = load_space("cnn").sample(random.Random(0))
    config = {**drawn, "conv_blocks": 1, "depth": 1, "width": 16, "batch_size": 64, "shift": 2, "flip": True}
    model = bench.build(config)
    assert type(model.optimizer).__module__.startswith("keras.")
    history = bench.fit(model, config, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    epochs = peers._epochs_of(
        Batches(bench.images, bench.labels, 10, batch_size=40, augmentation=Augmentation(flip=True), seed=0), 0
    )
    first = epochs[0][0]
    epochs.on_epoch_end()
    assert not np.array_equal(first, epochs[0][0])


@pytest.mark.parametrize("name", pruners.CONTESTANTS)
def test_every_contestant_of_the_replay_comes_to_its_end_and_completes_something(name: str) -> None:
    curves = json.loads(pruners.CURVES.read_text())["curves"]
    order = random.Random(1).sample(curves, 20)
    run = pruners.CONTESTANTS[name](order)
    assert run.complete >= 3 and run.seconds > 0
    assert run.best <= max(max(curve["accuracy"]) for curve in order)
