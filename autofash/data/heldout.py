"""The test set, behind its own door: only `autofash.refit_tasks` may come in, and the ledger notes each time."""

from __future__ import annotations

from pathlib import Path

from autofash.data.cache import checked
from autofash.data.sources import Images, source


def open_test(dataset: str, folder: Path) -> Images:
    """The test images of a built-in data set whose verified files lie in the folder. Raises DataCorrupt."""
    wanted = source(dataset)
    return checked(*wanted.test(folder), wanted.classes, where=f"{dataset}'s test set")
