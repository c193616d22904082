"""The race's results as a section of RESULTS.md and a picture; race.py writes both at its end."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sections import put_section

TARGETS = (0.90, 0.915, 0.925)  # validation accuracy; the last ends a run
LOWEST = 0.86  # of the picture
NOISE = 0.05  # share of the processor's time that others may take before a run is called disturbed
NAMES = {
    "autofash": "autofash",
    "autofash-no-starters": "autofash, no starters",
    "optuna": "Optuna",
    "kt-hyperband": "KerasTuner Hyperband",
    "kt-bayesian": "KerasTuner Bayesian",
    "kt-random": "KerasTuner random",
    "autokeras": "AutoKeras, its own space",
}
OURS, PEERS = ("autofash", "autofash-no-starters"), ("optuna", "kt-hyperband")
SPACES = {
    "race": "A textbook space, benchmarks/race.toml",
    "cnn": "autofash's own space, search_spaces/cnn.toml",
}
LINES = {  # colours that colour-blind people tell apart (Okabe & Ito 2008)
    "kt-bayesian": ("#CC79A7", (0, (1, 1.5))),
    "kt-random": ("#999999", (0, (1, 1.5))),
    "autokeras": ("#009E73", (0, (6, 2, 1, 2))),
    "kt-hyperband": ("#E69F00", "-"),
    "optuna": ("#D55E00", (0, (6, 2))),
    "autofash-no-starters": ("#56B4E9", (0, (6, 2))),
    "autofash": ("#0072B2", "-"),
}
ABOUT = """\
Which search finds a good Fashion-MNIST classifier first? All search the same space over the same split (50,000 training and
10,000 validation images), build the same models with the same builder, and train a trial for 12 epochs at most; AutoKeras alone
has a space of its own. They run one after the other, turn about, each with the whole machine. The clock begins with the
process, imports included, and a run ends at a validation accuracy of 0.925. The peers (`benchmarks/peers.py`) are written as
their documentation teaches, and run as TensorFlow and Keras come; autofash runs as it is shipped: what
it validates is the average of a trial's latest weights, and its trials have oneDNN switched on. TensorFlow leaves that off on
CPUs with AVX2 alone, where it trains up to three times as fast (docs/LOG.md): there a part of the ratios is that one setting,
TF_ENABLE_ONEDNN_OPTS=1, which a user of the others can make too.
"""
FASTER = """\
How many times as fast, the peer's seconds divided by ours: the middle of the seeds, then each seed. `>`: the peer was not there
at its end; `<`: ours was not; –: neither was, and the seed is left out of the middle.
"""
Result = dict[str, Any]


def reached(result: Result, target: float, clock: str = "seconds") -> float:
    """Seconds until the target; infinity where it was not reached. clock: seconds or cpu_seconds."""
    return next((report[clock] for report in result["reports"] if report["value"] >= target), math.inf)


def best(result: Result) -> float:
    """The best validation accuracy; 0 before the first."""
    return max((report["value"] for report in result["reports"]), default=0.0)


def failed(result: Result) -> bool:
    """Whether the contestant broke down; such a run counts nowhere, and is run again."""
    return result["ended"].startswith("failed")


def line(result: Result) -> str:
    """A run in one line."""
    times = [f"{target:.3f} {_seconds(reached(result, target), result['minutes'])}" for target in TARGETS]
    rest = f"best {_accuracy(best(result))}, trials {result['trials']}, {_gibibytes(result['peak_bytes'])}"
    quiet = "" if result["others"] < NOISE else f"; others took {result['others']:.0%} of the machine"
    return f"{', '.join(times)}; {rest}; ended by {result['ended']} at {result['seconds']:.0f} s{quiet}"


def ratio(ours: Result, peer: Result, target: float) -> tuple[float, str]:
    """How many times as fast ours was, and a mark.

    ">": the peer was not there at its end, so that it is at least that; "<": ours was not; "–": neither was.
    """
    mine, theirs = reached(ours, target), reached(peer, target)
    if math.isinf(mine):
        return (0.0, "–") if math.isinf(theirs) else (theirs / (60 * ours["minutes"]), "<")
    return (60 * peer["minutes"] / mine, ">") if math.isinf(theirs) else (theirs / mine, "")


def ratios(ours: Sequence[Result], peers: Sequence[Result], target: float) -> str:
    """The middle of the seeds' ratios, and each of them."""
    pairs = [(one, two) for one in ours for two in peers if one["seed"] == two["seed"]]
    found = [ratio(one, two, target) for one, two in pairs]
    # In the order of what is certain: "at least" stands at its bound, "at most" may be anything below.
    ranked = sorted((one for one in found if one[1] != "–"), key=lambda one: (one[1] != "<", one[0]))
    if not ranked:
        return "–"
    lower = ranked[: (len(ranked) + 1) // 2]
    value, mark = lower[-1]
    middle = _times(value, ">" if any(other == ">" for _, other in lower) else mark)
    return middle if len(found) == 1 else f"**{middle}** ({', '.join(_times(*one) for one in found)})"


def write(results: Path, page: Path) -> None:
    """Write the race's section of the page, and its picture beside it; other sections are kept."""
    groups = [load(folder) for folder in sorted(results.iterdir()) if folder.is_dir()] if results.is_dir() else []
    groups = sorted((group for group in groups if group), key=len, reverse=True)
    if groups:
        draw(_whole(groups[0]), page.parent / "race.png")
    put_section(page, "race", "\n".join(_section(groups)))


def load(folder: Path) -> list[Result]:
    """The results of one machine."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def draw(group: Sequence[Result], path: Path) -> None:
    """Best so far against seconds, a panel for each space: the middle of the seeds bold, each seed thin, a dot where it ended."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    spaces = [space for space in SPACES if any(run["space"] == space for run in group)]
    figure, panels = pyplot.subplots(
        1, len(spaces), figsize=(max(7.5, 5.5 * len(spaces)), 4.8), sharey=True, squeeze=False, layout="constrained"
    )
    drawn = {}
    for panel, space in zip(panels[0], spaces, strict=True):
        for name, (colour, style) in LINES.items():
            runs = [run for run in group if (run["space"], run["contestant"]) == (space, name)]
            if not any(run["reports"] for run in runs):
                continue
            for run in runs:
                times, values = _steps([run])
                panel.plot(
                    times, values, color=colour, linestyle=style, linewidth=0.8, alpha=0.45, drawstyle="steps-post"
                )
                if run["ended"] == "target":
                    panel.plot(times[-1], values[-1], "o", color=colour, markersize=4)
            times, values = _steps(runs)
            width = 2.4 if len(runs) > 1 else 1.6
            (drawn[NAMES[name]],) = panel.plot(
                times, values, color=colour, linestyle=style, linewidth=width, drawstyle="steps-post"
            )
        cap = 60 * max(run["minutes"] for run in group)
        panel.set(xlim=(0, cap), ylim=(LOWEST, 0.935), xlabel="seconds since the process began")
        panel.set_title(SPACES[space], fontsize=10)
        panel.set_xticks([cap * part / 5 for part in range(6)])
        panel.set_yticks([LOWEST, 0.88, *TARGETS], [f"{value:.3f}" for value in (LOWEST, 0.88, *TARGETS)])
        for target in TARGETS:
            panel.axhline(target, color="0.85", linewidth=0.8, zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("best validation accuracy so far")
    shown = {name: drawn[name] for name in NAMES.values() if name in drawn}
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=2 + len(spaces), frameon=False, handlelength=3.5
    )
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _steps(runs: Sequence[Result]) -> tuple[list[float], list[float]]:
    """When the middle of these runs' bests changes, and to what; a run that has ended stays where it was."""
    times = sorted(
        {report["seconds"] for run in runs for report in run["reports"]} | {max(run["seconds"] for run in runs)}
    )
    so_far = [
        [max((report["value"] for report in run["reports"] if report["seconds"] <= time), default=0.0) for run in runs]
        for time in times
    ]
    middles = [(time, statistics.median_low(values)) for time, values in zip(times, so_far, strict=True)]
    begun = [(time, value) for time, value in middles if value > 0] or middles[-1:]
    return [time for time, _ in begun], [value for _, value in begun]


def _section(groups: Sequence[Sequence[Result]]) -> Iterator[str]:
    yield "## The race\n"
    if not groups:
        yield "No run yet: `make race`."
        return
    yield ABOUT
    yield "![Best validation accuracy so far against seconds](race.png)\n"
    for number, group in enumerate(groups):
        yield from _machine(group, pictured=number == 0)


def _machine(group: Sequence[Result], *, pictured: bool) -> Iterator[str]:
    first = group[0]
    yield f"### {first['machine']}, {first['minutes']:g} min each{'' if pictured else ' (not in the picture)'}\n"
    versions = {**first["versions"], "Python": first["python"]}
    dates = sorted({result["date"] for result in group})
    told = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    yield f"{told}.\nCommit {_commits(group)}; {span}; command: `make race`, heat by heat."
    yield f"Other programs took {max(run['others'] for run in group):.0%} of the processor's time at most.\n"
    for space, title in SPACES.items():
        runs = [run for run in _whole(group) if run["space"] == space]
        raced = {name: [run for run in runs if run["contestant"] == name] for name in NAMES}
        if runs:
            yield f"#### {title}\n"
            yield from _table(raced)
            yield from _ratios(raced)
    for run in group:
        which = _heat(run)
        if failed(run):
            yield f"Not counted: {which}, {run['ended']}.\n"
        elif run["others"] >= NOISE:
            yield f"Disturbed: {which}; others took {run['others']:.0%}.\n"


def _commits(group: Sequence[Result]) -> str:
    """The commit of most heats, and which heats were run at another."""
    (usual, _), *others = Counter(run["commit"] for run in group).most_common()
    heats = {commit: " and ".join(_heat(run) for run in group if run["commit"] == commit) for commit, _ in others}
    return "; ".join([usual, *(f"{commit} for {heats[commit]}" for commit in heats)])


def _whole(group: Sequence[Result]) -> list[Result]:
    return [run for run in group if not failed(run)]


def _table(raced: dict[str, list[Result]]) -> Iterator[str]:
    """A row for each contestant."""
    yield "Seconds to a validation accuracy, wall clock / CPU of all processes; the middle of the seeds.\n"
    targets = " | ".join(f"to {target:.3f}" for target in TARGETS)
    yield f"| contestant | seeds | {targets} | best found | trials begun | peak memory |"
    yield "|---|---|" + "---|" * (len(TARGETS) + 3)
    for name, runs in raced.items():
        if runs:
            cells = [_both(runs, target) for target in TARGETS]
            found = _middle(runs, best)
            trials, peak = _middle(runs, lambda run: run["trials"]), max(run["peak_bytes"] for run in runs)
            row = [NAMES[name], str(len(runs)), *cells, _accuracy(found), f"{trials:g}", _gibibytes(peak)]
            yield f"| {' | '.join(row)} |"
    yield ""


def _ratios(raced: dict[str, list[Result]]) -> Iterator[str]:
    """How many times as fast, against the peers that run over all seeds."""
    if not any(raced[one] and raced[two] for one in OURS for two in PEERS):
        return
    yield FASTER
    yield f"| | {' | '.join(f'to {target:.3f}' for target in TARGETS)} |"
    yield "|---|" + "---|" * len(TARGETS)
    for one in OURS:
        for two in PEERS:
            if raced[one] and raced[two]:
                cells = [ratios(raced[one], raced[two], target) for target in TARGETS]
                yield f"| {NAMES[one]} : {NAMES[two]} | {' | '.join(cells)} |"
    yield ""


def _both(runs: Sequence[Result], target: float) -> str:
    wall, cpu = (
        _middle(runs, lambda run, clock=clock: reached(run, target, clock)) for clock in ("seconds", "cpu_seconds")
    )
    return f"not in {runs[0]['minutes']:g} min" if math.isinf(wall) else f"{wall:.0f} / {cpu:.0f}"


def _middle(runs: Sequence[Result], figure: Callable[[Result], float]) -> float:
    """The middle; of two, the larger: the one that flatters nobody's seconds."""
    return statistics.median_high(figure(run) for run in runs)


def _times(value: float, mark: str) -> str:
    return mark if mark == "–" else f"{mark and mark + ' '}{value:.1f}×"


def _seconds(seconds: float, minutes: float) -> str:
    return f"not in {minutes:g} min" if math.isinf(seconds) else f"at {seconds:.0f} s"


def _accuracy(value: float) -> str:
    return f"{value:.4f}" if value else "–"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _heat(run: Result) -> str:
    return f"{NAMES[run['contestant']]} on {run['space']}, seed {run['seed']}"
