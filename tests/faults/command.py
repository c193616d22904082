"""`autofash` itself, whose trials are the stand-ins of `tests.fakes`, as fast as it can be started again and again.

`python -m tests.faults.command search --trials 6 …` is one such command; AUTOFASH_FAKE names what trials do. `Commands` starts
many, each a process of its own, forked from one that has imported everything: a second of imports would be most of what a test
of many kills takes.

A command prints what it tells of its trials as JSON, a line each; of a study that it takes up, also what is wrong with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER: list[Path] = []  # of the study that this command searches
ROOT = Path(__file__).parents[2]
TASKS = {
    "run_trial": "learn",
    "fit_task": "fit",
    "assemble_task": "assemble",
    "test_task": "open_the_test_set",
    "export_task": "export",
}


class Command:
    """A command that runs, or has run."""

    def __init__(self, pid: int, commands: Commands, out: Path, error: Path) -> None:
        self.pid, self._commands, self._out, self._error = pid, commands, out, error

    @property
    def code(self) -> int | None:
        """Its exit code, below 0 for the signal that it died of; None while it runs."""
        return self._commands.code(self.pid)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while (code := self.code) is None:
            assert time.monotonic() < deadline, f"it runs still after {seconds:g} s: {self.said}"
            time.sleep(0.005)
        return code

    def kill(self) -> int:
        """Kill it, wherever it is, and return its exit code."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it has told of its trials so far; what it was killed in the midst of telling is not told."""
        *lines, _ = self._out.read_text().split("\n")
        return [json.loads(line) for line in lines if line.startswith('{"event"')]

    @property
    def ended(self) -> list[dict[str, Any]]:
        """The trials whose end it has told of, in this order."""
        return [told["record"] for told in self.told if told["event"] == "TrialEnded"]

    @property
    def said(self) -> str:
        """What it has printed on stderr so far."""
        return self._error.read_text()


class Commands:
    """Starts commands; to be closed."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.command", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},  # for the trials' processes, wherever they work
        )
        self._codes: dict[int, int] = {}
        self._pids: list[int] = []
        self._started = 0
        self._rest = b""

    def start(self, *arguments: str, here: Path, **environment: str) -> Command:
        """Run `autofash` with these arguments in a folder; environment: what is set besides."""
        self._started += 1
        out, error = (here / f".command-{self._started}.{kind}" for kind in ("out", "err"))
        for file in (out, error):
            file.touch()
        assert self._server.stdin is not None
        order = {"arguments": arguments, "here": str(here), "set": environment, "out": str(out), "error": str(error)}
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        while not self._pids:
            self._hear(120.0)
        return Command(self._pids.pop(), self, out, error)

    def run(self, *arguments: str, here: Path, **environment: str) -> Command:
        """The same, once it has ended."""
        command = self.start(*arguments, here=here, **environment)
        command.wait()
        return command

    def code(self, pid: int) -> int | None:
        """The exit code of a command, once it has ended."""
        self._hear(0)
        return self._codes.get(pid)

    def close(self) -> None:
        """End the process that they are forked from."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _hear(self, seconds: float) -> None:
        assert self._server.stdout is not None
        said = (
            select.poll()
        )  # select() knows no descriptor above 1,023, and a process that has run a suite may have them
        said.register(self._server.stdout, select.POLLIN)
        while said.poll(1000 * seconds):
            block = os.read(self._server.stdout.fileno(), 2**16)
            assert block, "the process that commands are forked from is gone"
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                pid, _, code = line.partition(b" ")
                if code:
                    self._codes[int(pid)] = int(code)
                else:
                    self._pids.append(int(pid))
            seconds = 0


def serve() -> None:
    """Fork a process for each order that comes in, and say how it ends; return in that process, which is to carry it out."""
    from autofash import cli, confirming, export, loop, refitting  # noqa: F401
    from autofash.cli import screen, show, terminal  # noqa: F401
    from autofash.study.storage import open_storage

    with tempfile.TemporaryDirectory() as folder:  # imports what Optuna imports no sooner
        open_storage(f"sqlite:///{folder}/studies.db", write=True).engine.dispose()
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap()
        if 0 not in ready:
            continue
        block = os.read(0, 2**16)
        if not block:
            sys.exit()
        *orders, rest = (rest + block).split(b"\n")
        for order in map(json.loads, orders):
            child = os.fork()
            if child:
                os.write(1, b"%d\n" % child)
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(woken)
            os.close(wakes)
            os.chdir(order["here"])
            os.environ.update(order["set"])
            tempfile.tempdir = None  # which it has looked up for the process it was forked from
            files = ((os.devnull, os.O_RDONLY), (order["out"], os.O_WRONLY), (order["error"], os.O_WRONLY))
            for number, (path, mode) in enumerate(files):
                opened = os.open(path, mode | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(opened, number)
                os.close(opened)
            sys.argv = ["autofash", *order["arguments"]]
            return


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        os.write(1, b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def command() -> None:
    """`autofash`, as `sys.argv` says; its trials' processes run stand-ins."""
    from autofash import cli, export, loop, refitting
    from autofash.executors import ProcessExecutor
    from autofash.records import TrialSpec

    class StandIns(ProcessExecutor):
        def __init__(self, preload: str = "", log: Path | None = None, **more: Any) -> None:
            super().__init__("tests.fakes", log, **more)

        def submit(self, spec: TrialSpec) -> None:
            super().submit(replace(spec, task=f"tests.fakes:{tasks[spec.task.partition(':')[2]]}"))

    search, tasks = loop.search, {**TASKS, "run_trial": os.environ.get("AUTOFASH_FAKE", TASKS["run_trial"])}

    def told_of(request: Any, listeners: Sequence[Any] = (), **settings: Any) -> Any:
        return search(request, [*listeners, _tell], **settings)

    loop.ProcessExecutor = refitting.ProcessExecutor = export.ProcessExecutor = StandIns
    loop.search = told_of
    undrawn = ModuleType("autofash.report")  # pictures for the dashboard take longer than all else here
    undrawn.attach_pictures = lambda study: None
    sys.modules["autofash.report"] = undrawn
    print("READY", flush=True)
    cli.main()


def _tell(event: Any) -> None:
    from tests.faults.invariant import broken, checkpoints, told

    facts: dict[str, Any] = {"event": type(event).__name__}
    match facts["event"]:
        case "SearchBegan":
            facts["study"] = event.study.name
            facts["finished"] = event.finished
            FOLDER.append(event.study.folder)
            if event.study.storage.startswith("sqlite"):
                facts["broken"] = broken(event.study.storage, event.study.name, workers=(), searching=True)
        case "TrialEnded":
            facts["record"] = told(event.record)
        case "TrialPaused":
            facts["trial"] = event.record.number
            # A trial that is lost with its server after it was told to pause has none, and trains anew by itself.
            facts["kept"] = bool(checkpoints(FOLDER[-1] / "trials" / str(event.record.number) / "checkpoint"))
        case "TrialBegan":
            facts["trial"] = event.trial
        case "Started":
            facts |= {"trial": event.trial, "pid": event.pid}
        case "SearchEnded":
            facts["why"] = event.why
        case _:
            return
    print(json.dumps(facts), flush=True)


def last_told(commands: Sequence[Command]) -> tuple[list[Mapping[str, Any]], set[int]]:
    """Of all that commands have told, one after another: which trials have ended, and which are paused with a checkpoint."""
    ended: list[Mapping[str, Any]] = []
    paused: set[int] = set()
    for told in (told for command in commands for told in command.told):
        match told["event"]:
            case "TrialPaused":
                paused |= {told["trial"]} if told["kept"] else set()
            case "TrialBegan":
                paused.discard(told["trial"])
            case "TrialEnded":
                ended.append(told["record"])
                paused.discard(told["record"]["number"])
    return ended, paused


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    command()
