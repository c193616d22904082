"""`autofash report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autofash.cli.options import Json, Storage, StudyArgument, storage_url


def report(
    study: StudyArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page is to lie.", show_default="studies/STUDY/report.html"),
    ] = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Write all that is known of a study into one page, and the short of it here.

    **autofash report**

    Writes studies/STUDY/report.html: a single file that opens in any browser, without a network. Result, leaderboard, history,
    what mattered, mistakes, calibration, cost, and how to repeat it. What the test showed is there once `autofash best --export`
    has made a model. Reads the ledger and changes nothing; a search may be running.
    """
    from autofash.cli.terminal import console, plain, print_json
    from autofash.report import gather, write
    from autofash.report.terminal import draw
    from autofash.study import load_study

    found = load_study(study, storage_url(storage))
    facts = gather(found)
    page = output or found.folder / "report.html"
    write(facts, page)
    if json:
        print_json({"page": str(page), "facts": plain(facts)})
    else:
        draw(console, facts, page)
