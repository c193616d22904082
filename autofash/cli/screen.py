"""A search on the screen: live on a terminal, one line a trial elsewhere, and what it found at the end."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autofash.cli.terminal import brief, config_text, say, shown, sparkline, state_text, table
from autofash.errors import printable
from autofash.figures import duration, percent
from autofash.loop import (
    EngineAwaited,
    Listener,
    SearchBegan,
    SearchEnded,
    SearchEvent,
    TrialBegan,
    TrialEnded,
    TrialPaused,
    TrialReported,
)
from autofash.records import EpochReport, Started, State, TrialRecord
from autofash.request import Progress
from autofash.study import Study
from autofash.study.samplers import LEARN
from autofash.study.storage import is_confirmation

RECENT = 6  # finished trials on the screen
KILLED = "its process was killed"  # how the reason of such a trial begins


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told of a search: of its events, and of a download before it."""

    listeners: Sequence[Listener]
    progress: Progress | None = None


@contextmanager
def watching(console: Console, *, silent: bool = False) -> Iterator[Watching]:
    """Show a search on the screen: live on a terminal, one line a trial elsewhere; silent: warnings alone."""
    if silent:
        yield Watching([warn])
    elif sys.stdout.isatty() and console.is_terminal:
        with LiveScreen(console) as live:
            yield Watching([live], live.download)
    else:
        lines = PlainLines()
        yield Watching([lines], lines.download)


class LiveScreen:
    """A listener that draws the search as it goes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: SearchBegan | None = None
        self._since = time.monotonic()
        self._note = "reading the data"
        self._download: tuple[str, int, int] | None = None
        self._running: dict[int, TrialBegan] = {}
        self._curves: dict[int, list[EpochReport]] = {}
        self._recent: deque[TrialRecord] = deque(maxlen=RECENT)
        self._finished = self._at_start = 0
        self._paused: set[int] = set()
        self._best: TrialRecord | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._drawn, transient=True)

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def download(self, name: str, done: int, total: int) -> None:
        """Show how far a download is."""
        self._download = (name, done, total)

    def __call__(self, event: SearchEvent) -> None:
        """Take in an event."""
        match event:
            case SearchBegan():
                self._began, self._finished, self._at_start = event, event.finished, event.finished
                self._note = "starting Keras, about ten seconds"
                self._running.clear()  # of a search whose database was lost
                self._paused = {found.number for found in event.study.standings() if found.state is State.PAUSED}
                self._at_start += len(self._paused)
                ranked = event.study.leaderboard(1)
                self._best = ranked[0] if ranked else None
                for line in opening_lines(event):
                    self._console.print(line)
            case EngineAwaited():
                self._note = awaited(event)
            case TrialBegan():
                self._curves[event.trial] = list(event.reports)  # first: another thread draws what runs
                self._running[event.trial] = event
                self._paused.discard(event.trial)
            case Started():
                self._note = ""
            case TrialReported():
                self._curves[event.report.trial].append(event.report)
            case TrialPaused():
                del self._running[event.record.number]
                self._recent.append(event.record)
                self._paused.add(event.record.number)
            case TrialEnded():
                self._running.pop(event.record.number, None)  # one that was paused does not run
                self._paused.discard(event.record.number)
                self._recent.append(event.record)
                self._finished = event.finished
                better = self._best is None or (event.record.value or 0.0) > (self._best.value or 0.0)
                if event.record.state is State.COMPLETE and better:
                    self._best = event.record
            case SearchEnded():
                self._note = event.why

    def _drawn(self) -> RenderableType:
        if self._began is None and self._download is not None:
            return _download_row(*self._download)
        if self._began is None:
            return Text(f"⋯ {self._note}", style="dim")
        parts: list[RenderableType] = [self._head()]
        if self._note:
            parts.append(Text(f"⋯ {self._note}", style="dim"))
        if self._running:
            parts += [Text(), self._running_table()]
        if self._recent:
            parts += [Text(), self._recent_table()]
        return Padding(Group(*parts), (1, 0, 0, 0))

    def _head(self) -> RenderableType:
        assert self._began is not None
        total, elapsed = self._began.target, time.monotonic() - self._since
        tried = self._finished + len(self._paused)
        here = tried - self._at_start
        left = f"{duration(elapsed / here * (total - tried))} left" if here >= 2 and tried < total else ""
        paused = f", {len(self._paused)} of them paused" if self._paused else ""
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(
            Text.assemble((f"{tried} of {total} trials", "bold"), (paused, "dim")),
            ProgressBar(total=total, completed=tried, width=24),
            Text(duration(elapsed), style="dim"),
            Text(left, style="dim"),
        )
        best = Text("best so far  ", style="dim")
        if self._best is not None:
            best.append(percent(self._best.value), style="bold green")
            best.append(f"  trial {self._best.number}: {config_text(self._best.config, 6)}", style="dim")
        else:
            best.append("–")
        best.no_wrap, best.overflow = True, "ellipsis"
        return Group(row, best)

    def _running_table(self) -> Table:
        made = table("running>", "epoch>", "validation", ">", "config")
        for number, begun in sorted(dict(self._running).items()):
            reports = self._curves[number]
            made.add_row(
                str(number),
                f"{max((r.epoch for r in reports), default=0)}/{begun.epochs}",
                Text(sparkline([r.objective for r in reports]), style="cyan"),
                percent(max((r.objective for r in reports), default=None)),
                brief(config_text(begun.config, 8), "dim"),
            )
        return made

    def _recent_table(self) -> Table:
        made = table("ended>", "", "validation", ">", "time>", "")
        for record in reversed(list(self._recent)):
            made.add_row(
                str(record.number),
                state_text(record.state),
                Text(sparkline(record.curve), style="dim"),
                percent(record.value),
                duration(record.seconds),
                brief(record.why or config_text(record.config, 6), "dim"),
            )
        return made


class PlainLines:
    """A listener that prints one line for each finished trial, for logs and pipes."""

    def __init__(self) -> None:
        self._told = ""

    def download(self, name: str, done: int, total: int) -> None:
        """Say once that a file is being fetched."""
        if name != self._told:
            self._told = name
            print(f"fetching {name}" + (f" ({total / 1e6:.1f} MB)" if total else ""), flush=True)

    def __call__(self, event: SearchEvent) -> None:
        """Print what the event has to say, if anything."""
        match event:
            case SearchBegan():
                for line in opening_lines(event):
                    print(line.plain, flush=True)
            case EngineAwaited():
                print(awaited(event), flush=True)
            case TrialEnded(record=record) | TrialPaused(record=record):
                value = f" {percent(record.value)}" if record.value is not None else ""
                what = record.why or config_text(record.config)
                state = record.state if record.repeats is None else "given up"
                head = f"{event.finished}/{event.target}  trial {record.number} {state}{value}"
                print(printable(f"{head} in {duration(record.seconds)}: {what}"), flush=True)
            case SearchEnded():
                print(printable(f"{event.why} ({duration(event.seconds)})"), flush=True)
            case _:
                pass


def _download_row(name: str, done: int, total: int) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0))
    size = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    row.add_row(f"fetching {name}", ProgressBar(total=total or None, completed=done, width=24), Text(size, style="dim"))
    return row


def warn(event: SearchEvent) -> None:
    """A listener that prints nothing but warnings, on stderr: other data had to serve, a trial was killed, many failed."""
    if isinstance(event, SearchBegan) and event.settings.substituted:
        print(f"autofash: warning[W-DATA]: {substitution(event)}", file=sys.stderr)
    if isinstance(event, TrialEnded) and event.record.state is State.FAILED and event.record.why.startswith(KILLED):
        told = f"trial {event.record.number}: {printable(event.record.why)}"
        print(f"autofash: warning[W-WORKER-KILLED]: {told}", file=sys.stderr)
    if isinstance(event, SearchEnded) and event.failing:
        print(f"autofash: warning[W-FAILURES]: {printable(event.why)}", file=sys.stderr)


def awaited(event: EngineAwaited) -> str:
    """What is waited for, and why it takes its time."""
    return f"starting {event.engine}, which imports TensorFlow: about ten seconds"


def substitution(event: SearchBegan) -> str:
    """Which data set serves instead of which."""
    settings = event.settings
    return f"{settings.substituted} was not found and could not be fetched: searching on {settings.dataset} instead"


def opening_lines(event: SearchBegan) -> list[Text]:
    """What is searched, on which data and machine, and what is there already."""
    settings, prepared = event.settings, event.data
    height, width, channels = prepared.image_shape
    lines = []
    if settings.substituted:
        lines.append(Text(substitution(event), style="bold yellow"))
    lines.append(
        Text.assemble(
            (event.study.name, "bold"),
            f"  the leaders of {settings.space} on {prepared.dataset} again, over seeds"
            if is_confirmation(event.study.name)
            else f"  {settings.space} on {prepared.dataset}, by {settings.sampler} and {settings.pruner}",
        )
    )
    lines.append(
        Text(
            f"{prepared.train:,} training and {prepared.validation:,} validation images of {height} × {width} × {channels}, "
            f"{len(prepared.classes)} classes; {event.plan.why}",
            style="dim",
        )
    )
    if (learnt := event.study.warm_start) is not None:
        unknown = ", though on which data they ran is unknown" if learnt["imported"] else ""
        which = f"{learnt['fit']} of the {learnt['of']} trials of {learnt['study']}{unknown}"
        learns = "learning from" if settings.sampler in LEARN else f"{settings.sampler} does not learn from"
        fit = ", as far as they fit what the model asks for" if event.study.space.hypermodel else ""
        lines.append(Text(f"warm start: {learns} {which}{fit}; the best of them run here first", style="dim"))
    if event.finished or event.requeued:
        again = f", {event.requeued} interrupted ones queued again" if event.requeued else ""
        lines.append(Text(f"resuming: {event.finished} of {event.target} trials are finished{again}", style="dim"))
    return lines


def print_result(console: Console, study: Study, rows: int = 5) -> None:
    """The leaderboard, and what to type next."""
    ranked = study.leaderboard(rows)
    summary = study.summary()
    console.print()
    made = table("rank>", "trial>", "validation>", "epoch>", "time>", "curve", "config")
    for rank, record in enumerate(ranked, 1):
        made.add_row(
            str(rank),
            str(record.number),
            Text(percent(record.value), style="bold green" if rank == 1 else ""),
            str(record.best_epoch),
            duration(record.seconds),
            Text(sparkline(record.curve), style="cyan"),
            brief(config_text(record.config, 9)),
        )
    console.print(made)
    finished = summary.complete + summary.pruned
    failed = f", {summary.failed} failed" if summary.failed else ""
    counts = f"{summary.complete} complete, {summary.pruned} pruned{failed}"
    say(f"[dim]{finished} of {summary.trials} trials finished: {counts}[/]")
    arguments = shown(study.arguments)
    if finished >= summary.trials:
        say(f"\nNothing is left to do. Add trials: [bold]autofash search --study {arguments} --more 20[/]")
    else:
        say(f"\nGo on:            [bold]autofash search --study {arguments}[/]")
    say(f"Keep the best:    [bold]autofash best {arguments} --export[/]")
