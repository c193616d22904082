"""`autofash report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autofash.cli.options import Json, Storage, StudyArgument, storage_url

if TYPE_CHECKING:
    from autofash.report import Facts

LEADERS = 5
PAIRS = 5
TELLING = 3  # parameters beside each trial


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
    from autofash.cli.terminal import plain, print_json
    from autofash.report import gather, write
    from autofash.study import load_study

    found = load_study(study, storage_url(storage))
    facts = gather(found)
    page = output or found.folder / "report.html"
    write(facts, page)
    if json:
        print_json({"page": str(page), "facts": plain(facts)})
    else:
        print_report(facts, page)


def print_report(facts: Facts, page: Path) -> None:
    """The facts in short: the result, who leads, what is confused with what, and where the page lies that holds them all."""
    from rich.text import Text

    from autofash.cli.terminal import brief, console, say, shown, table
    from autofash.figures import duration, percent, value_text

    model = facts.tested
    say(f"[bold]{shown(facts.result)}[/]")
    for caveat in facts.caveats:
        say(f"[dim]{shown(caveat)}[/]")

    console.print()
    telling = facts.telling[:TELLING]
    made = table("rank>", "trial>", "validation>", "95 % interval>", "epoch>", "time>", "what tells most")
    for leader in facts.leaders[:LEADERS]:
        low, high = leader.accuracy.low, leader.accuracy.high
        made.add_row(
            str(leader.rank),
            str(leader.trial),
            Text(percent(leader.value), style="bold green" if leader.rank == 1 else ""),
            f"{100 * low:.1f}–{100 * high:.1f}",
            str(leader.best_epoch),
            duration(leader.seconds or None),
            brief(", ".join(f"{name} {value_text(leader.config.get(name))}" for name in telling)),
        )
    console.print(made)

    if model is not None:
        console.print()
        made = table("class", "precision>", "recall>", "F1>", "images>")
        for score in model.classes:
            figures = [percent(score.precision), percent(score.recall), percent(score.f1)]
            made.add_row(brief(score.name), *figures, f"{score.support:,}")
        console.print(made)
        if model.pairs:
            console.print()
            made = table("truth", "taken for", "images>", "of the truth's>")
            for pair in model.pairs[:PAIRS]:
                made.add_row(brief(pair.truth), brief(pair.taken_for), str(pair.images), percent(pair.share))
            console.print(made)
    else:
        say(f"\n{'Search from it' if facts.imported else 'Test it'}:  [bold]{shown(facts.export_command)}[/]")

    console.print()
    cost = facts.cost
    saved = f"; pruning saved about {duration(cost.saved_seconds)}" if cost.saved_epochs else ""
    if not facts.imported:
        say(f"[dim]{duration(cost.trial_seconds)} of trials{saved}[/]")
    say(f"\nthe report  [bold]{shown(page)}[/]")
