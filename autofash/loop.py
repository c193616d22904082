"""The only loop: ask, submit, observe, tell, until enough. It emits events; listeners draw them or write them down."""

from __future__ import annotations

import logging
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version

from autofash import data, hardware
from autofash.errors import Interrupted, LedgerError, NoTrial, ResourceError, StudyBusy, cannot_write, disk_error
from autofash.executors import Executor, ProcessExecutor
from autofash.records import (
    Ending,
    EpochReport,
    ModelBuilt,
    Outcome,
    Started,
    State,
    StudySettings,
    Suggest,
    TrialRecord,
    TrialSpec,
)
from autofash.request import Progress, SearchRequest, settle, task_of, total
from autofash.space import load_starters, source_digest
from autofash.study import Study, StudyWriter
from autofash.study.ledger import study_names
from autofash.study.proposals import QUEUE
from autofash.study.warm import warm_start
from autofash.study.writer import Asked

MOST_FAILURES = 10  # in a row
PATIENCE_SECONDS = 3600.0  # with a trial that says nothing; nothing that the shipped spaces hold takes an hour an epoch
POLL_SECONDS = 0.2
WORTH_SAYING_SECONDS = 2.0  # of waiting for what proposes configs
LOST_SECONDS, LOST_POLL_SECONDS = 120.0, 1.0  # that a search waits for a database server
log = logging.getLogger("autofash")


@dataclass(frozen=True, slots=True)
class SearchBegan:
    """The study is open, and trials are about to run."""

    study: Study
    settings: StudySettings  # of this search: sampler and pruner may be others than those that the study began with
    plan: hardware.Plan
    data: data.PreparedData
    target: int  # finished trials in all
    finished: int  # already
    requeued: int  # trials that a dead or interrupted search left behind


@dataclass(frozen=True, slots=True)
class EngineAwaited:
    """What proposes configs has been starting for two seconds, and a worker has nothing to do meanwhile."""

    engine: str


@dataclass(frozen=True, slots=True)
class TrialBegan:
    """A trial was submitted: a new one, or one that is continued."""

    trial: int
    config: dict[str, object]
    epochs: int  # after which it ends at the latest
    origin: str
    reports: tuple[EpochReport, ...]  # of a trial that is continued: what it said before it paused


@dataclass(frozen=True, slots=True)
class TrialReported:
    """A trial finished an epoch."""

    report: EpochReport
    best: float | None  # the study's best objective so far, fraction


@dataclass(frozen=True, slots=True)
class TrialPaused:
    """A trial waits at a rung, with its checkpoint, or was put off before its first."""

    record: TrialRecord
    finished: int  # trials of the study
    target: int


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial's end is in the ledger."""

    record: TrialRecord
    finished: int  # trials of the study
    target: int


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """The search is over, and why."""

    study: Study
    why: str
    seconds: float
    failing: bool  # given up because one trial after another failed


SearchEvent = (
    SearchBegan | EngineAwaited | TrialBegan | Started | TrialReported | TrialPaused | TrialEnded | SearchEnded
)
Listener = Callable[[SearchEvent], None]


def search(
    request: SearchRequest,
    listeners: Sequence[Listener] = (),
    *,
    task: str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Study:
    """Run, or resume, the search that the request describes; see `autofash.search` for the settings.

    task: module:function that trains a trial; a name, because this process never imports Keras; default the family's.
    executor: where trials run; default processes with the task's module loaded. progress: told of a download.
    Raises AutofashError: SpaceError, DataError, StudyError, NoTrial, ResourceError, Interrupted.
    """
    settings, name, prepared = settle(request, progress)
    starters, target = load_starters() if settings.starters else (), total(request, name)
    learnt = warm_start(request.warm_start, name, request.storage, settings) if request.warm_start is not None else None

    def attempt(left: SearchRequest) -> Study:
        with closing(
            StudyWriter(
                name,
                request.storage,
                settings,
                target=target,
                images=prepared.train,
                starters=starters,
                learnt=learnt,
            )
        ) as writer:
            return conduct(
                writer, left, settings, prepared, listeners, task=task or task_of(settings), executor=executor
            )

    return attempt(request) if executor else outlasting(attempt, request)


def outlasting(attempt: Callable[[SearchRequest], Study], request: SearchRequest) -> Study:
    """Run a search; where it loses its database server, wait for it for two minutes, and go on as after a kill.

    attempt: opens the study and conducts its search, as far as the request, whose budget shrinks, goes.
    """
    began, lost, left = time.monotonic(), -math.inf, request
    while True:
        try:
            return attempt(left)
        except LedgerError as error:
            if error.code != "E-DB-LOST":
                raise
            log.warning("autofash: warning[W-DB-LOST]: %s; waiting for up to two minutes", error.problems[0].fact)
            lost = time.monotonic()
            _wait_for(request.storage, lost + LOST_SECONDS)
        except StudyBusy:
            if time.monotonic() > lost + LOST_SECONDS:
                raise
            time.sleep(LOST_POLL_SECONDS)  # the server may not have noticed yet that we were gone
        if request.budget_seconds is not None:
            left = replace(request, budget_seconds=max(0.0, request.budget_seconds - (time.monotonic() - began)))


def _wait_for(storage: str, until: float) -> None:
    """Return when the database answers; raise what it says, or does not say, at that moment (monotonic)."""
    while True:
        try:
            study_names(storage)
            return
        except LedgerError as error:
            if error.code != "E-DB-LOST" or time.monotonic() > until:
                raise
        time.sleep(LOST_POLL_SECONDS)


def conduct(
    writer: StudyWriter,
    request: SearchRequest,
    settings: StudySettings,
    prepared: data.PreparedData,
    listeners: Sequence[Listener] = (),
    *,
    task: str,
    executor: Executor | None = None,
    again: str | None = None,
) -> Study:
    """Run an open study's trials until there are enough of them, or until the request says stop.

    settings: of this search. again: the command that goes on with it, for whoever interrupts. The rest as `search` has it.
    """
    plan = hardware.plan(request.workers)
    began, joules = time.monotonic(), hardware.energy_joules()
    writer.read.warn_if_model_changed()
    own = writer.read.space.hypermodel
    run = writer.note_run(
        {
            **({"model_sha256": source_digest(own)} if own else {}),
            "sampler": settings.sampler,
            "pruner": settings.pruner,
            "plan": plan.why,
            "train_images": prepared.train,
            "validation_images": prepared.validation,
            "machine": hardware.machine(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("autofash", "keras", "optuna")},
        }
    )
    again = again or f"autofash search --study {writer.read.arguments}"
    try:
        _Search(writer, request, settings, plan, prepared, listeners, task, again).run(executor)
    except (LedgerError, ResourceError):
        raise  # a ledger that could not be written just now is not waited for once more
    except BaseException:
        _note_end(writer, run, began, joules)
        raise
    _note_end(writer, run, began, joules)
    return writer.read


def _note_end(writer: StudyWriter, run: int, began: float, joules: float | None) -> None:
    used = hardware.energy_joules()
    spent = {"energy_joules": used - joules} if used is not None and joules is not None and used >= joules else {}
    writer.note_run_end(run, {"seconds": round(time.monotonic() - began, 3), **spent})


class _Search:
    def __init__(
        self,
        writer: StudyWriter,
        request: SearchRequest,
        settings: StudySettings,
        plan: hardware.Plan,
        prepared: data.PreparedData,
        listeners: Sequence[Listener],
        task: str,
        again: str,
    ) -> None:
        self._writer, self._request, self._settings, self._plan, self._data = writer, request, settings, plan, prepared
        self._listeners, self._task, self._again = listeners, task, again
        self._running: dict[int, int] = {}  # trial → slot
        self._failures: list[str] = []  # reasons, in a row
        self._best = max(
            (trial.value or 0.0 for trial in writer.trials() if trial.state is State.COMPLETE), default=None
        )
        self._said_what_starts = False
        self._began = time.monotonic()
        writer.ends_at = self._began + request.budget_seconds if request.budget_seconds is not None else None
        writer.memory = plan.memory

    @property
    def _finished(self) -> int:
        """Trials of the study; the writer's word, which prunes paused ones by itself where there are too many."""
        return self._writer.finished()

    def run(self, executor: Executor | None) -> None:
        trials = self._writer.trials()
        waiting = sum(trial.state is State.WAITING and trial.origin.startswith("retry") for trial in trials)
        self._tell(
            SearchBegan(
                self._writer.read, self._settings, self._plan, self._data, self._writer.target, self._finished, waiting
            )
        )
        if self._finished >= self._writer.target:
            self._end(f"all {self._finished} trials are finished already")
            return
        with _stop_signals() as stopped:
            runner = executor or ProcessExecutor(
                self._task.partition(":")[0],
                log=self._writer.folder / "server.log",
                patience_seconds=self._request.patience_seconds or PATIENCE_SECONDS,
            )
            try:
                why = self._loop(runner, stopped)
                for trial in list(self._running):
                    self._writer.requeue(trial, f"stopped: {why}")
            finally:
                runner.close()
        self._end(why)
        if stopped:
            self._raise_interrupted(stopped[0])
        if not self._writer.read.leaderboard(1):
            unbuilt = (trial.why for trial in self._writer.trials() if trial.finished and trial.value is None)
            reasons = self._failures or [*unbuilt] or [why]
            top = max(set(reasons), key=reasons.count)
            raise NoTrial(
                f"no trial was completed: {top}",
                f"autofash show {self._writer.read.arguments}, or look into {self._writer.folder}/trials",
            )

    def _loop(self, executor: Executor, stopped: list[int]) -> str:
        """Run trials until there is a reason to stop, and return it."""
        while True:
            why = self._why_enough(stopped)
            if why:
                return why
            while len(self._running) < self._plan.workers and (asked := self._writer.ask()) is not None:
                self._submit(executor, asked)
            self._say_what_starts()
            if not self._running and not self._writer.waits:
                for record in self._writer.settle():
                    self._ended(record)
                if self._finished >= self._writer.target:
                    return f"all {self._finished} trials are finished"
                return "no run is left" if self._settings.sampler == QUEUE else "the space has nothing left to try"
            for event in executor.events(POLL_SECONDS):
                match event:
                    case Started():
                        self._tell(event)
                    case Suggest():
                        executor.reply(event.trial, self._writer.suggest(event))
                    case ModelBuilt():
                        executor.reply(event.trial, self._writer.built(event))
                    case EpochReport():
                        verdict = self._writer.observe(event)
                        self._tell(TrialReported(event, self._best))
                        executor.reply(event.trial, verdict)
                    case Outcome():
                        self._take(event)

    def _say_what_starts(self) -> None:
        if not self._said_what_starts and self._writer.waits and self._writer.starting_seconds > WORTH_SAYING_SECONDS:
            self._said_what_starts = True
            self._tell(EngineAwaited("KerasTuner"))

    def _why_enough(self, stopped: list[int]) -> str:
        if stopped:
            return signal.Signals(stopped[0]).name
        if self._request.budget_seconds is not None and time.monotonic() - self._began >= self._request.budget_seconds:
            return f"the budget of {self._request.budget_seconds:g} s is used up"
        if self._request.target is not None and (self._best or 0.0) >= self._request.target:
            return f"the target of {self._request.target:g} is reached"
        if len(self._failures) >= MOST_FAILURES:
            return f"{MOST_FAILURES} trials in a row failed, the last with: {self._failures[-1]}"
        return ""

    def _submit(self, executor: Executor, asked: Asked) -> None:
        slot = min(set(range(self._plan.workers)) - set(self._running.values()))
        folder = self._writer.folder / "trials" / str(asked.number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error, f"chmod u+rwx {folder.parent}", "E-STUDY-DIR") from None
        self._tell(
            TrialBegan(asked.number, dict(asked.config), asked.until or asked.epochs, asked.origin, asked.reports)
        )
        self._running[asked.number] = slot
        executor.submit(
            TrialSpec(
                trial=asked.number,
                config=asked.config,
                seed=asked.seed,
                epochs=asked.epochs,
                data=self._data.folder,
                objective=self._settings.objective,
                task=self._task,
                threads=self._plan.threads,
                precision=self._plan.precision,
                device=self._plan.device(slot),
                log=str((folder / "log.txt").absolute()),
                early=asked.early,
                checkpoint=str(self._writer.checkpoints.place(asked.number).absolute()),
                until=asked.until,
            )
        )

    def _take(self, outcome: Outcome) -> None:
        record = self._writer.tell(outcome)
        del self._running[outcome.trial]
        if outcome.ending is Ending.DISK:
            raise disk_error(outcome.reason, where=str(self._writer.folder))
        if record.state is State.PAUSED:
            self._failures.clear()
            self._tell(TrialPaused(record, self._finished, self._writer.target))
            return
        if not record.finished and record.repeats is None and outcome.ending is not Ending.LOST:
            self._failures.append(record.why)
        self._ended(record)

    def _ended(self, record: TrialRecord) -> None:
        if record.finished:
            self._failures.clear()
        if record.state is State.COMPLETE and record.value is not None:
            self._best = max(record.value, self._best or 0.0)
        self._tell(TrialEnded(record, self._finished, self._writer.target))

    def _end(self, why: str) -> None:
        failing = len(self._failures) >= MOST_FAILURES
        self._tell(SearchEnded(self._writer.read, why, time.monotonic() - self._began, failing))

    def _tell(self, event: SearchEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def _raise_interrupted(self, number: int) -> None:
        paused = sum(trial.state is State.PAUSED for trial in self._writer.trials())
        waiting = f", and {paused} that are paused" if paused else ""
        error = Interrupted(f"interrupted: {self._writer.finished()} finished trials are kept{waiting}", self._again)
        error.exit_code = 128 + number
        raise error


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them in the midst of a commit; a second one ends the process now."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, _: object) -> None:
        import os

        if stopped:
            sys.stdout.write("\x1b[?25h\n" if sys.stdout.isatty() else "")  # the cursor, which a live screen hides
            sys.stdout.flush()
            os._exit(128 + number)  # the trials' processes notice within moments
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
