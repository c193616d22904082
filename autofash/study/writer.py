"""The one process that writes a study: asks for trials, observes reports, tells outcomes, and mends what a crash left."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from autofash.records import (
    Action,
    Config,
    Ending,
    EpochReport,
    ModelBuilt,
    Outcome,
    Rerun,
    StudySettings,
    Suggest,
    TrialRecord,
    Verdict,
)
from autofash.space import NamedConfig, Param
from autofash.study.checkpoints import Checkpoints
from autofash.study.ledger import as_json, noted_config, reports_of
from autofash.study.opening import OpenedStudy
from autofash.study.oracles import HYPERBAND, first_attempt
from autofash.study.proposals import QUEUE, Proposals, epochs_of
from autofash.study.pruners import check_pruner, make_pruning
from autofash.study.samplers import check_sampler, key_of, suggest_one
from autofash.study.storage import ledger_errors, understood
from autofash.study.underway import Situation, Underway

MOST_REPEATS = 20  # in a row, of a hypermodel; it has nothing new to offer then
ATTEMPTS = 2  # of a trial whose own process dies
BYTES_A_PARAMETER = 16  # in training: the weight, its gradient, and the two moments of Adam, each a float32


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial that is to run."""

    number: int
    config: Config  # "family" included
    seed: int  # of the trial, 0 to 2**31 - 1
    epochs: int  # most that it trains: the study's, or the config's own where they are fewer
    origin: str
    early: int  # training images before its early look; 0 for none
    reports: tuple[EpochReport, ...]  # what it, or the trial that it continues, said before
    until: int = 0  # epoch after which it ends and keeps its state; 0: it ends after `epochs`


class StudyWriter:
    """A study, opened by the one process that may write it."""

    def __init__(
        self,
        name: str,
        storage: str,
        settings: StudySettings,
        *,
        target: int | None,
        images: int = 0,
        starters: Sequence[NamedConfig] = (),
        learnt: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the study, or make it with these settings; then queue again whatever a dead writer left running.

        Trials that it left paused, or continued after a pause, are paused. images: in an epoch, which says whether there is an
        early look. target: trials in all; None: what the study has, else 50. learnt: of another study, as study.warm has it.
        Raises StudyBusy, StudyMismatch with every difference, LedgerError, UsageError.
        """
        if settings.sampler != QUEUE:
            check_sampler(settings.sampler)
        check_pruner(settings.pruner)
        self._held = ExitStack()
        self._opened = OpenedStudy(name, storage, settings, target)
        self._held.callback(self._opened.close)
        self.folder, self.read = self._opened.folder, self._opened.read
        self._study, self._storage = self._opened.study, self._opened.storage
        with ledger_errors(storage), understood(storage):
            try:
                self.target = self.read.target  # trials that were asked for in all
                if target is not None and target != self.target:
                    self._raise_target(target)
                self._settings = settings
                self._open: dict[int, Underway] = {}
                self._paused: dict[int, Underway] = {}
                looked_at_early = 0 if self.read.space.hypermodel else images  # whose author trains by epochs
                self._pruning = make_pruning(settings.pruner, self._study, settings.epochs, looked_at_early)
                self._exhausted, self._repeated = False, 0
                self.ends_at: float | None = None  # monotonic: when this search's budget ends; its loop knows
                self.memory: float = math.inf  # bytes that a trial may fill; its loop knows
                self._finished: dict[str, int] = {}
                self._proposals = Proposals(self._study, self._storage, self.read.space, settings, self.folder)
                self._held.callback(self._proposals.close)
                self.checkpoints = Checkpoints(self.folder)
                self._count: Counter[TrialState] = Counter()
                left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                if left:
                    with self._storage.at_once("tell"):
                        self._sweep(left)
                if learnt is not None:
                    with self._storage.at_once("attrs"):
                        self._proposals.warm_up(learnt)
                if "begun" not in self._study.user_attrs:
                    with self._storage.at_once("attrs"):
                        self._proposals.add_starters(starters)
                self._recall()
                self.checkpoints.remove_all_but(self._paused)
                if not self._nothing_to_begin():
                    self._proposals.start()
            except BaseException:
                self.close()
                raise

    @property
    def name(self) -> str:
        """The study's name."""
        return self._study.study_name

    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        found = self._study.get_trials(deepcopy=False)
        return [self.read.record(trial) for trial in found if "duplicate_of" not in trial.user_attrs]

    def finished(self) -> int:
        """Trials that count towards the target: complete or pruned."""
        return self._count[TrialState.COMPLETE] + self._count[TrialState.PRUNED]

    def ask(self) -> Asked | None:
        """The next trial to run: one that has earned to be continued, one that is queued, else what the sampler proposes.

        None when there is nothing to run now: all are begun, or the space has nothing left, or an oracle waits (`waits`). A
        config that was finished, runs or is paused is not run again, but for one whose training a trial continues.
        """
        with ledger_errors(self.read.storage):
            due = self._due()
            if due is not None:
                return self._continued(due)
            if not self._nothing_to_begin():
                paused = {number for number, found in self._paused.items() if found.rung is not None}
                begun = self._proposals.next(paused, self._twin)
                if begun is not None:
                    self._open[begun.trial.number] = begun
                    self._take_over(begun)
                    return self._asked(begun)
                self._exhausted = not self.waits
                due = self._due()
            return self._continued(due) if due is not None else None

    def suggest(self, said: Suggest) -> Verdict:
        """A value for a parameter of a hypermodel, which asks while it builds.

        Raises SpaceError where the parameter cannot be searched, or is another than earlier trials knew by this name.
        """
        running = self._open[said.trial]
        param: Param = TypeAdapter(Param).validate_python(said.param)
        self._proposals.foresee(running, said.name, param)
        with ledger_errors(self.read.storage), self._storage.at_once("params"):
            space = self.read.space.showing(said.name, param)
            if space is not self.read.space:
                self.read.space = self._proposals.space = space
                self._study.set_user_attr("seen", as_json(space.table()["params"]))
            value = suggest_one(running.drawing or running.trial, said.name, param)
        running.config = {**running.config, said.name: value}
        return Verdict.suggest(value)

    @property
    def waits(self) -> bool:
        """Whether `ask`, which had nothing, may have something later: an oracle starts, or thinks, or wants trials' results."""
        said = self._proposals.said
        return not self._nothing_to_begin() and (said.later or (said.idle and bool(self._open)))

    @property
    def starting_seconds(self) -> float:
        """Since when an oracle's process starts, which takes as long as its imports; 0 where none does."""
        return self._proposals.oracle.starting_seconds if self._proposals.oracle is not None else 0.0

    def built(self, said: ModelBuilt) -> Verdict:
        """Note how dear a trial is; stop it where its model does not fit into memory or is another trial's, and put it off where
        it would cost more than its share before it could be judged.
        """
        running = self._open[said.trial]
        running.work = said.work
        if said.settled and (repeats := self._settled(running)):
            return repeats
        needed = said.parameters * BYTES_A_PARAMETER
        if needed > self.memory:
            running.stopped = (
                f"too large: to train {said.parameters:,} parameters takes {needed / 2**30:,.1f} GiB, "
                f"and a trial has {self.memory / 2**30:,.1f}"
            )
            return Verdict.stop(running.stopped)
        running.pausing = self._pruning.puts_off(running)
        return Verdict.pause(running.pausing) if running.pausing else Verdict.go()

    def observe(self, report: EpochReport) -> Verdict:
        """Note a report and say whether its trial goes on. A report that is not finite stops it."""
        running = self._open[report.trial]
        # One that went back to an earlier checkpoint says again what it said before.
        if all(before.epoch != report.epoch for before in running.reports):
            seconds = report.seconds + running.seconds + running.seconds_before
            running.reports.append(replace(report, seconds=seconds))
        if repeats := self._settled(running):
            return repeats
        if not math.isfinite(report.objective):
            running.stopped = f"epoch {report.epoch}: the objective is not finite"
            return Verdict.stop(running.stopped)
        with ledger_errors(self.read.storage), self._storage.at_once("report"):
            if report.epoch not in self._frozen(running).intermediate_values:
                running.trial.report(report.objective, report.epoch)
            verdict = self._pruning.verdict(running, report, self._situation())
            if verdict.action is Action.PAUSE:
                running.pausing = verdict.why
                self._note_pause(running, running.seconds + report.seconds, runs=True)
            elif verdict.action is Action.STOP:
                running.stopped = verdict.why
        return verdict

    def tell(self, outcome: Outcome) -> TrialRecord:
        """Write into the ledger how a trial's process ended, and queue it again where that is due."""
        if outcome.ending in (Ending.LOST, Ending.DISK):
            return self.requeue(outcome.trial, outcome.reason, outcome.seconds)
        running = self._open.pop(outcome.trial)
        self._pruning.ended(running, outcome.seconds)
        state, why = TrialState.COMPLETE, ""
        if outcome.ending is not Ending.DONE:
            state, why = TrialState.FAIL, outcome.reason
        elif running.repeats is not None:
            return self._give_up(running)
        elif running.pausing:
            return self._pause(running, outcome.seconds)
        elif any(not math.isfinite(report.objective) for report in running.reports):
            state, why = TrialState.FAIL, running.stopped
        elif running.stopped:
            state, why = TrialState.PRUNED, running.stopped
        elif not running.whole:
            state, why = TrialState.FAIL, "it ended without a report"
        running.seconds += outcome.seconds
        with ledger_errors(self.read.storage):
            with self._storage.at_once("tell"):
                if outcome.ending is Ending.DIED:
                    deaths = int(running.trial.user_attrs.get("deaths", 0)) + 1
                    if deaths < ATTEMPTS:
                        self._proposals.add_again(self._frozen(running), deaths)
                    else:
                        running.trial.set_user_attr("gave_up", True)
                self._close(running, state, why, outcome.details)
            return self._ended(running, state)

    def requeue(self, number: int, why: str, seconds: float = 0.0) -> TrialRecord:
        """End a running trial's attempt through no fault of its own: it is paused where it paused before, or queued again."""
        running = self._open.pop(number)
        if running.waited or running.pausing:
            return self._pause(running, 0.0)
        running.seconds += seconds
        with ledger_errors(self.read.storage):
            with self._storage.at_once("tell"):
                self._proposals.add_again(self._frozen(running), int(running.trial.user_attrs.get("deaths", 0)))
                self._close(running, TrialState.FAIL, why, {})
            return self._ended(running, TrialState.FAIL)

    def settle(self) -> list[TrialRecord]:
        """Prune the trials that are paused still: nothing will earn them a continuation any more."""
        records = []
        with ledger_errors(self.read.storage):
            for number in sorted(self._paused):
                running = self._paused.pop(number)
                with self._storage.at_once("tell"):
                    self._close(running, TrialState.PRUNED, running.pausing, {})
                records.append(self._ended(running, TrialState.PRUNED))
        return records

    def queue(self, runs: Sequence[Rerun]) -> None:
        """Queue those runs that the study does not have yet, and let them all be its trials."""
        with ledger_errors(self.read.storage), self._storage.at_once("attrs"):
            self._raise_target(self._proposals.add(runs))

    def note_run(self, facts: Mapping[str, Any]) -> int:
        """Note with what this search works: sampler, pruner, workers, versions. Returns its place for `note_run_end`."""
        with ledger_errors(self.read.storage), self._storage.at_once("attrs"):
            before = self._study.user_attrs.get("runs", [])
            self._study.set_user_attr("runs", as_json([*before, {"began": _now(), **facts}]))
            self._study.set_user_attr("updated", _now())
        return len(before)

    def note_run_end(self, run: int, facts: Mapping[str, Any]) -> None:
        """Note beside a run what it took; one that is killed never says."""
        with ledger_errors(self.read.storage), self._storage.at_once("attrs"):
            runs = list(self._study.user_attrs["runs"])
            runs[run] = {**runs[run], **facts}
            self._study.set_user_attr("runs", as_json(runs))

    def close(self) -> None:
        """Let others write."""
        self._held.close()

    def _recall(self) -> None:
        """What earlier searches of this study have shown: its finished configs, its rungs, and what trials cost."""
        trials = self._study.get_trials(deepcopy=False)
        self._count = Counter(trial.state for trial in trials)
        for trial in trials:
            record = self.read.record(trial)
            if record.finished:
                self._finished[key_of(record.config)] = record.number
            if (
                trial.state is TrialState.COMPLETE
                and "until" in trial.user_attrs
                and self._settings.sampler == HYPERBAND
            ):
                self.checkpoints.kept.add(trial.number)
            self._pruning.recall(trial, reports_of(trial))

    def _asked(self, running: Underway) -> Asked:
        return Asked(
            number=running.trial.number,
            config=running.config,
            seed=running.seed,
            epochs=running.epochs,
            origin=running.origin,
            early=self._pruning.early,
            reports=tuple(running.reports),
            until=running.until,
        )

    def _take_over(self, begun: Underway) -> None:
        """Give a trial the checkpoint of the one that it continues, and remove those that nobody will want any more."""
        if begun.continues is not None:
            self.checkpoints.hand_over(begun.continues, begun.trial.number)
        wanted, kept = self._proposals.said.keep, self.checkpoints.kept
        if kept and wanted is not None:
            trials = self._study.get_trials(deepcopy=False)
            for number in [n for n in kept if first_attempt(trials[n], trials) not in wanted]:
                self.checkpoints.remove(number)

    def _due(self) -> int | None:
        """The paused trial that is to be continued now."""
        if not self._paused:
            return None
        return self._pruning.due(self._situation())

    def _situation(self) -> Situation:
        return Situation(
            target=self.target,
            complete=self._count[TrialState.COMPLETE],
            running=self._open,
            paused=self._paused,
            all_begun=self._nothing_to_begin(),
            seconds_left=self.ends_at - time.monotonic() if self.ends_at is not None else None,
        )

    def _continued(self, number: int) -> Asked:
        running = self._paused.pop(number)
        with self._storage.at_once("attrs"):
            self._note_pause(running, running.seconds, runs=True)
        running.pausing = ""
        self._open[number] = running
        return self._asked(running)

    def _pause(self, running: Underway, seconds: float) -> TrialRecord:
        """Keep a trial whose process has ended for a continuation."""
        running.seconds += seconds
        running.waited, running.pausing = True, running.pausing or "interrupted"
        number = running.trial.number
        self._paused[number] = running
        with ledger_errors(self.read.storage):
            with self._storage.at_once("tell"):
                self._note_pause(running, running.seconds)
                surplus = self._pruning.surplus(self._situation())
                last = self._paused.pop(surplus) if surplus is not None else None
                if last is not None:
                    self._close(last, TrialState.PRUNED, "too many are ahead of it at its rung", {})
            if last is not None:
                self._ended(last, TrialState.PRUNED)
            return self.read.record(self._frozen(running))

    def _note_pause(self, running: Underway, seconds: float, *, runs: bool = False) -> None:
        """Note where a trial pauses, before it is told to: whoever opens the ledger then knows that there is a checkpoint."""
        running.trial.set_user_attr("reports", as_json([asdict(report) for report in running.reports]))
        noted = {"rung": running.rung, "why": running.pausing, "seconds": seconds, "work": running.work, "runs": runs}
        running.trial.set_user_attr("paused", as_json(noted))

    def _nothing_to_begin(self) -> bool:
        return self._exhausted or self.finished() + len(self._open) + len(self._paused) >= self.target

    def _close(self, running: Underway, state: TrialState, why: str, details: Mapping[str, Any]) -> None:
        """Write that a trial has ended for good. A failed one keeps no value: what it had is in its reports."""
        # Attributes first: a finished trial's cannot be changed any more.
        noted = {
            "reports": [asdict(report) for report in running.reports if math.isfinite(report.objective)],
            "seconds": running.seconds,
            "why": why,
            "work": running.work,
            **details,
        }
        for key, fact in noted.items():
            if fact not in ("", None):
                running.trial.set_user_attr(key, as_json(fact))
        self._study.tell(running.trial, max(running.whole) if state is TrialState.COMPLETE else None, state)
        self._study.set_user_attr("updated", _now())

    def _ended(self, running: Underway, state: TrialState) -> TrialRecord:
        """What follows once a trial's end is in the ledger."""
        self._count[state] += 1
        self._exhausted = self._exhausted and state is not TrialState.FAIL  # its retry may be queued
        if running.until and state is TrialState.COMPLETE:
            self.checkpoints.kept.add(running.trial.number)
        else:
            self.checkpoints.remove(running.trial.number)
        if running.continues is not None and state is TrialState.COMPLETE:
            self.checkpoints.remove(running.continues)
        record = self.read.record(self._frozen(running))
        if record.finished:
            self._finished[key_of(record.config)] = record.number
        return record

    def _frozen(self, running: Underway) -> FrozenTrial:
        """A trial as it is in the ledger."""
        return self._study._storage.get_trial(running.trial._trial_id)

    def _twin(self, config: Config) -> int | None:
        """A trial that has finished this config or runs it."""
        begun = {**self._open, **self._paused}
        running = (number for number, found in begun.items() if found.config == config and found.settled)
        return next(running, self._finished.get(key_of(config)))

    def _settled(self, running: Underway) -> Verdict | None:
        """A hypermodel's config is whole now: the stop of its trial where it is another's."""
        if running.settled:
            return None
        running.repeats = self._twin(running.config) if self._settings.sampler != QUEUE else None
        if running.repeats is not None:
            return Verdict.stop(f"trial {running.repeats} has the same config")
        running.settled, self._repeated = True, 0
        return None

    def _give_up(self, running: Underway) -> TrialRecord:
        """End a trial that repeats another's config: it counts for nothing, and is not shown."""
        with ledger_errors(self.read.storage):
            with self._storage.at_once("tell"):
                running.trial.set_user_attr("duplicate_of", running.repeats)
                self._close(running, TrialState.FAIL, f"trial {running.repeats} has the same config", {})
            record = self._ended(running, TrialState.FAIL)
        self._repeated += 1
        self._exhausted = self._repeated >= MOST_REPEATS
        return record

    def _raise_target(self, target: int) -> None:
        self._study.set_user_attr("target", target)
        self.target = target

    def _sweep(self, left: Sequence[FrozenTrial]) -> None:
        """Whoever holds the lock owns every RUNNING trial; a new holder runs none yet, so these are a dead writer's."""
        for trial in left:
            handle = optuna.Trial(self._study, trial._trial_id)
            if "paused" in trial.user_attrs:
                self._paused[trial.number] = found = self._left_paused(handle, trial)
                if trial.user_attrs["paused"]["runs"]:
                    self._note_pause(found, found.seconds)
                continue
            if trial.params or noted_config(trial):
                self._proposals.add_again(trial, int(trial.user_attrs.get("deaths", 0)))
            handle.set_user_attr("why", "the search was killed")
            self._study.tell(handle, state=TrialState.FAIL)

    def _left_paused(self, handle: optuna.Trial, trial: FrozenTrial) -> Underway:
        """A trial as an earlier writer paused it, or continued it and died. Where no checkpoint is, it trains anew by itself."""
        noted, record = trial.user_attrs["paused"], self.read.record(trial)
        return Underway(
            handle,
            record.config,
            epochs_of(record.config, self._settings.epochs),
            record.seed,
            record.origin,
            reports_of(trial),
            pausing=noted["why"],
            rung=noted["rung"],
            waited=True,
            seconds=float(noted["seconds"]),
            work=noted["work"],
        )


def _now() -> str:
    return datetime.now().astimezone().isoformat()
