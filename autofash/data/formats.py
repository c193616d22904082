"""File formats of data sets, read without trust: headers first, memory later, and nothing is unpickled."""

from __future__ import annotations

import gzip
import math
import stat
import tarfile
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from autofash.archives import Sparing, open_zip, too_large
from autofash.errors import AutofashError, DataCorrupt, DataError, DataMissing, UnsafeFile

Array = np.ndarray
LARGEST_ARRAY = 2**27  # bytes; two and a half times the largest of a built-in data set
LARGEST_BATCH = 2**25  # bytes of one file of CIFAR-10, which has 30,730,000
LARGEST_HEADER = 2**16  # bytes of an .npy file's
MOST_MEMBERS = 100  # of an archive; CIFAR-10's has eight


def opened(path: Path) -> BufferedReader:
    """The file, opened to read; only if it is one, since a pipe or a device might never end.

    Raises DataMissing, and DataError E-DATA-UNREADABLE with the system's word for why not.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("is no file", "a file", where=str(path), code="E-DATA-UNREADABLE")
        return path.open("rb")
    except FileNotFoundError:
        raise DataMissing("there is no such file", "another name", where=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte in it
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError | ValueError) -> DataError:
    """The error of a file that the system does not let be read."""
    reason = getattr(error, "strerror", None) or error
    fix = f"chmod +r {path}" if isinstance(error, PermissionError) else "another name"
    return DataError(f"cannot be read: {reason}", fix, where=str(path), code="E-DATA-UNREADABLE")


def pickled(path: Path) -> UnsafeFile:
    """The error of an .npz file that holds Python objects."""
    fix = "np.savez(file, images=…) with an array of uint8"
    return UnsafeFile("holds a pickle, which could run code", fix, where=str(path), code="E-UNSAFE-NPZ")


def read_idx(path: Path) -> Array:
    """The uint8 array of a gzipped idx file, as MNIST and Fashion-MNIST are published.

    Raises DataError where the file cannot be read, DataCorrupt when the header or the length is not what it should be, and
    UnsafeFile E-TOO-LARGE for more than LARGEST_ARRAY bytes.
    Source: http://yann.lecun.com/exdb/mnist, "file formats".
    """
    try:
        with opened(path) as file, gzip.GzipFile(fileobj=file) as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                _refuse(path, f"not an idx file of bytes: it begins with {magic.hex()}")
            shape = tuple(int(n) for n in np.frombuffer(stream.read(4 * magic[3]), ">u4"))
            size = math.prod(shape)
            if len(shape) != magic[3]:
                _refuse(path, f"its header claims {shape}")
            if size > LARGEST_ARRAY:
                raise too_large(str(path), f"its header claims {shape}, {size:,} bytes, more than {LARGEST_ARRAY:,}")
            content = stream.read(size + 1)
    except AutofashError:
        raise
    except Exception as error:  # gzip and zlib have several words for a broken file
        _refuse(path, f"cannot be read: {_first_line(error)}")
    if len(content) != size:
        _refuse(path, f"holds {len(content):,} bytes where its header claims {size:,}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_npz(path: Path, names: tuple[str, ...], *, kinds: str = "iu") -> tuple[Array, ...]:
    """These arrays of an .npz file. kinds: NumPy's letters for the kinds of numbers that will do; whole ones, or "iuf".

    Raises DataError where the file cannot be read, DataCorrupt when an array is missing or damaged, and UnsafeFile for pickles
    and for what unpacks to more than LARGEST_ARRAY bytes.
    """
    try:
        with opened(path) as stream:
            if stream.read(1) == b"\x80":
                raise pickled(path)
            with open_zip(stream, str(path), LARGEST_ARRAY) as archive:
                return tuple(_read_array(path, archive, name, kinds) for name in names)
    except AutofashError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser have a dozen words for a broken file
        _refuse(path, f"cannot be read: {_first_line(error)}")


def read_npy_header(path: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored by column, and type of the .npy array that the stream begins with.

    Raises UnsafeFile for Python objects; any other exception for what is no such header.
    """
    sparing: Any = Sparing(stream, LARGEST_HEADER, str(path))
    major, _ = np.lib.format.read_magic(sparing)
    reader = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = reader(sparing)
    if dtype.hasobject:
        raise pickled(path)
    return shape, by_column, dtype


def _read_array(path: Path, archive: zipfile.ZipFile, name: str, kinds: str) -> Array:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as stream:
        shape, by_column, dtype = read_npy_header(path, stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in kinds or min(shape, default=0) < 0 or size > member.file_size:
            _refuse(path, f"`{name}` claims {dtype} {shape}, and has {member.file_size:,} bytes")
        return np.frombuffer(stream.read(size), dtype).reshape(shape, order="F" if by_column else "C")


def read_cifar(path: Path, members: tuple[str, ...]) -> tuple[Array, Array]:
    """Images (n, 32, 32, 3) and labels (n,) from these members of CIFAR-10's binary archive; nothing is extracted.

    A record is one byte of label and 3,072 of pixels, red plane first. Raises DataError where the file cannot be read,
    DataCorrupt when a member is missing or cut short, and UnsafeFile for links, for names that lead out of the archive, and for
    what is too large.
    """
    wanted = {f"cifar-10-batches-bin/{member}": b"" for member in members}
    try:
        with opened(path) as file, gzip.GzipFile(fileobj=file) as stream:
            sparing: Any = Sparing(stream, LARGEST_BATCH, str(path))
            with tarfile.open(fileobj=sparing, mode="r:") as archive:
                for number, member in enumerate(archive):
                    _check_member(path, number, member)
                    if member.isfile() and member.name in wanted:
                        part = archive.extractfile(member)
                        wanted[member.name] = part.read() if part else b""
    except AutofashError:
        raise
    except Exception as error:  # gzip, zlib and tarfile have several words for a broken file
        _refuse(path, f"cannot be read: {_first_line(error)}")
    for name, content in wanted.items():
        if not content or len(content) % 3073:
            _refuse(path, f"{name} holds {len(content):,} bytes, no multiple of 3,073")
    records = np.concatenate([np.frombuffer(content, np.uint8).reshape(-1, 3073) for content in wanted.values()])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _check_member(path: Path, number: int, member: tarfile.TarInfo) -> None:
    leads_out = member.name.startswith("/") or ".." in member.name.split("/")
    if leads_out or not (member.isfile() or member.isdir()):
        fact = f"{member.name[:60]!r} is a link or a device, or leads out of the archive"
        raise UnsafeFile(fact, "fetch the file again", where=str(path), code="E-UNSAFE-ARCHIVE")
    if member.size > LARGEST_BATCH or number >= MOST_MEMBERS:
        raise too_large(str(path), f"{member.name[:60]!r} has {member.size:,} bytes, or is one member too many")


def _refuse(path: Path, fact: str) -> NoReturn:
    raise DataCorrupt(fact, "fetch the file again", where=str(path)) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
