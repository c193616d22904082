"""Trials in processes of their own, forked from a server that has Keras loaded: a crash costs one trial, a leak dies with it."""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from autofash.errors import ResourceError, cannot_write
from autofash.executors.channel import ORDER, SCRATCH, Channel, Message
from autofash.executors.protocol import Event
from autofash.records import Ending, Outcome, Said, Started, TrialSpec, Verdict

CLOSING_SECONDS = 5.0
MOST_RESTARTS = 3  # of the server, without a trial that ended well in between
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL, for a trial that is given up
SAID = {kind.__name__: kind for kind in get_args(Said)}
LONGEST_LOOK = 2.0  # seconds that pass between two looks at the trials, unless this process was stopped itself


@dataclass(slots=True)
class _Running:
    order: int  # of this submission: a trial may be submitted again
    channel: Channel
    submitted: float  # monotonic
    pid: int = 0  # once it has started
    silent: float = 0.0  # seconds since its last word or the last answer to it, as far as this process was awake
    given_up: signal.Signals | None = None  # what it was last sent for its silence


class ProcessExecutor:
    """Runs each trial in a fresh process.

    preload: module that the server imports once; its trials find it loaded.
    log: file for what the server itself prints.
    patience_seconds: a trial that says nothing for so long hangs: it is ended, and fails; None: however long it takes.
    """

    def __init__(
        self, preload: str = "autofash.training", log: Path | None = None, patience_seconds: float | None = None
    ) -> None:
        self._preload, self._log, self._patience = preload, log, patience_seconds
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, _Running] = {}
        self._events: list[Event] = []
        self._restarts = self._submitted = 0
        try:
            self._temporary = Path(tempfile.gettempdir())
        except OSError as error:
            raise cannot_write(tempfile.gettempdir(), error, "TMPDIR=a folder that can be", "E-TMPDIR") from None
        self.server: subprocess.Popen[bytes] | None = None
        self.started_as = ""  # "fork" or "spawn", once the server is ready
        self._start()

    def submit(self, spec: TrialSpec) -> None:
        """Run this trial in a new process. Raises ResourceError when the server cannot be started."""
        if self.server is None:
            self._start()
        ours, theirs = self._socketpair()
        self._submitted += 1
        running = _Running(self._submitted, Channel(ours), time.monotonic())
        try:
            socket.send_fds(self._control.sock, [running.order.to_bytes(ORDER, "big")], [theirs.fileno()])
            running.channel.send(asdict(spec))
        except OSError:
            pass  # the server died: events() will say that the trial is lost, and the next submit starts another
        finally:
            theirs.close()
        self._running[spec.trial] = running
        self._selector.register(running.channel, selectors.EVENT_READ, spec.trial)

    def events(self, timeout_seconds: float) -> Sequence[Event]:
        """What has happened; waits for the first event at most this long. Raises ResourceError when the preload failed."""
        for key, _ in self._selector.select(timeout_seconds if not self._events else 0):
            if key.data is None:
                self._hear_server()
            elif key.data in self._running:
                self._hear_trial(key.data)
        self._look_for_silence()
        events, self._events = self._events, []
        return events

    def reply(self, trial: int, verdict: Verdict) -> None:
        """Answer a trial's report; a trial that is gone is passed over."""
        if trial in self._running:
            self._running[trial].silent = 0.0
            try:
                self._running[trial].channel.send(asdict(verdict))
            except OSError:
                pass  # its death is on the way as an Outcome

    def close(self) -> None:
        """Kill every running trial and end the server."""
        for running in self._running.values():
            running.channel.close()
        self._running.clear()
        if self.server is not None:
            self._stop_server()
        self._selector.close()

    def _start(self) -> None:
        if self._restarts > MOST_RESTARTS:
            raise ResourceError(
                "the process that starts trials died again and again",
                f"look into {self._log or 'its log'}",
                code="E-SERVER",
            )
        # Its trials' alone, because TensorFlow leaves files behind in a process that ends as a trial does. The server makes it,
        # and a later one removes it where this process is killed.
        self._scratch = self._temporary / f"{SCRATCH}{secrets.token_hex(8)}"
        ours, theirs = self._socketpair()
        os.set_inheritable(theirs.fileno(), True)
        try:
            out = self._log.open("ab") if self._log else None
        except OSError as error:
            raise cannot_write(self._log, error, f"chmod u+w {self._log}", "E-STUDY-DIR") from None
        try:
            self.server = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # a random.py of the user's is no library
                    "-m",
                    "autofash.executors.server",
                    str(theirs.fileno()),
                    self._preload,
                    str(self._scratch),
                    str(os.getpid()),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=out or subprocess.DEVNULL,
                stderr=out or subprocess.DEVNULL,
                # One thread after `import keras`, which is what makes forking safe; a trial raises its own counts.
                env={
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # several trials may share a GPU
                    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX's word for that
                    "TF_ENABLE_ONEDNN_OPTS": "1",  # else off on CPUs with AVX2 alone, where it trains 3 times as fast
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "PYTHONUNBUFFERED": "1",
                },
            )
        except OSError as error:
            raise ResourceError(
                f"no process can be started: {error.strerror}", "close some programs", code="E-SERVER"
            ) from None
        finally:
            theirs.close()
            if out:
                out.close()
        self._control = Channel(ours)
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def _socketpair(self) -> tuple[socket.socket, socket.socket]:
        try:
            return socket.socketpair()
        except OSError as error:
            raise ResourceError(
                f"no process can be started: {error.strerror}", "fewer --workers", code="E-SERVER"
            ) from None

    def _hear_server(self) -> None:
        messages = self._control.receive()
        if messages is None:
            self._server_died()
            return
        for message in messages:
            if "failed" in message:
                cause = message["failed"].strip().splitlines()[-1]
                self.close()
                raise ResourceError(
                    f"{self._preload} cannot be imported: {cause}",
                    f"{sys.executable} -c 'import {self._preload}'",
                    code="E-SERVER",
                )
            if "ready" in message:
                self.started_as = message["start"]
            else:
                self._hear_of_death(message["exited"], message["status"])

    def _hear_of_death(self, order: int, status: int) -> None:
        """A process ended. Where that is news, whatever it said before lies in its socket, and is heard first."""
        trial = next((trial for trial, running in self._running.items() if running.order == order), None)
        if trial is None:
            return
        while trial in self._running and self._hear_trial(trial):
            pass
        if trial in self._running:
            running = self._running[trial]
            if running.given_up is not None:
                self._end(
                    trial,
                    Ending.FAILED,
                    f"timeout: it said nothing for {self._patience:,.0f} s; --patience allows more",
                )
            else:
                self._end(trial, Ending.DIED, _cause_of_death(status))

    def _hear_trial(self, trial: int) -> bool:
        """Pass on what the trial says; False when there is nothing more to hear."""
        running = self._running[trial]
        messages = running.channel.receive()
        if messages is None:
            if running.channel in self._selector.get_map():
                self._selector.unregister(running.channel)  # the server will say how it died
            return False
        running.silent = 0.0
        for message in messages:
            self._pass_on(trial, running, message)
        return True

    def _look_for_silence(self) -> None:
        """End trials that hang: SIGTERM, and SIGKILL ten seconds later.

        Time in which this process was itself stopped, with the machine or by Ctrl-Z, counts for nothing.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LONGEST_LOOK), now
        for running in self._running.values():
            running.silent += passed
            if self._patience is None or not running.pid:
                continue
            if running.silent >= self._patience + GRACE_SECONDS and running.given_up is signal.SIGTERM:
                running.given_up = signal.SIGKILL
            elif running.silent >= self._patience and running.given_up is None:
                running.given_up = signal.SIGTERM
            else:
                continue
            try:
                os.kill(running.pid, running.given_up)
            except ProcessLookupError:
                pass  # the server will say how it died

    def _pass_on(self, trial: int, running: _Running, message: Message) -> None:
        if "started" in message:
            running.pid = message["started"]
            self._events.append(Started(trial, message["started"], time.monotonic() - running.submitted))
        elif "said" in message:
            self._events.append(SAID[message.pop("said")](**message))
        else:
            self._restarts = 0
            self._end(trial, Ending(message["ended"]), message.get("reason", ""), message.get("details"))

    def _end(self, trial: int, ending: Ending, reason: str, details: Message | None = None) -> None:
        running = self._running.pop(trial)
        if running.channel in self._selector.get_map():
            self._selector.unregister(running.channel)
        running.channel.close()
        self._events.append(Outcome(trial, ending, reason, time.monotonic() - running.submitted, details or {}))

    def _server_died(self) -> None:
        """Its children die with it; their trials are lost through no fault of their own."""
        self._stop_server()
        self._restarts += 1
        for trial in list(self._running):
            while trial in self._running and self._hear_trial(trial):
                pass
            if trial in self._running:
                self._end(trial, Ending.LOST, "the process that starts trials died")

    def _stop_server(self) -> None:
        assert self.server is not None
        self._selector.unregister(self._control)
        self._control.close()  # upon which it kills its children and ends
        if not self.started_as:  # still importing: it has no children yet, and would not listen
            self.server.kill()
        try:
            self.server.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self.server, self.started_as = None, ""


def _cause_of_death(status: int) -> str:
    if status >= 0:
        return f"its process ended with exit code {status} without a word"
    name = signal.Signals(-status).name
    return f"its process was killed by signal {-status} ({name})" + (
        ", perhaps for want of memory" if -status == signal.SIGKILL else ""
    )
