"""Which configs should a search begin with? Measures candidates on data sets other than Fashion-MNIST, and chooses a few.

    python benchmarks/portfolio.py measure --mnist mnist.npz   # 16 candidates on three data sets: 20 minutes or so
    python benchmarks/portfolio.py                             # choose anew from what was measured

The data sets: handwritten digits of 28 × 28 (the first 30,000 of MNIST's training part), the digits of 8 × 8 that come
with scikit-learn, and drawn colour pictures of 32 × 32, which stand for photographs. No figure of Fashion-MNIST enters.

A task is a data set and a horizon: what is the best validation accuracy that a config reaches within a share of the seconds
that the median candidate trains? The portfolio is chosen greedily: each next config is the one that lowers most what the
portfolio's best lies below the best candidate, over all tasks (Feurer et al. 2022, "Auto-Sklearn 2.0", arXiv:2007.04074, 3.2).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from autofash import hardware, search  # noqa: E402
from autofash.data.sources import SOURCES, Source  # noqa: E402
from autofash.space import ChoiceParam, FloatParam, IntParam, NamedConfig, Space  # noqa: E402

MEASURED = HERE / "portfolio.json"
CANDIDATES, CHOSEN = 16, 3
HORIZONS = (0.25, 0.5, 1.0)
MOST_REGRET = 10.0  # points: how far behind one is that has no epoch to show yet says nothing
MNIST_IMAGES, DRAWN_IMAGES = 30_000, 12_000
EPOCHS = {"some-mnist": 4, "digits": 24, "drawn": 8}
WIDE = {
    "conv_blocks": IntParam(low=2, high=3),
    "depth": IntParam(low=1, high=2),
    "width": ChoiceParam(values=[16, 24, 32, 48]),
    "kernel_size": ChoiceParam(values=[3]),
    "pooling": ChoiceParam(values=["max"]),
    "normalization": ChoiceParam(values=["none", "batch"]),
    "activation": ChoiceParam(values=["relu", "leaky_relu"]),
    "dropout": FloatParam(low=0.0, high=0.2),
    "head": ChoiceParam(values=["dense"]),
    "head_units": ChoiceParam(values=[64, 128, 256]),
    "head_dropout": FloatParam(low=0.0, high=0.5),
    "batch_size": ChoiceParam(values=[64, 128]),
    "optimizer": ChoiceParam(values=["adam", "adamw"]),
    "learning_rate": FloatParam(low=5e-4, high=5e-3, log=True),
    "schedule": ChoiceParam(values=["constant", "cosine", "onecycle"]),
    "weight_decay": FloatParam(low=1e-4, high=1e-2, log=True, when={"optimizer": ["adamw"]}),
    "label_smoothing": FloatParam(low=0.0, high=0.1),
    "flip": ChoiceParam(values=[False]),
    "shift": IntParam(low=0, high=1),
    "erase": FloatParam(low=0.0, high=0.15),
    "mixup": ChoiceParam(values=[0.0]),
}
MOST_WORK = 9e6  # multiply-adds of an image of 28 × 28: a search begins with what is soon trained


def candidates() -> dict[str, NamedConfig]:
    """Random configs of the wide space that are not dear."""
    rng, space, found = random.Random(0), Space("cnn", WIDE), {}
    while len(found) < CANDIDATES:
        config = space.sample(rng)
        if convolutions(config) <= MOST_WORK:
            found[f"c{len(found)}"] = NamedConfig(
                f"c{len(found)}", {key: _short(value) for key, value in config.items()}
            )
    return found


def convolutions(config: Any) -> float:
    """Multiply-adds of the convolutions for an image of 28 × 28."""
    work, before = 0.0, 1
    for block in range(config["conv_blocks"]):
        channels = config["width"] * 2**block
        for _ in range(config["depth"]):
            work += (28 / 2**block) ** 2 * 9 * before * channels
            before = channels
    return work


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (count, 32, 32, 3) of ten kinds: five shapes, plain or striped, anywhere, in any colours, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    rows, columns = np.mgrid[0:32, 0:32].astype(np.float32)
    images = np.empty((count, 32, 32, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        angle, size, (y, x) = rng.uniform(0, 2 * np.pi), rng.uniform(6, 12), rng.uniform(10, 22, 2)
        u = (np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)) / size
        v = (-np.sin(angle) * (columns - x) + np.cos(angle) * (rows - y)) / size
        match label % 5:
            case 0:
                inside = u**2 + v**2 < 1
            case 1:
                inside = np.maximum(abs(u), abs(v)) < 0.85
            case 2:
                inside = (v > -0.6) & (v < 1 - 2 * abs(u))
            case 3:
                inside = abs(np.hypot(u, v) - 0.75) < 0.25
            case _:
                inside = (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1)
        paint, ground = rng.uniform(0, 255, (2, 3))
        shade = np.where((label >= 5) & (np.sin(6 * u + rng.uniform(0, 6)) > 0), 0.35, 1.0)
        slope = 1 + 0.4 * np.sin(rows / rng.uniform(3, 9) + columns / rng.uniform(3, 9))
        picture = np.where(inside[..., None], paint * shade[..., None], ground * slope[..., None])
        image[:] = np.clip(picture + rng.normal(0, 30, picture.shape), 0, 255)
    return images, labels


def measure(mnist: Path) -> None:
    """Train every candidate on every data set in full, and keep their curves."""
    space = Space("fixed", {"config": ChoiceParam(values=list(candidates()))}, configs=candidates())
    kept: dict[str, Any] = {"machine": hardware.machine(), "configs": {}, "curves": {}}
    kept["configs"] = {name: dict(named.config) for name, named in candidates().items()}
    _offer(mnist)
    with tempfile.TemporaryDirectory() as folder:
        for name, epochs in EPOCHS.items():
            study = search(
                space,
                dataset=name,
                storage=f"sqlite:///{folder}/{name}.db",
                study=name,
                trials=CANDIDATES,
                epochs=epochs,
                sampler="grid",
                pruner="none",
            )
            kept["curves"][name] = {
                str(trial.config["config"]): [
                    [round(said.seconds, 2), round(said.accuracy, 5)] for said in trial.reports
                ]
                for trial in study.trials()
                if trial.state == "complete"
            }
            print(f"{name}: {len(kept['curves'][name])} of {CANDIDATES} candidates", flush=True)
    MEASURED.write_text(json.dumps(kept, indent=1) + "\n")


def choose() -> None:
    """Print the portfolio, the candidates' regrets, and how good the portfolio is at each size."""
    told = json.loads(MEASURED.read_text())
    names = [name for name in told["configs"] if all(name in curves for curves in told["curves"].values())]
    regrets = {name: _regrets(name, names, told["curves"]) for name in names}
    portfolio: list[str] = []
    print(f"measured on {told['machine']}; regret: points below the best candidate, over {len(HORIZONS)} horizons")
    while len(portfolio) < CHOSEN:

        def together(name: str) -> float:
            return statistics.mean(
                min(of) for of in zip(*(regrets[chosen] for chosen in [*portfolio, name]), strict=True)
            )

        best = min((name for name in names if name not in portfolio), key=together)
        portfolio.append(best)
        print(f"{len(portfolio)}. {best:4} mean regret {together(best):5.2f}  {told['configs'][best]}")
    for name in sorted(names, key=lambda name: statistics.mean(regrets[name])):
        print(
            f"   {name:4} alone {statistics.mean(regrets[name]):6.2f}  " + " ".join(f"{r:5.2f}" for r in regrets[name])
        )


def _regrets(name: str, names: list[str], curves: dict[str, Any]) -> list[float]:
    """Points of accuracy below the best candidate in each task."""
    found = []
    for of in curves.values():
        whole = statistics.median(of[other][-1][0] for other in names)
        for horizon in HORIZONS:
            reached = {
                other: max((value for seconds, value in of[other] if seconds <= horizon * whole), default=0.0)
                for other in names
            }
            found.append(min(MOST_REGRET, 100 * (max(reached.values()) - reached[name])))
    return found


def _offer(mnist: Path) -> None:
    """Let `search` know the two data sets that autofash does not bring along; nothing asks for their test parts."""

    def read(_: Path) -> tuple[np.ndarray, np.ndarray]:
        with np.load(mnist) as found:
            return found["x_train"][:MNIST_IMAGES], found["y_train"][:MNIST_IMAGES].astype(np.int64)

    names = tuple("0123456789")
    for name, train in (("some-mnist", read), ("drawn", lambda _: drawn(DRAWN_IMAGES, 0))):
        SOURCES[name] = Source({}, "", "", names, train, train, "for the choice of starters")


def _short(value: Any) -> Any:
    return float(f"{value:.2g}") if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["measure"])
    parser.add_argument("--mnist", type=Path, help="an .npz with x_train, y_train, x_test, y_test")
    asked = parser.parse_args()
    if asked.what:
        measure(asked.mnist)
    choose()
