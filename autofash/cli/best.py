"""`autofash best`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autofash.cli.options import DataDir, Json, Storage, StudyArgument, storage_url


def best(
    study: StudyArgument = None,
    export: Annotated[bool, typer.Option("--export", help="Train it on train + validation, test it once, save it.")] = False,
    trial: Annotated[int | None, typer.Option(metavar="N", help="Another trial than the best.", show_default=False)] = None,
    data_dir: DataDir = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Show a study's best trial; with --export, make the final model of it.

    **autofash best --export**

    Trains the best config on training and validation images together, opens the test set once (the ledger notes it), and saves
    studies/STUDY/best/model.keras with a manifest. The file is loaded again and compared before success is reported. A second
    --export finds the files intact, and opens nothing.
    """
    from autofash.cli import show
    from autofash.cli.terminal import console, percent, plain, print_json
    from autofash.study import load_study

    found = load_study(study, storage_url(storage))
    record = found.best() if trial is None else found.trial(trial)
    if not export:
        if json:
            print_json({"study": found.name, "trial": plain(record)})
        else:
            show.print_trial(console, found, record)
            console.print()
            console.print(f"[dim]Make the final model of it:[/]  [bold]autofash best {found.name} --export[/]" + (f" --trial {trial}" if trial is not None else ""))
        return

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from autofash.refitting import refit

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[steps]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=json or not sys.stdout.isatty()) as progress:
        shown = progress.add_task("reading the data", total=None, steps="")

        def watch(doing: str, done: int, total: int) -> None:
            progress.update(shown, description=doing, completed=done, total=total or None, steps=f"epoch {done} of {total}" if total else "")

        fitted = refit(found, trial, data_dir=data_dir, command="autofash best --export", watch=watch)
    metrics = fitted.metrics
    if json:
        print_json({"study": found.name, **{key: value for key, value in plain(fitted).items()}})  # type: ignore[attr-defined]
        return
    told = "was exported before and is intact; nothing was trained or opened" if fitted.repeated else "trained on train + validation, tested once, saved, reloaded and compared"
    console.print(f"[bold]{found.name}[/] trial {fitted.trial}: {told}")
    console.print(f"test accuracy    [bold green]{percent(metrics['test_accuracy'])}[/]  on {metrics['test_images']:,.0f} images never seen before")
    console.print(f"macro F1         {percent(metrics['test_macro_f1'])}")
    console.print(f"validation       {percent(metrics['validation_accuracy'])}  [dim]in the search, of the best of {len(found.leaderboard())} complete trials: expect it to flatter[/]")
    console.print(f"reloaded file    differs by at most {metrics['drift']:.1g} in any probability")
    if len(found.openings) > 1:
        console.print(f"[yellow]the test set has been opened {len(found.openings)} times for this study[/]")
    console.print(f"\nThe model:       [bold]{fitted.model}[/]  [dim]({metrics['parameters']:,.0f} parameters)[/]")
