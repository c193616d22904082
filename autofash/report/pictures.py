"""The confusion matrix and the learning curves as PNG files, for Optuna dashboard, which shows no page of ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autofash.errors import printable
from autofash.figures import percent
from autofash.report.facts import Leader, gather
from autofash.report.tested import Tested
from autofash.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCENT, FAINT, INK = "#0f6b52", "#b9c4c0", "#1c2321"
MOST_CLASSES = 30  # whose counts can still be read


def attach_pictures(study: Study) -> None:
    """Attach both to the study, in place of earlier ones. Raises NoTrial, UnsafeFile, LedgerError."""
    facts = gather(study)
    figures = {"learning-curves.png": _curves(facts.leaders, facts.objective)}
    if facts.tested is not None and len(facts.tested.classes) <= MOST_CLASSES:
        figures["confusion-matrix.png"] = _confusion(facts.tested)
    with tempfile.TemporaryDirectory(prefix="autofash-") as folder:
        for name, figure in figures.items():
            figure.savefig(Path(folder) / name, dpi=150)
            study.attach(Path(folder) / name)


def _curves(leaders: tuple[Leader, ...], objective: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((7, 4), layout="constrained")
    axis = figure.add_subplot()
    for leader in reversed(leaders):
        best = leader.rank == 1
        axis.plot(
            range(1, len(leader.curve) + 1),
            [100 * value for value in leader.curve],
            color=ACCENT if best else FAINT,
            linewidth=2.2 if best else 1.2,
            marker="o",
            markersize=3,
            label=f"trial {leader.trial}",
        )
    axis.set(xlabel="epoch", ylabel=f"validation {objective.replace('_', ' ')}, %")
    axis.set_title(f"Trial {leaders[0].trial} leads with {percent(leaders[0].value)}", loc="left", color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], frameon=False, fontsize="small")
    return figure


def _confusion(model: Tested) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    names = [printable(scored.name).replace("$", r"\$") for scored in model.classes]
    counts = model.confusion
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    figure = Figure((8, 7), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(shares, cmap=LinearSegmentedColormap.from_list("house", ["#ffffff", ACCENT]), vmin=0, vmax=1)
    for row, found in enumerate(counts):
        for column, count in enumerate(found):
            if count:
                light = shares[row][column] > 0.5
                axis.text(column, row, f"{count:,}", ha="center", va="center", size=7, color="white" if light else INK)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="taken for", ylabel="truth")
    axis.set_title(
        f"{percent(model.accuracy.value)} of {model.images:,} test images right ({model.name})", loc="left", color=INK
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure
