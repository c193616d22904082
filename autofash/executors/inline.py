"""Trials in this very process, each in a thread: for debugging, and for tasks that bring no Keras. No crash is survived."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from autofash.executors.protocol import Event, ending, reason, resolve
from autofash.records import Ending, Outcome, Said, Started, TrialSpec, Verdict


class _Abandoned(BaseException):
    """Unwinds a trial that nobody waits for any more."""


class InlineExecutor:
    """Runs trials in threads of this process."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._replies: dict[int, queue.SimpleQueue[Verdict | None]] = {}
        self._closed = False

    def submit(self, spec: TrialSpec) -> None:
        """Run this trial at once."""
        self._replies[spec.trial] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(spec, time.monotonic()), daemon=True).start()

    def events(self, timeout_seconds: float) -> Sequence[Event]:
        """What has happened; waits for the first event at most this long."""
        found = []
        try:
            found.append(self._events.get(timeout=timeout_seconds))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def reply(self, trial: int, verdict: Verdict) -> None:
        """Answer a trial's report."""
        if trial in self._replies:
            self._replies[trial].put(verdict)

    def close(self) -> None:
        """Let every trial end at its next report."""
        self._closed = True
        for replies in self._replies.values():
            replies.put(None)

    def _run(self, spec: TrialSpec, submitted: float) -> None:
        import os

        def report(said: Said) -> Verdict:
            if not self._closed:
                self._events.put(said)
                verdict = self._replies[spec.trial].get()
                if verdict is not None:
                    return verdict
            raise _Abandoned

        self._events.put(Started(spec.trial, os.getpid(), time.monotonic() - submitted))
        try:
            details = dict(resolve(spec.task)(spec, report))
            outcome = Outcome(spec.trial, Ending.DONE, "", time.monotonic() - submitted, details)
        except _Abandoned:
            return
        except Exception as error:  # a trial may raise anything; that is its outcome
            outcome = Outcome(spec.trial, ending(error), reason(error), time.monotonic() - submitted)
        del self._replies[spec.trial]
        self._events.put(outcome)
