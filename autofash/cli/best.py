"""`autofash best`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import DataDir, Json, Storage, StudyArgument, storage_url

if TYPE_CHECKING:
    from pathlib import Path

    from autofash.export import Exported
    from autofash.records import FittedModel
    from autofash.study import Confirmed, Study


def best(
    study: StudyArgument = None,
    export: Annotated[
        bool, typer.Option("--export", help="Train it on train + validation, test it once, save it.")
    ] = False,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Another trial than the best.", show_default=False)
    ] = None,
    confirm: Annotated[
        int | None, typer.Option(metavar="N", help="Run the N best configs again, over seeds.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of --confirm.")] = 3,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Of --export: keras, saved_model, litert, onnx, openvino.", show_default="keras"
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(metavar="K", help="Of --export: average the K best configs' models.", show_default=False),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Of --export: let the model average over mirror images.")] = False,
    data_dir: DataDir = None,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Show a study's best trial; confirm the leaders over seeds; make, test and export the final model.

    **autofash best --export**

    **autofash best --confirm 3 --seeds 3 --export --formats keras,onnx**

    Trains the best config on training and validation images together, opens the test set once (the ledger notes it), and saves
    studies/STUDY/best/model.keras with a manifest. Each format is loaded again by its own runtime and compared before success is
    reported. Killed, it goes on where it was; a second --export finds the files intact, and opens nothing. Once configs were
    confirmed, the best is the first of them.
    """
    from autofash.cli import show
    from autofash.cli.terminal import console, plain, print_json, say
    from autofash.errors import UsageError
    from autofash.study import candidates, confirmed, load_study

    if not export and (formats or ensemble or tta):
        given = "--formats" if formats else "--ensemble" if ensemble else "--tta"
        raise UsageError(f"{given} is of --export", f"autofash best --export {given}")
    wanted = _formats(formats)
    found = load_study(study, storage_url(storage))
    if confirm is not None:
        _confirm(found, confirm, seeds, data_dir, silent=json)
    sure = confirmed(found)
    if not export:
        found.best()  # raises NoTrial
        record = candidates(found)[0].record if trial is None else found.trial(trial)
        if json:
            print_json({"study": found.name, "trial": plain(record), "confirmed": plain(sure)})
            return
        if sure and trial is None:
            print_confirmed(found, sure)
        show.print_trial(console, found, record)
        again = f" --trial {trial}" if trial is not None else ""
        say(f"\n[dim]Make the final model of it:[/]  [bold]autofash best {found.arguments} --export{again}[/]")
        return

    from autofash.export import check_exported, export_study_model
    from autofash.refitting import refit
    from autofash.report import attach_pictures

    if sure and trial is None and not json:
        print_confirmed(found, sure)
    with _progress(silent=json) as watch:
        command = shlex.join(["autofash", *sys.argv[1:]])
        fitted = refit(
            found, trial, ensemble=ensemble or 1, tta=tta, data_dir=data_dir, command=command, watch=watch("epoch")
        )
        exported = export_study_model(found, fitted.folder, wanted, data_dir=data_dir, watch=watch("format"))
    if not fitted.repeated:
        attach_pictures(found)
    if json:
        print_json(
            {"study": found.name, "model": plain(fitted), "exports": plain(exported), "openings": found.openings}
        )
    else:
        print_fitted(found, fitted)
        print_exported(exported)
    check_exported(exported)


def _formats(formats: str | None) -> list[str]:
    """The formats that were named, each of which exists and can be had, or UsageError before anything is trained."""
    from autofash.runtimes import check_format

    named = [name.strip() for name in (formats or "keras").split(",") if name.strip()]
    return [check_format(name, to_write=True).name for name in named]


def _confirm(study: Study, top: int, seeds: int, data_dir: Path | None, *, silent: bool) -> None:
    from autofash.cli import screen
    from autofash.cli.terminal import console
    from autofash.confirming import confirm

    with screen.watching(console, silent=silent) as watching:
        confirm(
            study,
            top,
            seeds,
            data_dir=data_dir,
            listeners=watching.listeners,
            progress=watching.progress,
        )


@contextmanager
def _progress(*, silent: bool) -> Iterator[Callable[[str], Callable[[str, int, int], None]]]:
    """A bar on a terminal, that a step's watch, told in this unit, moves; elsewhere nothing."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from autofash.cli.terminal import console

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=silent or not sys.stdout.isatty()) as progress:
        shown = progress.add_task("reading the data", total=None, steps="")

        def watch(unit: str) -> Callable[[str, int, int], None]:
            def move(doing: str, done: int, total: int) -> None:
                steps = f"{unit} {done} of {total}" if total else ""
                progress.update(shown, description=doing, completed=done, total=total or None, steps=steps)

            return move

        yield watch


def print_confirmed(study: Study, sure: Sequence[Confirmed]) -> None:
    """The confirmed configs by the lower bound of their mean, and whether the leaders can be told apart."""
    from rich.text import Text

    from autofash.cli.terminal import brief, config_text, console, say, table
    from autofash.figures import percent

    made = table(
        "rank>",
        "trial>",
        "mean>",
        "95 % interval>",
        "seeds>",
        "in the search>",
        "config",
        title=f"{study.name}, confirmed",
    )
    for rank, entry in enumerate(sure, 1):
        few = len(entry.values) < 2
        made.add_row(
            str(rank),
            str(entry.record.number),
            Text(percent(entry.interval.value), style="bold green" if rank == 1 else ""),
            "–" if few else f"{100 * entry.interval.low:.2f} – {100 * entry.interval.high:.2f} %",
            str(len(entry.values)),
            percent(entry.record.value),
            brief(config_text(entry.record.config, 8), "dim"),
        )
    console.print(made)
    tied = [str(entry.record.number) for entry in sure[1:] if entry.tied]
    if tied:
        names = ", ".join(tied)
        say(
            f"[yellow]trial {sure[0].record.number} cannot be told apart from {names}[/] "
            "[dim](Welch's test, 5 %): take the cheaper, or add --seeds[/]\n"
        )
    elif len(sure) > 1:
        say(f"[dim]trial {sure[0].record.number} is better than the others (Welch's test, 5 %)[/]\n")


def print_fitted(study: Study, fitted: FittedModel) -> None:
    """What was made, how good it is, and where it lies."""
    from autofash.cli.terminal import say, shown
    from autofash.figures import percent
    from autofash.intervals import wilson

    metrics = fitted.metrics
    told = "trained on train + validation, tested once, saved, reloaded and compared"
    if fitted.repeated:
        told = "exported before and intact: nothing was trained or opened"
    if fitted.repaired:
        say(f"[yellow]{shown(fitted.repaired)} was missing or changed: the model was made anew[/]")
    what = fitted.folder.name if fitted.folder.name.startswith("ensemble") else f"trial {fitted.trial}"
    say(f"[bold]{study.name}[/] {what}, {told}\n")
    sure = wilson(metrics["test_accuracy"], int(metrics["test_images"]))
    say(
        f"test accuracy   [bold green]{percent(metrics['test_accuracy'])}[/]  "
        f"[dim]95 % interval {100 * sure.low:.2f} – {100 * sure.high:.2f} %, "
        f"on {metrics['test_images']:,.0f} held-out images[/]"
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


def print_exported(exported: Sequence[Exported]) -> None:
    """Each format with its size, its speed and how it compares with the model."""
    from autofash.cli.terminal import brief, console, say, table

    columns = (
        "format",
        "bytes>",
        "parameters>",
        "p50 ms>",
        "p99 ms>",
        "images/s>",
        "agreement>",
        "difference>",
        "file",
    )
    made = table(*columns, title="\nproven by its own runtime")
    for record in exported:
        if record.failed:
            made.add_row(record.format, *[""] * 7, brief(record.failed, "red"))
            continue
        made.add_row(
            record.format,
            f"{record.bytes:,}",
            f"{record.parameters:,}",
            f"{record.latency_p50_ms:.2f}",
            f"{record.latency_p99_ms:.2f}",
            f"{record.images_per_second:,.0f}",
            f"{100 * record.agreement:.2f} %",
            f"{record.largest_difference:.1g}",
            brief(record.path.name, "dim"),
        )
    console.print(made)
    images = max((record.images for record in exported), default=0)
    say(
        f"[dim]latency: one image; images/s: batches of 256; agreement and largest difference of a probability: "
        f"{images:,} validation images[/]"
    )
