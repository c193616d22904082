"""How fast a loaded model predicts, against a bare keras.Model.predict of the same file: 10,000 images, turn by turn.

python benchmarks/prediction.py [MODEL]            # a model's folder; without one, an untrained cnn at 28 × 28 × 1
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras  # noqa: E402
import numpy as np  # noqa: E402

from autofash import hardware, manifest  # noqa: E402
from autofash.models import build  # noqa: E402
from autofash.predict import load_model  # noqa: E402
from autofash.runtimes import BATCH  # noqa: E402

IMAGES, ROUNDS = 10_000, 5


def untrained(folder: Path) -> Path:
    """The default cnn as it is built, in a folder with a manifest: what the weights are does not change the speed."""
    build({"family": "cnn"}, (28, 28, 1), 10).save(folder / manifest.MODEL)
    told = {"format": manifest.FORMAT, "classes": list("0123456789"), "input": {"shape": [28, 28, 1]}}
    manifest.write(folder, told, [manifest.MODEL])
    return folder


def seconds_of(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else untrained(Path(beside))
        loaded, bare = load_model(folder), keras.models.load_model(folder / manifest.MODEL, compile=False)
    shape = (IMAGES, loaded.input.height, loaded.input.width, loaded.input.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ways: dict[str, Callable[[], object]] = {
        "autofash.load_model(…).predict": lambda: loaded.predict(images),
        "keras.Model.predict": lambda: bare.predict(images, verbose=0),
        f"keras.Model.predict, batch_size={BATCH}": lambda: bare.predict(images, batch_size=BATCH, verbose=0),
    }
    drift = np.abs(loaded.predict(images) - bare.predict(images, verbose=0)).max()  # and the first, slow call of each
    bare.predict(images, batch_size=BATCH, verbose=0)
    rounds = [[seconds_of(work) for work in ways.values()] for _ in range(ROUNDS)]

    print(f"{hardware.machine()}; {shape[0]:,} images of {shape[1:]}, {bare.count_params():,} parameters")
    print(f"median of {ROUNDS} (lowest to highest); the answers differ by {drift:.1g} at most\n")
    for place, name in enumerate(ways):
        speeds = [IMAGES / taken[place] for taken in rounds]
        print(f"{name:42}{statistics.median(speeds):9,.0f} images/s ({min(speeds):,.0f} to {max(speeds):,.0f})")
    for place, name in list(enumerate(ways))[1:]:
        ratios = [taken[place] / taken[0] for taken in rounds]
        print(f"ratio to {name:33}{statistics.median(ratios):9.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
