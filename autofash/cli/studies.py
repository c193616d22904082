"""`autofash studies`."""

from __future__ import annotations

from autofash.cli.options import Json, Storage, storage_url


def studies(storage: Storage = None, json: Json = False) -> None:
    """List the studies, the one last updated first.

    **autofash studies**
    """
    from autofash.cli.terminal import ago, console, plain, print_json, shown, table
    from autofash.figures import percent
    from autofash.study import list_studies

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
