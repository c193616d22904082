"""`autofash best`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import DataDir, Json, Storage, StudyArgument, storage_url

if TYPE_CHECKING:
    from autofash.records import FittedModel
    from autofash.study import Study


def best(
    study: StudyArgument = None,
    export: Annotated[
        bool, typer.Option("--export", help="Train it on train + validation, test it once, save it.")
    ] = False,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Another trial than the best.", show_default=False)
    ] = None,
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
    from autofash.cli.terminal import console, plain, print_json, say
    from autofash.study import load_study

    found = load_study(study, storage_url(storage))
    record = found.best() if trial is None else found.trial(trial)
    if not export:
        if json:
            print_json({"study": found.name, "trial": plain(record)})
        else:
            show.print_trial(console, found, record)
            again = f" --trial {trial}" if trial is not None else ""
            say(f"\n[dim]Make the final model of it:[/]  [bold]autofash best {found.name} --export{again}[/]")
        return

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from autofash.refitting import refit

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=json or not sys.stdout.isatty()) as progress:
        shown = progress.add_task("reading the data", total=None, steps="")

        def watch(doing: str, done: int, total: int) -> None:
            progress.update(
                shown,
                description=doing,
                completed=done,
                total=total or None,
                steps=f"epoch {done} of {total}" if total else "",
            )

        fitted = refit(found, trial, data_dir=data_dir, command="autofash best --export", watch=watch)
    if json:
        print_json({"study": found.name, "model": plain(fitted), "openings": found.openings})
    else:
        print_fitted(found, fitted)


def print_fitted(study: Study, fitted: FittedModel) -> None:
    """What was made, how good it is, and where it lies."""
    from autofash.cli.terminal import percent, say, shown

    metrics = fitted.metrics
    told = "trained on train + validation, tested once, saved, reloaded and compared"
    if fitted.repeated:
        told = "exported before and intact: nothing was trained or opened"
    say(f"[bold]{study.name}[/] trial {fitted.trial}, {told}\n")
    say(
        f"test accuracy   [bold green]{percent(metrics['test_accuracy'])}[/]  on {metrics['test_images']:,.0f} held-out images"
    )
    say(f"test macro F1   {percent(metrics['test_macro_f1'])}")
    complete = len(study.leaderboard())
    say(
        f"validation      {percent(metrics['validation_accuracy'])}  [dim]the best of {complete} in the search, so it flatters[/]"
    )
    drift = metrics["drift"]
    say("reloaded file   answers " + (f"within {drift:.1g} of the model" if drift else "exactly as the model does"))
    if len(study.openings) > 1:
        say(f"[yellow]the test set has been opened {len(study.openings)} times for this study[/]")
    say(f"\nthe model       [bold]{shown(fitted.model)}[/]  [dim]{metrics['parameters']:,.0f} parameters[/]")
