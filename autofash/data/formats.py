"""File formats of the built-in data sets, read without trust: headers first, memory later, and nothing is unpickled."""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from autofash.errors import DataCorrupt

Array = np.ndarray
LARGEST_ARRAY = 2**31  # bytes; ten times the largest built-in data set


def read_idx(path: Path) -> Array:
    """The uint8 array of a gzipped idx file, as MNIST and Fashion-MNIST are published.

    Raises DataCorrupt naming the file when the header or the length is not what it should be.
    Source: http://yann.lecun.com/exdb/mnist, "file formats".
    """
    try:
        with gzip.open(path) as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                raise DataCorrupt(
                    f"not an idx file of bytes: it begins with {magic.hex()}", "fetch the file again", where=str(path)
                )
            shape = tuple(int(n) for n in np.frombuffer(stream.read(4 * magic[3]), ">u4"))
            size = math.prod(shape)
            if len(shape) != magic[3] or size > LARGEST_ARRAY:
                raise DataCorrupt(f"its header claims {shape}, {size:,} bytes", "fetch the file again", where=str(path))
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataCorrupt(f"cannot be read: {error}", "fetch the file again", where=str(path)) from None
    if len(content) != size:
        raise DataCorrupt(
            f"holds {len(content):,} bytes where its header claims {size:,}", "fetch the file again", where=str(path)
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_npz(path: Path, names: tuple[str, ...]) -> tuple[Array, ...]:
    """These arrays of an .npz file. Raises DataCorrupt when one is missing, pickled, too large or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAY:
                raise DataCorrupt(f"unpacks to more than {LARGEST_ARRAY:,} bytes", "a smaller file", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataCorrupt(f"cannot be read: {error}", "fetch the file again", where=str(path)) from None


def read_cifar(path: Path, members: tuple[str, ...]) -> tuple[Array, Array]:
    """Images (n, 32, 32, 3) and labels (n,) from these members of CIFAR-10's binary archive; nothing is extracted.

    A record is one byte of label and 3,072 of pixels, red plane first. Raises DataCorrupt when a member is missing or cut short.
    """
    parts = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in members:
                stream = archive.extractfile(f"cifar-10-batches-bin/{member}")
                content = stream.read(LARGEST_ARRAY) if stream else b""
                if not content or len(content) % 3073:
                    raise DataCorrupt(
                        f"{member} holds {len(content):,} bytes, no multiple of 3,073",
                        "fetch the file again",
                        where=str(path),
                    )
                parts.append(np.frombuffer(content, np.uint8).reshape(-1, 3073))
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise DataCorrupt(f"cannot be read: {error}", "fetch the file again", where=str(path)) from None
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
