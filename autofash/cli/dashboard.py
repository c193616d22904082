"""`autofash dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from autofash.cli.options import Storage, StudyArgument, storage_url


def dashboard(
    study: StudyArgument = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes one that is free.", min=0, max=65535)] = 8080,
    storage: Storage = None,
) -> None:
    """Open Optuna dashboard on the studies, until Ctrl-C.

    **autofash dashboard**

    It shows a copy of the ledger, renewed while it is looked at: nothing that is clicked there changes a study, and a running
    search is not slowed. Only this machine can reach it.
    """
    from autofash.cli.terminal import console
    from autofash.study import load_study
    from autofash.study.dashboard import Dashboard

    url = storage_url(storage)
    found = load_study(study, url)
    running = Dashboard(url, found.name, port)
    console.print(f"[bold]{running.address}[/]  [dim]Ctrl-C ends it[/]")
    try:
        running.serve()
    except KeyboardInterrupt:
        console.print()
