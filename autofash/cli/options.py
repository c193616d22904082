"""Options that several commands share, so that they are spelled and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MORE = "More settings"

StudyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]", help="Name of the study; the one last updated when left out.", show_default=False
    ),
]
Storage = Annotated[
    str | None, typer.Option(help="Database URL of the studies.", show_default="sqlite:///studies/studies.db")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data set's files (also AUTOFASH_DATA_DIR).", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def storage_url(chosen: str | None) -> str:
    """The chosen database, or the default one."""
    from autofash.study.storage import DEFAULT_STORAGE

    return chosen or DEFAULT_STORAGE
