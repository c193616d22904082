"""`autofash studies`."""

from __future__ import annotations

from typing import Annotated

import typer

from autofash.cli.options import Json, Storage, storage_url


def studies(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring a file of an older Optuna up to date; it is backed up first.")
    ] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """List the studies, the one last updated first.

    **autofash studies**
    """
    from autofash.cli.terminal import ago, console, plain, print_json, say, shown, table
    from autofash.figures import percent
    from autofash.study import list_studies
    from autofash.study.storage import upgrade as upgraded

    if upgrade:
        kept = upgraded(storage_url(storage))
        told = f"The tables are up to date now; the file as it was: {kept}" if kept else "The tables are up to date."
        if not json:
            say(shown(told))
    found = list_studies(storage_url(storage))
    if json:
        print_json(plain(found))
        return
    if not found:
        console.print("There is no study yet. Begin with: [bold]autofash search --trials 50[/]")
        return
    made = table("study", "data", "space", "finished>", "failed>", "best>", "updated")
    for summary in found:
        made.add_row(
            summary.name,
            summary.dataset,
            shown(summary.space),
            f"{summary.complete + summary.pruned} of {summary.trials}",
            str(summary.failed),
            percent(summary.best),
            ago(summary.updated),
        )
    console.print(made)
