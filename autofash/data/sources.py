"""The built-in data sets: which files they are, where they lie, and how they are fetched.

Looked for in this order: --data-dir or AUTOFASH_DATA_DIR, Keras's cache, the network. Every file is verified against its
published SHA-256 before anything is read, the test set's too, so that a refit hours later finds no bad file.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

from autofash.data.formats import opened, read_cifar, read_idx, read_npz, unreadable
from autofash.errors import DataCorrupt, DataError, DataMissing, UsageError, unknown

Array = np.ndarray
Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all (0 where unknown)
DEFAULT, FALLBACK = "fashion_mnist", "digits"
TIMEOUT_SECONDS = 15.0  # of one read from the network


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images: uint8 (n, height, width, channels), 0 to 255; int64 labels (n,), 0 to classes - 1."""

    images: Array
    labels: Array
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A built-in data set: its files with their SHA-256, and how its training and its test part are read from a folder."""

    files: Mapping[str, str]
    folder: str  # below Keras's datasets folder
    origin: str  # address of the folder that the files are fetched from
    classes: tuple[str, ...]
    train: Callable[[Path], tuple[Array, Array]]
    test: Callable[[Path], tuple[Array, Array]]  # called by autofash.data.heldout alone
    about: str


def _idx_pair(prefix: str) -> Callable[[Path], tuple[Array, Array]]:
    def read(folder: Path) -> tuple[Array, Array]:
        return read_idx(folder / f"{prefix}-images-idx3-ubyte.gz"), read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")

    return read


def _npz_pair(part: str) -> Callable[[Path], tuple[Array, Array]]:
    def read(folder: Path) -> tuple[Array, Array]:
        images, labels = read_npz(folder / "mnist.npz", (f"x_{part}", f"y_{part}"))
        return images, labels

    return read


def _cifar_part(*members: str) -> Callable[[Path], tuple[Array, Array]]:
    return lambda folder: read_cifar(folder / "cifar-10-binary.tar.gz", members)


def _digits_part(test: bool) -> Callable[[Path], tuple[Array, Array]]:
    def read(_: Path) -> tuple[Array, Array]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        # 0 to 16 becomes 0 to 255. One image in five is held out, the same ones for every study.
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        train, held_out = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=bunch.target)
        chosen = np.sort(held_out if test else train)
        return images[chosen], bunch.target[chosen]

    return read


DIGITS = tuple("0123456789")
SOURCES: dict[str, Source] = {
    "fashion_mnist": Source(
        files={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        folder="fashion-mnist",
        origin="https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        train=_idx_pair("train"),
        test=_idx_pair("t10k"),
        about="60,000 + 10,000 pictures of clothes, 28 × 28 grey (Xiao et al. 2017, arXiv:1708.07747)",
    ),
    "mnist": Source(
        files={"mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
        folder="",
        origin="https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        classes=DIGITS,
        train=_npz_pair("train"),
        test=_npz_pair("test"),
        about="60,000 + 10,000 handwritten digits, 28 × 28 grey",
    ),
    "cifar10": Source(
        # The binary edition: the one for Python is a pickle, which nothing here opens.
        files={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        folder="",
        origin="https://www.cs.toronto.edu/~kriz/",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train=_cifar_part(*(f"data_batch_{i}.bin" for i in range(1, 6))),
        test=_cifar_part("test_batch.bin"),
        about="50,000 + 10,000 photographs, 32 × 32 in colour",
    ),
    "digits": Source(
        files={},
        folder="",
        origin="",
        classes=DIGITS,
        train=_digits_part(test=False),
        test=_digits_part(test=True),
        about="1,797 handwritten digits, 8 × 8 grey; comes with scikit-learn, needs no network",
    ),
}


def source(dataset: str) -> Source:
    """The built-in data set of this name. Raises DataError with the nearest name."""
    if dataset not in SOURCES:
        fact, fix = unknown("data set", dataset, SOURCES)
        raise DataError(fact, fix, code="E-DATA-UNKNOWN")
    return SOURCES[dataset]


def choose(dataset: str | None, data_dir: Path | None, progress: Progress | None = None) -> tuple[str, Path, str]:
    """The data set to use, its folder, and the one that was wanted instead where it had to be substituted.

    dataset: a built-in name, of which nothing is ever substituted; None: Fashion-MNIST where it is found or can be
    fetched, else digits. Raises DataMissing, DataCorrupt, DataError.
    """
    if dataset is not None:
        return dataset, locate(dataset, data_dir, progress), ""
    try:
        return DEFAULT, locate(DEFAULT, data_dir, progress), ""
    except DataMissing:
        return FALLBACK, locate(FALLBACK, data_dir, progress), DEFAULT


def locate(dataset: str, data_dir: Path | None, progress: Progress | None = None) -> Path:
    """The folder that holds the data set's verified files, fetched if need be.

    Raises DataMissing with every way to get it, DataCorrupt naming file and expected hash.
    """
    wanted = source(dataset)
    if not wanted.files:
        return Path()
    for folder in _folders(wanted, data_dir):
        # A link that leads nowhere is there too: the data set was put here, and what is wrong with it is to be said.
        present = [name for name in wanted.files if os.path.lexists(folder / name)]
        if len(present) == len(wanted.files):
            _verify_all(folder, wanted)
            return folder
    return _fetch(dataset, wanted, progress)


def keras_cache() -> Path:
    """Keras's datasets folder."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"


def _folders(wanted: Source, data_dir: Path | None) -> list[Path]:
    chosen = data_dir or (Path(found) if (found := os.environ.get("AUTOFASH_DATA_DIR")) else None)
    if data_dir is not None and not os.path.isdir(data_dir):
        raise UsageError(f"--data-dir {data_dir} is no folder", "a folder that holds the files")
    try:
        os.stat(f"{chosen}/." if chosen else ".")  # a closed folder looks like one without the files
    except PermissionError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", f"chmod u+rx {chosen}", where=str(chosen), code="E-DATA-UNREADABLE"
        ) from None
    except OSError:
        pass  # there is no such folder, and so nothing in it
    own = [chosen / wanted.folder, chosen] if chosen else []
    return list(dict.fromkeys([*own, keras_cache() / wanted.folder]))


def _verify_all(folder: Path, wanted: Source) -> None:
    """Raise the gravest error with every file that is not the published one."""
    bad: list[DataError] = []
    for name, digest in wanted.files.items():
        try:
            _verify(folder / name, digest)
        except DataError as error:
            bad.append(error)
    if bad:
        gravest = next((error for error in bad if isinstance(error, DataCorrupt)), bad[0])
        raise type(gravest)([problem for error in bad for problem in error.problems], code=gravest.code)


def _verify(path: Path, digest: str) -> None:
    try:
        with opened(path) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:  # such as a disk that fails in the midst of it
        raise unreadable(path, error) from None
    if found != digest:
        size = path.stat().st_size
        raise DataCorrupt(
            f"is corrupt or cut short ({size:,} bytes): expected SHA-256 {digest}, found {found}",
            f"rm {path}, and run again",
            where=str(path),
        )


def _fetch(dataset: str, wanted: Source, progress: Progress | None) -> Path:
    folder = keras_cache() / wanted.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".autofash.lock"):  # one process fetches, the others find its files
            for name, digest in wanted.files.items():
                if not (folder / name).exists():
                    _download(wanted.origin + name, folder / name, digest, progress)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors too
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DataMissing(
            f"{dataset} was not found and could not be fetched ({reason})",
            f"put {', '.join(wanted.files)} into {folder}, or name their folder with --data-dir or AUTOFASH_DATA_DIR, "
            "or --dataset digits",
        ) from None
    _verify_all(folder, wanted)
    return folder


def _download(address: str, path: Path, digest: str, progress: Progress | None) -> None:
    """Fetch beside the place, verify, rename: a killed download leaves no bad file under the final name."""
    beside, seen = path.with_name(path.name + ".part"), hashlib.sha256()
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, beside.open("wb") as out:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(2**18):
            out.write(block)
            seen.update(block)
            done += len(block)
            if progress:
                progress(path.name, done, total)
        out.flush()
        os.fsync(out.fileno())
    if seen.hexdigest() != digest:
        beside.unlink()
        raise DataCorrupt(
            f"what came is not the published file: expected SHA-256 {digest}, found {seen.hexdigest()}",
            "run again",
            where=address,
        )
    beside.rename(path)
