"""`autofash show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import Json, Storage, StudyArgument, storage_url

ROWS = 100  # of a larger study; to lay out ten thousand takes ten seconds

HINTS = 5  # that are shown beside a study's own trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from autofash.records import TrialRecord
    from autofash.study import Study


def show(
    study: StudyArgument = None,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="One trial, with its config and curve.", show_default=False)
    ] = None,
    all_trials: Annotated[
        bool, typer.Option("--all", help=f"Every trial of a study that has more than {ROWS}.", show_default=False)
    ] = False,
    storage: Storage = None,
    json: Json = False,
) -> None:
    """Show a study's trials, or one of them.

    **autofash show**

    **autofash show fashion_mnist-cnn --trial 7**

    Reads the ledger and changes nothing; a search may be running.
    """
    from autofash.cli.terminal import console, plain, print_json
    from autofash.study import load_study

    found = load_study(study, storage_url(storage))
    if trial is not None:
        record = found.trial(trial)
        print_json({"study": found.name, "trial": plain(record)}) if json else print_trial(console, found, record)
    elif json:
        print_json(
            {
                "study": plain(found.summary()),
                "settings": plain(found.settings),
                "openings": found.openings,
                "runs": found.runs,
                "trials": plain(found.trials()),
                "hints": plain(found.hints),
            }
        )
    else:
        print_study(console, found, None if all_trials else ROWS)


def print_study(console: Console, study: Study, most: int | None) -> None:
    """What the study is, and its trials, at most this many, the best first."""
    from rich.text import Text

    from autofash.cli.terminal import brief, config_text, say, shown, sparkline, state_text, table
    from autofash.figures import duration, percent
    from autofash.study.imports import source_of

    standings, settings = study.standings(), study.settings
    summary = study.summary(standings)
    how = f"{shown(settings.space)} on {settings.dataset}, by {settings.sampler} and {settings.pruner}, seed {settings.seed}"
    if study.imported:
        how = f"imported from {shown(source_of(study))}, searched there by {settings.sampler} on {settings.dataset}"
    say(f"[bold]{study.name}[/]  {how}")
    paused = f", {summary.paused} paused" if summary.paused else ""
    counts = f"{summary.complete} complete, {summary.pruned} pruned{paused}, {summary.failed} failed"
    finished = summary.complete + summary.pruned
    opened = len(study.openings)
    say(
        f"[dim]{finished} of {summary.trials} trials finished: {counts}; test set opened {opened} time{'s' * (opened != 1)}[/]\n"
    )
    made = table("trial>", "", "validation>", "curve", "epochs>", "time>", "config, or why it ended")
    for place, record in enumerate(study.trials_of([standing.number for standing in standings[:most]])):
        before = f"continues {record.continues}: " if record.continues is not None else ""
        best = place == 0 and standings[0].ranks
        made.add_row(
            str(record.number),
            state_text(record.state),
            Text(percent(record.value), style="bold green" if best else ""),
            Text(sparkline(record.curve), style="cyan"),
            str(len(record.curve)),
            duration(record.seconds) if record.seconds else "–",
            brief(record.why or before + config_text(record.config, 8), "dim"),
        )
    console.print(made)
    left = len(standings) - made.row_count
    if left:
        say(f"\n[dim]and {left:,} more:[/] [bold]autofash show {shown(study.arguments)} --all[/]")
    hints = study.hints
    if hints:
        print_hints(console, hints)


def print_hints(console: Console, hints: Sequence[TrialRecord]) -> None:
    """What the sampler was told of another study's trials, apart from the study's own."""
    from rich.text import Text

    from autofash.cli.terminal import brief, config_text, sparkline, table
    from autofash.figures import percent

    more = f", the best {HINTS} of {len(hints)}" if len(hints) > HINTS else ""
    made = table("there>", "validation>", "curve", "config", title=f"\nlearnt from another study, not run here{more}")
    for hint in hints[:HINTS]:
        config = brief(config_text(hint.config, 8), "dim")
        made.add_row(str(hint.number), percent(hint.value), Text(sparkline(hint.curve), style="cyan"), config)
    console.print(made)


def print_trial(console: Console, study: Study, record: TrialRecord) -> None:
    """One trial: rank, config, curve."""
    from rich.columns import Columns

    from autofash.cli.terminal import say, shown, table
    from autofash.figures import duration, percent, value_text

    ranked = [standing.number for standing in study.standings() if standing.ranks]
    place = (
        f"rank {ranked.index(record.number) + 1} of {len(ranked)} complete"
        if record.number in ranked
        else f"{record.state}: {shown(record.why)}"
        if record.why
        else str(record.state)
    )
    goes_on = f"continues trial {record.continues}"
    origin = record.origin if record.continues is None or record.origin == goes_on else f"{record.origin}, {goes_on}"
    time = duration(record.seconds or None)
    console.print(f"[bold]{study.name}[/] trial {record.number}, {place}, {origin}, {time}")
    console.print(
        f"validation {study.settings.objective.replace('_', ' ')}  [bold green]{percent(record.value)}[/]"
        + (f"  in epoch {record.best_epoch}" if record.best_epoch else "")
        + _interval(study, record)
        + "\n"
    )
    config = table("parameter", "value>")
    for name, value in record.config.items():
        config.add_row(name, value_text(value))
    curve = table("epoch>", "validation>", "loss>", "training>", "time>")
    looks = [record.early, *record.reports] if record.early else record.reports
    for report in looks:
        curve.add_row(
            str(report.epoch) if report.epoch else "early",
            percent(report.objective),
            f"{report.loss:.4f}",
            percent(report.train_accuracy),
            duration(report.seconds),
        )
    console.print(Columns([config, curve] if looks else [config], padding=(0, 4)))
    log = study.folder / "trials" / str(record.number) / "log.txt"
    if log.exists():
        say(f"\n[dim]log: {shown(log)}[/]")


def _interval(study: Study, record: TrialRecord) -> str:
    """The interval of a trial's accuracy, where the study is ranked by accuracy and knows how many images it was measured on."""
    from autofash.intervals import wilson

    images = study.validation_images
    if images is None or record.value is None or not record.best_epoch or study.settings.objective != "accuracy":
        return ""
    sure = wilson(record.value, images)
    return f"  [dim]95 % interval {100 * sure.low:.2f} – {100 * sure.high:.2f} %, on {images:,} images[/]"
