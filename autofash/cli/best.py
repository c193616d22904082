"""`autofash best`."""

from __future__ import annotations

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
    seeds: Annotated[int | None, typer.Option(help="Of --confirm: over how many.", show_default="3")] = None,
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
    from autofash.cli.terminal import console, plain, print_json, say, shown
    from autofash.errors import AutofashError, UsageError
    from autofash.study import candidates, check_searched, confirmed, load_study, search_from

    asked = {"--formats": formats, "--ensemble": ensemble, "--tta": tta or None}
    flags = [flag if value is True else f"{flag} {value}" for flag, value in asked.items() if value is not None]
    if flags and not export:
        raise UsageError(f"{flags[0]} is of --export", f"--export {flags[0]}")
    if seeds is not None and confirm is None:
        raise UsageError(f"--seeds {seeds} is of --confirm", f"--confirm 3 --seeds {seeds}")
    wanted = _formats(formats)
    found = load_study(study, storage_url(storage))
    if export or confirm is not None or not found.imported:
        check_searched(found)
    if confirm is not None:
        _confirm(found, confirm, 3 if seeds is None else seeds, data_dir, silent=json)
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
        if found.imported:
            say(f"\n[dim]An imported study holds no models. Search from it:[/]  [bold]{shown(search_from(found))}[/]")
            return
        again = f" --trial {trial}" if trial is not None else ""
        say(f"\n[dim]Make the final model of it:[/]  [bold]autofash best {found.arguments} --export{again}[/]")
        return

    from autofash.export import check_exported, export_study_model
    from autofash.refitting import refit
    from autofash.report import attach_pictures

    if sure and trial is None and not json:
        print_confirmed(found, sure)
    with _progress(silent=json) as watch:
        # What is asked of this study, not sys.argv: a database's password would go into the ledger.
        named = [] if trial is None else [f"--trial {trial}"]
        command = " ".join(["autofash best", found.arguments, "--export", *named, *flags])
        fitted = refit(
            found,
            trial,
            ensemble=1 if ensemble is None else ensemble,
            tta=tta,
            data_dir=data_dir,
            command=command,
            watch=watch("epoch"),
        )
        exported = export_study_model(found, fitted.folder, wanted, data_dir=data_dir, watch=watch("format"))
    if json:
        print_json(
            {"study": found.name, "model": plain(fitted), "exports": plain(exported), "openings": found.openings}
        )
    else:
        print_fitted(found, fitted)
        print_exported(exported)
    if not (fitted.repeated and found.pictures):
        try:
            attach_pictures(found)
        except AutofashError as error:  # the model is there all the same
            print(f"autofash: warning[W-PICTURES]: the dashboard gets no pictures: {error}", file=sys.stderr)
    check_exported(exported)


def _formats(formats: str | None) -> list[str]:
    """The formats that were named, each of which exists and can be had, or UsageError before anything is trained."""
    from autofash.errors import UsageError
    from autofash.runtimes import FORMATS, check_format

    named = [name.strip() for name in (formats or "keras").split(",") if name.strip()]
    if not named:
        raise UsageError(f"--formats {formats!r} names no format", f"--formats {','.join(FORMATS)}")
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
    from autofash.study import extent, is_settled, verdict

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
    leader, (configs, seeds) = study.best(), extent(study)
    again = f"autofash best {study.arguments} --confirm {configs} --seeds {seeds}"
    say(f"[yellow]{verdict(study)}[/]" + ("\n" if is_settled(study) else f"  [bold]{again}[/]\n"))
    if leader.number not in {entry.record.number for entry in sure}:
        say(f"[yellow]trial {leader.number} leads the search by now, unconfirmed[/]  [bold]{again}[/]\n")


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
    ranked = [standing.number for standing in study.standings() if standing.ranks]
    remark = ""
    if fitted.folder.name.startswith("ensemble"):
        remark = "of its first member"
    elif ranked[0] == fitted.trial:
        remark = f"the best of {len(ranked)} in the search, so it flatters"
    say(f"validation      {percent(metrics['validation_accuracy'])}  [dim]{remark}[/]")
    drift = metrics["drift"]
    say("reloaded file   answers " + (f"within {drift:.1g} of the model" if drift else "exactly as the model does"))
    if len(study.openings) > 1:
        say(f"[yellow]the test set has been opened {len(study.openings)} times for this study[/]")
    say(f"\nthe model       [bold]{shown(fitted.model)}[/]  [dim]{metrics['parameters']:,.0f} parameters[/]")


def print_exported(exported: Sequence[Exported]) -> None:
    """Each format with its size, its speed and how it compares with the model."""
    from autofash.cli.terminal import console, say, table

    columns = ("format", "bytes>", "params>", "p50 ms>", "p99 ms>", "images/s>", "agree>", "drift>")
    made = table(*columns, title="\nproven by its own runtime")
    for record in exported:
        if record.failed:
            made.add_row(record.format, "[red]failed[/]")  # why is said on stderr
            continue
        made.add_row(
            record.format,
            f"{record.bytes:,}",
            f"{record.parameters:,}",
            f"{record.latency_p50_ms:.2f}",
            f"{record.latency_p99_ms:.2f}",
            f"{record.images_per_second:,.0f}",
            f"{100 * record.agreement:.2f} %",
            f"{record.largest_difference:.0e}" if record.largest_difference else "0",
        )
    console.print(made)
    images = max((record.images for record in exported), default=0)
    say(
        "[dim]p50, p99: latency of one image; images/s: in batches of 256; agree: same label; drift: largest difference of a "
        f"probability; over {images:,} validation images[/]"
    )
