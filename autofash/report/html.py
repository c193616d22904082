"""The report as one page: a file that opens from a disk, with no script, no network and nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from autofash.errors import ResourceError, printable
from autofash.figures import duration, percent, value_text
from autofash.report.facts import Facts

if TYPE_CHECKING:
    from autofash.report.tested import Tested

TEMPLATE = Path(__file__).with_name("page.html.j2")
MOST_CLASSES = 20  # in the confusion tables: those with the most mistakes, where there are more
TELLING = 4  # parameters beside each trial of the leaderboard
EXPORT_COLUMNS = {  # of the manifest's figures, in this order, where a format has them
    "bytes": "size",
    "parameters": "parameters",
    "latency_p50_ms": "median latency",
    "latency_p99_ms": "99th percentile",
    "images_per_second": "images a second",
    "agreement": "same answers",
    "largest_difference": "largest difference",
}


def page(facts: Facts) -> str:
    """The page of these facts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from autofash.report.charts import charts

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, duration=duration, value=value_text, date=_date, figure=_figure)
    drawn = charts(facts)
    return environment.get_template(TEMPLATE.name).render(
        facts=facts,
        tested=facts.tested,
        charts=drawn,
        svg={name: Markup(chart.svg) for name, chart in drawn.items()},
        confusion=_confusion(facts.tested) if facts.tested else None,
        export_columns=_export_columns(facts.tested.exports) if facts.tested else {},
        telling=facts.telling[:TELLING],
        scale=_scale(facts),
    )


def write(facts: Facts, path: Path) -> None:
    """Write the page beside its place, and rename: whoever reads meanwhile sees the old one, whole. Raises ResourceError."""
    text = page(facts)
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise ResourceError(
            f"the report cannot be written: {error.strerror}", "--output FILE", where=str(path), code="E-REPORT"
        ) from None


def _shown(value: object) -> object:
    """Text as the page shows it: no control character, and a figure on one line with its unit."""
    return printable(value).replace(" %", "\u00a0%") if type(value) is str else value


def _date(moment: str) -> str:
    """An ISO date and time as 21 November 2026, 14:05; as it is where it is none."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{found.day} {found:%B %Y, %H:%M}"


def _figure(value: object, name: str) -> str:
    """A figure of an export, by its name in the manifest."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    match name:
        case "bytes":
            return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"
        case "agreement":
            return percent(value)
        case "latency_p50_ms" | "latency_p99_ms":
            return f"{value:.2f} ms"
        case "largest_difference":
            return f"{value:.1g}"
    return f"{value:,.0f}"


def _export_columns(exports: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Figures that at least one format has, known ones first, and their headings."""
    there = dict.fromkeys(name for figures in exports.values() for name in figures)
    known = {name: heading for name, heading in EXPORT_COLUMNS.items() if name in there}
    return known


def _scale(facts: Facts) -> dict[str, float]:
    """From and width of the scale that the leaderboard's intervals are drawn on, fractions."""
    low = min(leader.accuracy.low for leader in facts.leaders)
    high = max(leader.accuracy.high for leader in facts.leaders)
    return {"low": low, "width": max(high - low, 1e-9)}


def _confusion(model: Tested) -> dict[str, object]:
    """Rows for the confusion tables: names, counts, shares of the truth, and how strongly each cell is coloured, 0 to 1."""
    chosen: Sequence[int] = range(len(model.classes))
    if len(chosen) > MOST_CLASSES:
        errors = [sum(row) - row[place] for place, row in enumerate(model.confusion)]
        chosen = sorted(sorted(chosen, key=lambda place: -errors[place])[:MOST_CLASSES])
    sizes = [max(1, sum(row)) for row in model.confusion]
    wrong = [model.confusion[i][j] / sizes[i] for i in chosen for j in chosen if i != j]
    most = max(wrong, default=0.0) or 1.0
    rows = [
        {
            "name": model.classes[i].name,
            "cells": [
                {
                    "images": model.confusion[i][j],
                    "share": model.confusion[i][j] / sizes[i],
                    # By the root, because most mistakes are few and would be white beside the most frequent.
                    "strength": 0.0 if i == j else (model.confusion[i][j] / sizes[i] / most) ** 0.5,
                    "right": i == j,
                    "title": f"{model.classes[i].name} taken for {model.classes[j].name}",
                }
                for j in chosen
            ],
        }
        for i in chosen
    ]
    return {"names": [model.classes[i].name for i in chosen], "rows": rows, "all": len(model.classes)}
