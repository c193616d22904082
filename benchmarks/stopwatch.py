"""Runs a contestant against the clock: when it said what, what it used until then, and the end of all its processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.5


@dataclass
class Watched:
    """What was seen of a process and all that it started."""

    ended: str = ""  # "target", "cap", "its own end", or "failed: …"
    seconds: float = 0.0  # wall clock since its start
    cpu_seconds: float = 0.0  # of all its processes
    peak_bytes: int = 0  # memory of all its processes at once; pages that they share count once
    others: float = 0.0  # share of the machine's CPU time that went elsewhere, 0 to 1: how much it was disturbed
    trials: int = 0  # that began
    reports: list[dict[str, Any]] = field(default_factory=list)  # seconds, cpu_seconds, trial, epoch, value


class Family:
    """A process and all that it started: what they use, and their end."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process = process
        self._highest_resident = 0
        self.cpu_seconds, self.peak_bytes = 0.0, 0

    def sample(self) -> None:
        """Look at their CPU time and memory."""
        members, cpu, resident = self._members(), 0.0, 0
        for member in members:
            with contextlib.suppress(psutil.Error):
                cpu += sum(member.cpu_times()[:4])  # user and system, own and of children that have ended
                resident += member.memory_info().rss
        self.cpu_seconds = max(self.cpu_seconds, cpu)
        # Resident sets count a page that forked processes share once for each. To count it once takes 20 ms a process, so
        # that is done at new heights only.
        if resident > 1.02 * self._highest_resident:
            self._highest_resident = resident
            self.peak_bytes = max(self.peak_bytes, sum(_proportional_bytes(member) for member in members))

    def kill(self) -> None:
        """End them all, now."""
        members = self._members()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()
        psutil.wait_procs(members, timeout=10)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return [self._process]


def watch(
    command: Sequence[str], *, cap_seconds: float, target: float, folder: Path, environment: Mapping[str, str]
) -> Watched:
    """Run a contestant until a value reaches the target, until the cap, or to its own end; nothing of it is left running.

    command: says on stdout, a JSON line each, which trial began and what was validated, as `peers.tell` does.
    folder: where it runs, and where its stderr is kept.
    """
    watched, trials = Watched(), set()
    lines: queue.Queue[tuple[float, str]] = queue.Queue()  # when it came, and the line; an empty one at the end
    stderr = folder / "stderr.txt"
    began, busy = time.monotonic(), _busy_seconds()
    with stderr.open("w") as errors:
        process = psutil.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    family = Family(process)

    def listen() -> None:
        for line in itertools.chain(process.stdout, [""]):
            lines.put((time.monotonic() - began, line))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        while not watched.ended:
            family.sample()
            left = cap_seconds - (time.monotonic() - began)
            if left <= 0:
                watched.ended = "cap"
                break
            try:
                seconds, line = lines.get(timeout=min(SAMPLE_SECONDS, left))
            except queue.Empty:
                continue
            if not line:
                status = process.wait()
                watched.ended = f"failed: exit code {status}, {_last_line(stderr)}" if status else "its own end"
            elif told := _told(line):
                trials.add(told["trial"])
                if told["value"] is not None:
                    family.sample()
                    stamps = {"seconds": round(seconds, 2), "cpu_seconds": round(family.cpu_seconds, 2)}
                    watched.reports.append({**stamps, **told})
                    watched.ended = "target" if told["value"] >= target else ""
        family.sample()
        watched.seconds = round(min(time.monotonic() - began, cap_seconds), 2)
        elsewhere = _busy_seconds() - busy - family.cpu_seconds
        watched.others = round(max(0.0, elsewhere) / watched.seconds / (psutil.cpu_count() or 1), 3)
    finally:
        family.kill()
        listener.join(timeout=5)
        process.stdout.close()
    watched.cpu_seconds, watched.peak_bytes = round(family.cpu_seconds, 2), family.peak_bytes
    watched.trials = len(trials)
    return watched


def _told(line: str) -> dict[str, Any] | None:
    """What a contestant said; None where the line is something that it printed."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) and {"trial", "epoch", "value"} <= set(told) else None


def _proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process, each shared page divided by those that share it, where the system tells (Linux)."""
    try:
        told = process.memory_full_info()
        return int(getattr(told, "pss", told.rss))
    except psutil.Error:
        return 0


def _busy_seconds() -> float:
    """CPU time of the whole machine since its start, idling and waiting left out."""
    told = psutil.cpu_times()
    return float(sum(getattr(told, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _last_line(path: Path) -> str:
    return next((line.strip() for line in reversed(path.read_text(errors="replace").splitlines()) if line.strip()), "")
