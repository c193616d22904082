"""How many images a second does a search train, against bare Keras? The reference CNN, paired in one run, three rounds.

    python benchmarks/throughput.py          # a quarter of an hour on two cores

The reference CNN has two 3 × 3 convolutions a stage at 28², 14² and 7² pixels, with 16, 32 and 64 channels, and is trained in
batches of 128 on Fashion-MNIST's 50,000 training images. Bare Keras is `model.fit` as its documentation has it, in a process
of its own with all cores and no setting of ours; the search runs one trial a worker. Neither counts its imports; both count
building, tracing and validation. Output: a table, and the section "Throughput" of RESULTS.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ["PYTHONPATH"] = str(ROOT)

from sections import RESULTS, put_section  # noqa: E402

from autofash import data, hardware  # noqa: E402
from autofash.request import VALIDATION  # noqa: E402

ROUNDS, EPOCHS = 3, 1
REFERENCE = {"family": "cnn", "conv_blocks": 3, "depth": 2, "width": 16, "kernel_size": 3, "head": "average"}
SPACE = """
format = 1
family = "cnn"
{fixed}
[params.learning_rate]      # so that trials differ
type = "float"
low = 1e-3
high = 2e-3
"""
BARE = """
import json, sys, time
import keras
from autofash import data, models
found, config = data.load(sys.argv[1]), json.loads(sys.argv[2])
images, labels = found.train_images[:], found.train_labels[:]
began = time.monotonic()
model = models.build(config, images.shape[1:], len(found.classes))
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
watched = (found.validation_images[:], found.validation_labels[:])
model.fit(images, labels, batch_size=128, epochs=int(sys.argv[3]), validation_data=watched, verbose=0)
print(time.monotonic() - began)
"""
AUGMENTING = """
import json, sys, time
from autofash import data, training
from autofash.data.augment import Augmentation
from autofash.data.batches import Batches
from autofash.records import TrialSpec
config = json.loads(sys.argv[2])
spec = TrialSpec(0, config, 0, 1, sys.argv[1])
training.take_resources(spec)
found = data.load(spec.data)
model = training.compiled(spec, found.train_images.shape[1:], 10, len(found.train_images))
def batches(**settings):
    chosen = Augmentation(**settings)
    return Batches(found.train_images, found.train_labels, 10, batch_size=128, augmentation=chosen, seed=0)
def seconds(made):
    began = time.monotonic()
    for step in range(100):
        made.batch(step)
    return (time.monotonic() - began) / 100
plain, augmented = batches(), batches(flip=True, shift=1, erase=0.2, mixup=0.2)
training._train(model, plain, 0, 20)
began = time.monotonic()
training._train(model, plain, 20, 120)
print((time.monotonic() - began) / 100, seconds(plain), seconds(augmented))
"""


def bare(folder: str, config: dict[str, object]) -> float:
    """Images a second of Keras alone."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", BARE, folder, json.dumps(config), str(EPOCHS)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    return EPOCHS * len(data.load(folder).train_labels) / float(done.stdout.split()[-1])


def searching(config: dict[str, object]) -> float:
    """Images a second of a search, one trial a worker, from the moment that the first of them trains."""
    from autofash import loop
    from autofash.records import Started
    from autofash.request import SearchRequest

    fixed = "\n".join(
        f'[params.{name}]\ntype = "choice"\nvalues = [{json.dumps(value)}]'
        for name, value in config.items()
        if name != "family"
    )
    workers = hardware.plan().workers
    begun: list[float] = []

    def listen(event: loop.SearchEvent) -> None:
        if isinstance(event, Started):
            begun.append(time.monotonic())

    with tempfile.TemporaryDirectory() as place:
        Path(place, "reference.toml").write_text(SPACE.format(fixed=fixed))
        request = SearchRequest(
            space=f"{place}/reference.toml",
            dataset="fashion_mnist",
            trials=workers,
            epochs=EPOCHS,
            sampler="random",
            pruner="none",
            starters=False,
            storage=f"sqlite:///{place}/studies.db",
        )
        study = loop.search(request, [listen])
        ended = time.monotonic()
        images = sum(trial.reports[-1].images for trial in study.trials())
    return images / (ended - begun[0])


def augmenting(folder: str, config: dict[str, object]) -> tuple[float, float, float]:
    """Seconds of a step, of gathering its batch, and of gathering and augmenting it, in one single-threaded process."""
    env = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AUGMENTING, folder, json.dumps(config)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    step, plain, augmented = (float(figure) for figure in done.stdout.split()[-3:])
    return step, plain, augmented


def spread(values: list[float], digits: int = 0) -> str:
    """Median with lowest and highest."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main() -> None:
    """Measure, print, and write the section."""
    folder = data.prepare("fashion_mnist", data.choose("fashion_mnist", None)[1], seed=0, validation=VALIDATION).folder
    lines = [
        f"{hardware.machine()}; {hardware.plan().why}; Keras {version('keras')}, TensorFlow {version('tensorflow')};",
        f"{date.today()}; `python benchmarks/throughput.py`; median (lowest to highest) of {ROUNDS} interleaved rounds.",
        "Bare Keras runs without oneDNN where TensorFlow leaves it off, as on CPUs with AVX2 alone; the search switches it on.",
        "",
        "| reference CNN | bare `keras.Model.fit`, images/s | a search, images/s | ratio |",
        "|---|---|---|---|",
    ]
    for normalization in ("none", "batch"):
        config = {**REFERENCE, "normalization": normalization}
        pairs = [(bare(folder, config), searching(config)) for _ in range(ROUNDS)]
        ratios = [ours / theirs for theirs, ours in pairs]
        row = [spread([theirs for theirs, _ in pairs]), spread([ours for _, ours in pairs]), spread(ratios, 2)]
        lines.append(f"| normalization {normalization} | " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    step, plain, augmented = augmenting(folder, {**REFERENCE, "normalization": "none"})
    lines += [
        "",
        f"A step of 128 images takes {1000 * step:.1f} ms, gathering its batch {1000 * plain:.2f} ms of it; flips, shifts,",
        f"erasing and mixup add {1000 * (augmented - plain):.2f} ms, {100 * (augmented - plain) / step:.1f} % of a step.",
    ]
    print("\n".join(lines))
    put_section(RESULTS, "throughput", "\n".join(["## Throughput", "", *lines]))


if __name__ == "__main__":
    main()
