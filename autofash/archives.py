"""Archives, opened without trust: what they declare is added up before anything is unpacked, and nothing is extracted."""

from __future__ import annotations

import zipfile
from typing import IO, Any

from autofash.errors import UnsafeFile

LARGEST_DIRECTORY = 2**20  # bytes of a zip's table of contents; a thousand arrays need 60,000
HARMLESS = 2**26  # bytes; what unpacks to less is no bomb
BOMB = 200  # times its size; images of clothes are compressed to a half, drawn lines to a twentieth


class Sparing:
    """A file of which no more than `most` bytes are taken into memory at once.

    The readers of zip, tar and .npy believe the lengths that a file's headers claim.
    """

    def __init__(self, stream: Any, most: int, where: str) -> None:
        self.most, self._stream, self._where = most, stream, where

    def read(self, size: int = -1) -> bytes:
        """At most this many bytes. Raises UnsafeFile E-TOO-LARGE where there are more than may be taken."""
        found: bytes = self._stream.read(size if 0 <= size <= self.most else self.most + 1)
        if len(found) > self.most:
            raise too_large(self._where, f"has a header of more than {self.most:,} bytes")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_zip(stream: IO[bytes], where: str, most: int) -> zipfile.ZipFile:
    """The zip archive of a stream, whose members declare at most this many bytes together.

    Raises UnsafeFile E-TOO-LARGE for more, and for what unpacks to BOMB times its size; zipfile's own errors pass through.
    """
    sparing = Sparing(stream, LARGEST_DIRECTORY, where)
    archive = zipfile.ZipFile(sparing)
    sparing.most = most
    declared, size = sum(member.file_size for member in archive.infolist()), stream.seek(0, 2)
    if declared > most:
        raise too_large(where, f"unpacks to {declared:,} bytes, more than {most:,}")
    if declared > max(HARMLESS, BOMB * size):
        raise too_large(where, f"unpacks to {declared:,} bytes, {declared // max(size, 1):,} times its size")
    return archive


def too_large(where: str, fact: str) -> UnsafeFile:
    """The error of a file that would take more memory than it may."""
    return UnsafeFile(fact, "a smaller one", where=where, code="E-TOO-LARGE")
