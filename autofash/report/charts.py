"""The report's charts: matplotlib's SVG, drawn in stand-in colours that become the page's own, so that they follow its light
and its dark, and in the page's font. Each is about 400 pixels wide, which a telephone shows whole.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from autofash.errors import printable
from autofash.figures import duration, percent, value_text
from autofash.records import Value
from autofash.report.facts import CURVES, Axis, Facts, Leader, Line, Point
from autofash.report.tested import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2  # inches, of 96 pixels on a page
MOST_POINTS = 1000  # of a kind in one chart; beyond, every second, third … is drawn
MOST_LINES = 150
LONG_NAME = 16  # letters that have room beside an axis
# Stand-ins: matplotlib wants real colours, the page has variables.
INK, MUTED, RULE, ACCENT, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
SHADES = ("#060601", "#060602", "#060603", "#060604", "#060605")  # from the faintest to the accent
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    ACCENT: "accent",
    PAPER: "paper",
    **{shade: f"shade-{number}" for number, shade in enumerate(SHADES, 1)},
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture and what it shows."""

    title: str  # the finding, in words
    svg: str
    note: str = ""  # how to read it


def history(points: Sequence[Point]) -> Chart:
    """Every finished trial's value by number, and the best so far."""
    best = [point for point in points if point.best is not None]
    leader = next(point for point in best if point.value == best[-1].best and point.complete)
    later = sum(point.trial > leader.trial for point in points)
    return _over_time(
        "history",
        f"None of {later} later trials passed trial {leader.trial}"
        if later
        else f"The last trial, {leader.trial}, is the best",
        points,
        {point.trial: float(point.trial) for point in points},
        "trial",
    )


def clock(points: Sequence[Point]) -> Chart | None:
    """The same over the time that was searched; None where the ledger has no times."""
    timed = [point for point in points if point.elapsed is not None]
    complete = [point for point in timed if point.complete]
    if not complete:
        return None
    total = max(point.elapsed or 0.0 for point in timed)
    leader = max(complete, key=lambda point: (point.value, -(point.elapsed or 0.0)))
    unit, name = next(
        (size, word)
        for size, word in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
        if total >= 2 * size or size == 1
    )
    return _over_time(
        "clock",
        f"The best config was there after {duration(leader.elapsed)} of {duration(total)}",
        sorted(timed, key=lambda point: point.elapsed or 0.0),
        {point.trial: (point.elapsed or 0.0) / unit for point in timed},
        f"{name} of searching",
    )


def parallel(axes: Sequence[Axis], lines: Sequence[Line]) -> Chart | None:
    """Configs as lines across the parameters, from the top to the bottom; None where no parameter varied."""
    complete = sorted((line for line in lines if line.complete), key=lambda line: (line.value, -line.trial))
    if not axes or not complete:
        return None
    rows = range(len(axes))
    figure = _figure(0.46 * len(axes))
    axis = figure.add_axes((0.3, 0, 0.68, 1))
    axis.set_axis_off()
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(len(axes) - 0.45, -0.45)
    for row, found in zip(rows, axes, strict=True):
        axis.plot([0, 1], [row, row], color=RULE, linewidth=1, zorder=1)
        _text(axis, -0.43, row, found.name, size=9, color=INK, va="center", transform=axis.get_yaxis_transform())
        for place, label in _labels(found):
            side = "left" if place < 0.01 else "right" if place > 0.99 else "center"
            _text(axis, place, row + 0.13, label, size=8, color=MUTED, va="top", ha=side)
            axis.plot([place, place], [row - 0.04, row + 0.04], color=RULE, linewidth=1, zorder=1)

    def draw(line: Line, **look: Any) -> None:
        # A parameter that a config has not leaves a gap in its line.
        places = [_place(found, line.config.get(found.name)) for found in axes]
        axis.plot([math.nan if place is None else place for place in places], list(rows), **look)

    for line in _thinned([line for line in lines if not line.complete], MOST_LINES):
        draw(line, color=RULE, linewidth=0.6, zorder=2)
    shown = complete[-MOST_LINES:]
    for rank, line in enumerate(shown):
        shade = SHADES[min(len(SHADES) - 1, rank * len(SHADES) // len(shown))]
        best = rank == len(shown) - 1
        draw(
            line,
            color=ACCENT if best else shade,
            linewidth=2.2 if best else 0.9,
            zorder=3,
            marker="o",
            markersize=4 if best else 1.5,
        )
    title = f"The best config, trial {complete[-1].trial}, among {len(lines)}"
    note = "Each line is a config; the stronger its colour, the better. Grey: pruned. A gap: the config has no such parameter."
    return Chart(title, _svg(figure, "parallel", f"{title}. {note}"), note)


def curves(leaders: Sequence[Leader], objective: str) -> Chart:
    """Learning curves of the first trials of the leaderboard."""
    figure = _figure(2.6)
    axis = _axes(figure)
    low = min(min(leader.curve) for leader in leaders)
    high = max(max(leader.curve) for leader in leaders)
    most = max(len(leader.curve) for leader in leaders)
    gap = (high - low or 0.01) / 11
    ends: list[float] = []
    for leader in sorted(leaders, key=lambda leader: -leader.curve[-1]):
        ends.append(min(leader.curve[-1], ends[-1] - gap) if ends else leader.curve[-1])
        first = leader.rank == 1
        axis.plot(
            range(1, len(leader.curve) + 1),
            leader.curve,
            color=ACCENT if first else SHADES[2],
            linewidth=2.2 if first else 1,
            marker="o",
            markersize=3.5 if first else 2,
            zorder=3 if first else 2,
        )
        axis.annotate(
            f"trial {leader.trial}",
            (len(leader.curve), leader.curve[-1]),
            (most + 0.08 * most, ends[-1]),
            annotation_clip=False,
            va="center",
            size=8.5,
            color=ACCENT if first else MUTED,
            fontweight="bold" if first else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": RULE,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )
    axis.set_xlim(1 - 0.05 * most, most + 0.05 * most)
    axis.set_ylim(min(low, ends[-1]) - gap, high + gap)
    axis.set_position((0.14, axis.get_position().y0, 0.65, axis.get_position().height))
    _number_ticks(axis, whole=True)
    _percent_ticks(axis)
    _below(axis, "epoch")
    leader = leaders[0]
    late = (
        "its last epoch"
        if leader.best_epoch == len(leader.curve)
        else f"epoch {leader.best_epoch} of {len(leader.curve)}"
    )
    title = f"Trial {leader.trial} reaches {percent(max(leader.curve))} in {late}"
    note = f"Validation {objective.replace('_', ' ')} after each epoch."
    return Chart(title, _svg(figure, "curves", f"{title}. {note}"), note)


def reliability(found: Calibration, accuracy: float) -> Chart:
    """How often the model is right, by how sure it is, and how many images are that sure."""
    from matplotlib.gridspec import GridSpec

    figure = _figure(3.8)
    grid = GridSpec(2, 1, figure, height_ratios=(3.2, 1), hspace=0.12, left=0.15, right=0.97, top=0.97, bottom=0.12)
    above, below = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    filled = [part for part in found.bins if part.images]
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    for part in filled:
        confidence, right = part.confidence or 0.0, part.accuracy or 0.0
        above.plot(
            [confidence] * 2, [confidence, right], color=SHADES[2], linewidth=3.5, zorder=2, solid_capstyle="butt"
        )
        above.plot([confidence], [right], "o", color=ACCENT, markersize=4.5, zorder=3)
    above.set_ylim(-0.03, 1.03)
    _text(above, 0.03, 0.97, "right", size=8.5, color=MUTED, va="top", transform=above.transAxes)
    _text(above, 0.97, 0.06, "dashed: as sure as right", size=8, color=MUTED, ha="right", transform=above.transAxes)
    width = 1 / len(found.bins)
    below.bar(
        [part.low + width / 2 for part in filled], [part.images for part in filled], 0.82 * width, color=SHADES[2]
    )
    most = max(part.images for part in filled)
    for part in filled:
        label = f"{part.images:,}" if part.images < 10_000 else f"{part.images / 1000:.0f}k"
        _text(below, part.low + width / 2, part.images + 0.06 * most, label, size=7.5, color=MUTED, ha="center")
    below.set_ylim(0, 1.25 * most)
    below.set_yticks([])
    free = 0.03 if max(filled, key=lambda part: part.images).low >= 0.5 else 0.85  # beside the tallest bar
    _text(below, free, 0.95, "images", size=8.5, color=MUTED, va="top", transform=below.transAxes)
    places, labels = [0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20", "40", "60", "80", "100 %"]
    above.set_yticks(places, labels)
    above.set_xticks(places, [""] * len(places))
    below.set_xticks(places, labels)
    for axis in (above, below):
        axis.set_xlim(-0.02, 1.02)
    _below(below, "how sure")
    off = found.confidence - accuracy
    way = "surer than it is right" if off > 0 else "more often right than it is sure"
    title = f"By {100 * abs(off):.1f} points {way}" if abs(off) >= 0.005 else "As sure as it is right, on the whole"
    return Chart(title, _svg(figure, "reliability", f"{title}; expected calibration error {percent(found.error)}"))


def charts(facts: Facts) -> dict[str, Chart]:
    """Every chart that the facts give rise to, by name."""
    import matplotlib

    with matplotlib.rc_context(_look()):
        found = {
            "history": history(facts.history),
            "clock": clock(facts.history),
            "parallel": parallel(facts.axes, facts.lines),
            "curves": curves(facts.leaders[:CURVES], facts.objective),
        }
        if facts.tested is not None:
            found["reliability"] = reliability(facts.tested.calibration, facts.tested.accuracy.value)
    return {name: chart for name, chart in found.items() if chart is not None}


def _over_time(name: str, title: str, points: Sequence[Point], places: Mapping[int, float], along: str) -> Chart:
    figure = _figure(2.6)
    axis = _axes(figure)
    complete = [point for point in points if point.complete]
    pruned = [point for point in points if not point.complete]
    best, steps = 0.0, []
    for point in complete:
        best = max(best, point.value)
        steps.append((places[point.trial], best))
    steps.append((max(places.values()), best))
    values = [point.value for point in complete]
    # The complete trials set the scale; what was pruned far below stands at the lower edge.
    span = max(max(values) - min(values), 0.01)
    low, high = min(values) - 0.45 * span, max(values) + 0.12 * span
    floor = low + 0.04 * (high - low)
    shown = _thinned(pruned, MOST_POINTS)
    axis.plot(
        [places[p.trial] for p in shown if p.value >= low],
        [p.value for p in shown if p.value >= low],
        "o",
        color=RULE,
        markersize=3,
        zorder=2,
    )
    axis.plot(
        [places[p.trial] for p in shown if p.value < low],
        [floor for p in shown if p.value < low],
        "v",
        color=RULE,
        markersize=3,
        zorder=2,
    )
    thin = _thinned(complete, MOST_POINTS)
    axis.plot([places[p.trial] for p in thin], [p.value for p in thin], "o", color=ACCENT, markersize=3.6, zorder=4)
    axis.step([x for x, _ in steps], [y for _, y in steps], where="post", color=INK, linewidth=1.1, zorder=3)
    axis.set_ylim(low, high)
    longest = max(places.values()) or 1.0
    axis.set_xlim(-0.03 * longest, 1.03 * longest)
    _number_ticks(axis, whole=along == "trial")
    _percent_ticks(axis)
    _below(axis, along)
    fallen = sum(point.value < low for point in pruned)
    note = "Dots: complete trials. Line: the best so far."
    if pruned:
        note += " Grey: pruned" + (f"; ▾ further below ({fallen})." if fallen else ".")
    return Chart(title, _svg(figure, name, f"{title}. {note}"), note)


def _labels(axis: Axis) -> list[tuple[float, str]]:
    """Place, 0 to 1, and text of what stands below an axis."""
    if not axis.values:
        return [(0.0, value_text(axis.low)), (1.0, value_text(axis.high))]
    most = 7  # labels that have room
    shown = axis.values if len(axis.values) <= most else (axis.values[0], axis.values[-1])
    return [(_place(axis, value) or 0.0, printable(value_text(value))[:14]) for value in shown]


def _place(axis: Axis, value: Value | None) -> float | None:
    """Where a value lies on its axis, 0 to 1; None where the config has none."""
    if value is None:
        return None
    if axis.values:
        return axis.values.index(value) / max(1, len(axis.values) - 1) if value in axis.values else None
    low, high, number = float(axis.low or 0.0), float(axis.high or 0.0), float(value)
    if high == low:
        return 0.5
    if axis.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low)


def _thinned(points: Sequence[Any], most: int) -> Sequence[Any]:
    return points[:: len(points) // most + 1]


def _figure(height: float) -> Figure:
    """A figure this many inches high, without pyplot and its global state."""
    from matplotlib.figure import Figure

    return Figure((WIDTH, height))


def _axes(figure: Figure) -> Axes:
    """The only axes of a figure, with room for labels at the left and below."""
    height = float(figure.get_figheight())
    return figure.add_axes((0.14, 0.44 / height, 0.83, 1 - 0.52 / height))


def _text(axis: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """Text over everything else; a long name on two lines."""
    lines = printable(text).replace("_", "_\n", 1) if len(text) > LONG_NAME and " " not in text else printable(text)
    axis.text(x, y, lines, zorder=5, **look)


def _percent_ticks(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axis.grid(axis="y", color=RULE, linewidth=0.5)


def _number_ticks(axis: Axes, *, whole: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(6, integer=whole, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _below(axis: Axes, text: str) -> None:
    """What an axis counts, at its right end under the ticks."""
    axis.annotate(
        text,
        (1, 0),
        (0, -19),
        xycoords="axes fraction",
        textcoords="offset points",
        size=8.5,
        color=MUTED,
        ha="right",
        va="top",
    )


def _look() -> Any:
    """Matplotlib's settings for every chart."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a dollar sign in a name begins no formula
        "font.family": "DejaVu Sans",  # wider than the page's own, so that what fits here fits there
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
    }


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG for the inside of a page: ids of its own, the page's colours and font, and its finding as a label."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', drawn)
    assert box is not None
    drawn = drawn[drawn.index(">") + 1 :]
    drawn = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", drawn, count=1, flags=re.DOTALL
    )  # the page's own rules serve
    drawn = re.sub(r"font-family: [^;\"]+;? ?", "", drawn)
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", drawn)
    for colour, variable in VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" role="img" aria-label="{escape(printable(label))}">'
        + drawn
    )
