"""The report on a terminal: the result, who leads, what is confused with what, and where the page lies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autofash.errors import printable
from autofash.report.facts import Facts, duration, percent, value_text

LEADERS = 5
PAIRS = 5
TELLING = 3  # parameters beside each trial


def draw(console: Console, facts: Facts, page: Path) -> None:
    """Print the facts in short.

    page: the file that holds them all.
    """

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))

    model = facts.tested
    say(facts.result, "bold")
    for caveat in facts.caveats:
        say(caveat, "dim")

    console.print()
    telling = facts.telling[:TELLING]
    made = _table("rank>", "trial>", "validation>", "95 % interval>", "epoch>", "time>", "what tells most")
    for leader in facts.leaders[:LEADERS]:
        low, high = leader.accuracy.low, leader.accuracy.high
        made.add_row(
            str(leader.rank),
            str(leader.trial),
            Text(percent(leader.value), style="bold green" if leader.rank == 1 else ""),
            f"{100 * low:.1f}–{100 * high:.1f}",
            str(leader.best_epoch),
            duration(leader.seconds),
            _plain(", ".join(f"{name} {value_text(leader.config.get(name))}" for name in telling)),
        )
    console.print(made)

    if model is not None:
        console.print()
        made = _table("class", "precision>", "recall>", "F1>", "images>")
        for score in model.classes:
            figures = [percent(score.precision), percent(score.recall), percent(score.f1)]
            made.add_row(_plain(score.name), *figures, f"{score.support:,}")
        console.print(made)
        if model.pairs:
            console.print()
            made = _table("truth", "taken for", "images>", "of the truth's>")
            for pair in model.pairs[:PAIRS]:
                made.add_row(_plain(pair.truth), _plain(pair.taken_for), str(pair.images), percent(pair.share))
            console.print(made)
    else:
        console.print(f"\nTest it:  [bold]{escape(printable(facts.export_command))}[/]", soft_wrap=True)

    console.print()
    cost = facts.cost
    saved = f"; pruning saved about {duration(cost.saved_seconds)}" if cost.saved_epochs else ""
    say(f"{duration(cost.trial_seconds)} of trials{saved}", "dim")
    console.print(f"\nthe report  [bold]{escape(printable(str(page)))}[/]", soft_wrap=True)


def _table(*columns: str) -> Table:
    """An empty table; a column whose name ends in > is set flush right. Where it is too wide, words give way, not figures."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        figures = name.endswith(">")
        made.add_column(name.removesuffix(">"), justify="right" if figures else "left", no_wrap=figures)
    return made


def _plain(text: str) -> Text:
    """What a file or a user wrote, cut short where it does not fit; no markup in it counts."""
    return Text(printable(text), overflow="ellipsis", no_wrap=True)
