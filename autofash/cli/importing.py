"""`autofash import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autofash.cli.options import Json, Storage, storage_url

MOST_LINES = 20  # about files that were passed over


def import_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="KerasTuner's, with oracle.json in it.", show_default=False)
    ],
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study.", show_default="the folder's")
    ] = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Turn a folder of KerasTuner's into a study, to look at and to search from.

    **autofash import my_dir/my_project --study old**

    `show`, `report` and `dashboard` work on it then, and **autofash search --warm-start old** begins where it ended. Models are
    not imported. The folder is only read; import it again, while KerasTuner writes it or later, and what is new is added.
    """
    import sys

    from autofash.cli.terminal import plain, print_json, say, shown
    from autofash.errors import printable
    from autofash.importing import import_keras_tuner
    from autofash.study import search_from

    done = import_keras_tuner(folder, study, storage_url(storage))
    for line in done.strange[:MOST_LINES]:
        print(f"autofash: warning[W-IMPORT]: {printable(f'{folder}: {line}')}", file=sys.stderr)
    passed = len(done.strange)
    if passed:
        more = f", the first {MOST_LINES} of which are named" if passed > MOST_LINES else ""
        told = f"{passed} file{'s were' if passed > 1 else ' was'} passed over{more}"
        print(f"autofash: warning[W-IMPORT]: {told}", file=sys.stderr)
    if json:
        facts = {**{key: plain(getattr(done, key)) for key in done.__slots__ if key != "study"}}
        print_json({"study": plain(done.study.summary()), **facts})
        return
    counts = [f"{done.added} trials imported"]
    counts += [f"{done.failed} of them failed there"] if done.failed else []
    counts += [f"{done.known} were there already"] if done.known else []
    counts += [f"{done.unfinished} have not ended: import them later"] if done.unfinished else []
    say(f"[bold]{done.study.name}[/]  {', '.join(counts)}")
    for remark in done.remarks:
        say(f"[yellow]{shown(remark)}[/]")
    arguments = shown(done.study.arguments)
    say(f"\nLook at it:      [bold]autofash show {arguments}[/]")
    say(f"Search from it:  [bold]{shown(search_from(done.study))}[/]")
