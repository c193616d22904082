"""What lies in a model's folder, and what vouches for it: manifest.json, with a hash for every file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autofash import failpoints
from autofash.errors import ResourceError, UnsafeFile, brief, cannot_write, cut

FORMAT = 1
MANIFEST = "manifest.json"
MODEL = "model.keras"
PREDICTIONS = (
    "test_predictions.npz"  # probabilities float32 (n, classes), labels int64 (n,): the whole test set, in its order
)
GALLERY = "gallery.npz"  # images uint8 (m, height, width, channels), rows int64 (m,) of the test set
FIX = "autofash best --export"
LARGEST_FILE = 2**24  # bytes of a manifest; ours have ten thousand
STUDY = re.compile(
    r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}"
)  # what a manifest may put into a command that is to be repeated


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a model's folder, its files not looked at. Raises UnsafeFile where there is none that can be read."""
    path = folder / MANIFEST
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LARGEST_FILE:
            raise ValueError("no manifest")
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise UnsafeFile(
                f"the manifest is of format {brief(manifest['format'])}, which this autofash does not know",
                "pip install --upgrade autofash",
                where=str(path),
                code="E-MODEL-INCOMPLETE",
            )
        _ = {name: (told["sha256"], told["bytes"]) for name, told in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnsafeFile(
            "there is no manifest that can be read", FIX, where=str(folder), code="E-MODEL-INCOMPLETE"
        ) from None
    return manifest


def verify(folder: Path, manifest: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Raise UnsafeFile unless the files are there, and what the manifest vouches for.

    names: relative to the folder, and a folder's name stands for all the files in it; None: every file of the manifest.
    """
    files: dict[str, Any] = manifest["files"]
    chosen = list(files) if names is None else [file for name in names for file in _below(name, files, folder)]
    for name in chosen:
        path, why = folder / name, ""
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
            good = inside and path.is_file() and digest(path) == files[name]["sha256"]
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # a name that no file can have; links that lead to themselves
            good, why = False, f": {getattr(error, 'strerror', None) or error}"
        if not good:
            raise UnsafeFile(
                f"is missing, or is not what the manifest vouches for{why}",
                remedy(folder, manifest),
                where=str(folder / cut(name, 200)),
                code="E-MODEL-INCOMPLETE",
            )


def write(folder: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the manifest with the hashes of these files, and of all files in such folders; beside its place, then renamed."""
    paths = [found for name in names for found in _files(folder / name)]
    files = {
        path.relative_to(folder).as_posix(): {"sha256": digest(path), "bytes": path.stat().st_size} for path in paths
    }
    beside = folder / f".{MANIFEST}.new"
    beside.write_text(json.dumps({**manifest, "files": files}, indent=2) + "\n")
    put(beside, folder / MANIFEST, "manifest")


def remedy(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The command that makes the model of this folder again."""
    # A stranger's manifest may say anything, and what is said here will be typed.
    study, trial, members = (manifest.get(key) for key in ("study", "trial", "members"))
    named = isinstance(study, str) and STUDY.fullmatch(study)
    made = [f"autofash best {study} --export" if named else FIX]
    name = os.path.basename(os.path.realpath(folder))
    if name.startswith("trial-") and isinstance(trial, int):
        made.append(f"--trial {trial}")
    if name.startswith("ensemble-") and isinstance(members, list):
        made.append(f"--ensemble {len(members)}")
    return " ".join([*made, *(["--tta"] if manifest.get("tta") else [])])


def not_writable(folder: Path, error: OSError) -> ResourceError:
    """The error of a folder that cannot be written, or of a disk that is full or broken."""
    return cannot_write(error.filename or folder, error, f"chmod u+w {folder}", "E-EXPORT-DIR")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the disk hold a file, or all files of a folder, before its name is given away."""
    for file in _files(path):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def put(beside: Path, place: Path, passage: str) -> None:
    """Give a file that is written its final name, once the disk holds all of it. passage: the failpoint there."""
    sync(beside)
    failpoints.reach(passage)
    beside.rename(place)
    failpoints.reach(passage)


def _files(path: Path) -> list[Path]:
    return sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]


def _below(name: str, files: Mapping[str, Any], folder: Path) -> list[str]:
    found = [file for file in files if file == name or file.startswith(f"{name}/")]
    if not found:
        raise UnsafeFile(
            "is not vouched for by the manifest beside it", FIX, where=str(folder / name), code="E-MODEL-INCOMPLETE"
        )
    return found
