"""The ledger: where studies are kept, and what can be read from them without disturbing anyone."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from autofash import failpoints
from autofash.errors import (
    NoTrial,
    StudyMismatch,
    StudyMissing,
    UsageError,
    unknown,
)
from autofash.records import Config, EpochReport, Standing, State, StudySettings, StudySummary, TrialRecord
from autofash.space import IMPORTED, source_digest, space_from_table
from autofash.study.rows import (
    TRIALS,
    LeanStorage,
    read_standings,
    read_studies,
    read_trials,
)
from autofash.study.rungs import EARLY
from autofash.study.storage import (
    DEFAULT_STORAGE,
    artifact_store,
    artifacts,
    is_confirmation,
    ledger_errors,
    open_reader,
    open_storage,
    redacted,
    storage_argument,
    understood,
)

log = logging.getLogger("autofash")
optuna.logging.set_verbosity(optuna.logging.ERROR)

FORMAT = 1
MOST_NUMBERS = 1_000  # in one query
STATES = {
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAILED,
    TrialState.RUNNING: State.RUNNING,
    TrialState.WAITING: State.WAITING,
}


class Study:
    """One study as the ledger has it. Reading only, but for what a refit notes: openings of the test set, and pictures."""

    def __init__(self, name: str, storage: str) -> None:
        """Raises StudyMissing with the nearest name, LedgerError where the database cannot be read."""
        self.name, self.storage = name, storage
        with ledger_errors(storage):
            reader = open_reader(storage)
            if reader is None:
                raise StudyMissing(
                    f"there is no study {name!r}: {redacted(storage)} does not exist yet", "autofash search --trials 50"
                )
            with understood(storage), reader.connect() as connection:
                found = read_studies(connection, name).get(name)
                if found is None:
                    fact, fix = unknown("study", name, read_studies(connection))
                    raise StudyMissing(fact, fix)
        self._reader = reader
        self.number, attributes = found  # the study's number in its storage
        if attributes.get("format") != FORMAT:
            raise StudyMissing(
                f"the study {name!r} was not written by autofash, or by a newer one (format {attributes.get('format')})",
                "another study; `autofash studies` lists them",
            )
        with understood(storage):
            self.settings = StudySettings(**attributes["settings"])
            table = dict(self.settings.space_table)
            if "seen" in attributes:  # parameters of a hypermodel that have shown themselves
                table["params"] = {**table["params"], **attributes["seen"]}
            self.space = space_from_table(table, name=self.settings.space, where=self.settings.space)

    @cached_property
    def _study(self) -> optuna.Study:
        """The study as Optuna has it, for what only Optuna can do: it takes half a second to open."""
        return optuna.load_study(study_name=self.name, storage=open_storage(self.storage))

    @property
    def target(self) -> int:
        """Trials that were asked for in all."""
        return int(self._attributes["target"])

    def warn_if_model_changed(self) -> None:
        """Say so where the file of a user's own model is not the one that the last search ran."""
        searched = str(self.runs[-1].get("model_sha256", "")) if self.runs else ""
        if self.space.hypermodel and searched not in ("", source_digest(self.space.hypermodel)):
            source = self.space.hypermodel.source
            log.warning(
                "autofash: warning[W-MODEL-CHANGED]: %s is not as it was when %s was searched", source, self.name
            )

    @property
    def folder(self) -> Path:
        """Where the study's artifacts lie."""
        return artifacts(self.storage) / self.name

    @property
    def imported(self) -> bool:
        """Whether another program searched it: it can be looked at and learnt from, and holds no models."""
        return self.space.family == IMPORTED

    @property
    def arguments(self) -> str:
        """What names this study on a command line: its name, and its storage where that is not the default one."""
        return f"{self.name}{storage_argument(self.storage)}"

    @property
    def openings(self) -> list[dict[str, Any]]:
        """Every opening of the test set: when, by which command, for which trial, with which result."""
        return list(self._attributes.get("heldout", []))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Every search that worked on this study: when it began, and with which sampler, pruner, workers and versions."""
        return list(self._attributes.get("runs", []))

    @property
    def warm_start(self) -> Mapping[str, Any] | None:
        """What the study was told of another one's trials when it began, as study.warm has it; None where nothing."""
        return self._attributes.get("warm_start")

    @property
    def hints(self) -> list[TrialRecord]:
        """The trials of another study that the sampler learns from, the best first; none of them is a trial of this one."""
        told = self.warm_start or {"trials": []}
        with understood(self.storage):
            found = [self._hint(hint, told["study"]) for hint in told["trials"]]
        return sorted(found, key=lambda hint: (hint.state is not State.COMPLETE, -(hint.value or 0.0), hint.number))

    def _hint(self, hint: Mapping[str, Any], source: str) -> TrialRecord:
        looks = {int(epoch): float(value) for epoch, value in hint["looks"].items()}
        curve = {epoch: looks[epoch] for epoch in sorted(looks) if epoch != EARLY}
        best = max(curve, key=lambda epoch: (curve[epoch], -epoch)) if curve else None
        return TrialRecord(
            number=int(hint["trial"]),
            state=State.COMPLETE if hint["complete"] else State.PRUNED,
            config=self.space.expand({**self.space.begun(), **hint["config"]}),
            value=curve[best] if best is not None else looks.get(EARLY),
            best_epoch=best,
            curve=tuple(curve.values()),
            reports=(),
            seconds=0.0,
            why="",
            seed=0,
            origin=f"imported from {source} trial {hint['trial']}",
        )

    def finished_trials(self) -> list[FrozenTrial]:
        """The finished trials that have reported, as Optuna has them: for a study that learns from this one."""
        with self._reading() as connection:
            found = read_trials(connection, TRIALS.c.study_id == self.number)
        counted = (TrialState.COMPLETE, TrialState.PRUNED)
        return [trial for trial in found if trial.state in counted and trial.intermediate_values]

    @property
    def validation_images(self) -> int | None:
        """How many images every validation score was measured on; None where no search has noted it."""
        return next((int(run["validation_images"]) for run in reversed(self.runs) if "validation_images" in run), None)

    def trials(self) -> list[TrialRecord]:
        """Every trial, by number. Those that would only have repeated a finished config are left out."""
        with self._reading() as connection:
            return self._records(read_trials(connection, TRIALS.c.study_id == self.number))

    def trials_of(self, numbers: Sequence[int]) -> list[TrialRecord]:
        """The trials of these numbers, in their order, without those that are not there."""
        found: dict[int, TrialRecord] = {}
        with self._reading() as connection:
            for start in range(0, len(numbers), MOST_NUMBERS):
                some = TRIALS.c.number.in_(numbers[start : start + MOST_NUMBERS])
                read = self._records(read_trials(connection, (TRIALS.c.study_id == self.number) & some))
                found.update({record.number: record for record in read})
        return [found[number] for number in numbers if number in found]

    def trial(self, number: int) -> TrialRecord:
        """The trial of this number. Raises UsageError when there is none."""
        for record in self.trials_of([number]):
            return record
        known = [standing.number for standing in self.standings()]
        has = f"0 to {max(known)}" if known else "none yet"
        raise UsageError(f"{self.name} has no trial {number}", f"--trial with a number from {has}")

    def standings(self) -> list[Standing]:
        """Every trial, without its config and curve: the leaderboard, then the others, each with the best first."""
        with self._reading() as connection:
            return _standings(connection, self.number)

    def leaderboard(self, most: int | None = None) -> list[TrialRecord]:
        """Complete trials, at most this many, the best first; of two alike the earlier one."""
        return self.trials_of([standing.number for standing in self.standings() if standing.ranks][:most])

    def best(self) -> TrialRecord:
        """The best complete trial. Raises NoTrial."""
        ranked = self.leaderboard(1)
        if not ranked:
            raise NoTrial(f"{self.name} has no complete trial yet", f"autofash search --study {self.arguments}")
        return ranked[0]

    def summary(self, standings: Sequence[Standing] | None = None) -> StudySummary:
        """One line about the study. standings: where they were read already."""
        return _summary(self.name, self._attributes, self.standings() if standings is None else standings)

    def note_opening(self, opening: dict[str, Any]) -> int:
        """Write into the ledger that the test set is about to be opened, and return the opening's place for `note_result`.

        Refitting's, which keeps every other refit of the study out; a search writes other attributes.
        """
        with ledger_errors(self.storage):
            opened = open_storage(self.storage, write=True)
            study = optuna.load_study(study_name=self.name, storage=opened)
            openings = [*study.user_attrs.get("heldout", []), opening]
            with opened.at_once("attrs"):
                study.set_user_attr("heldout", openings)
        return len(openings) - 1

    def note_result(self, opening: int, result: dict[str, Any]) -> None:
        """Write beside an opening what it showed."""
        with ledger_errors(self.storage):
            opened = open_storage(self.storage, write=True)
            study = optuna.load_study(study_name=self.name, storage=opened)
            openings = list(study.user_attrs["heldout"])
            openings[opening] = {**openings[opening], **as_json(result)}
            with opened.at_once("attrs"):
                study.set_user_attr("heldout", openings)

    @property
    def pictures(self) -> set[str]:
        """Names of the pictures that are attached to the study."""
        return {meta.filename for meta in optuna.artifacts.get_all_artifact_meta(self._study)}

    def attach(self, picture: Path) -> None:
        """Keep a picture as an artifact of the study, which Optuna dashboard shows, in place of one that bore this name."""
        store_folder = artifact_store(self.storage)
        with ledger_errors(self.storage):
            store_folder.mkdir(parents=True, exist_ok=True)
            store = optuna.artifacts.FileSystemArtifactStore(store_folder)
            study = optuna.load_study(study_name=self.name, storage=open_storage(self.storage, write=True))
            known = optuna.artifacts.get_all_artifact_meta(study)
            before = next((meta.artifact_id for meta in known if meta.filename == picture.name), None)
            if before is None:
                optuna.artifacts.upload_artifact(
                    artifact_store=store, file_path=str(picture), study_or_trial=study, storage=study._storage
                )
            else:
                with picture.open("rb") as content:
                    store.write(before, content)

    @property
    def _attributes(self) -> dict[str, Any]:
        with self._reading() as connection:
            attributes = read_studies(connection, self.name)[self.name][1]
            _ = (
                int(attributes["target"]),
                [dict(told) for key in ("runs", "heldout") for told in attributes.get(key, [])],
            )
            return attributes

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with ledger_errors(self.storage), understood(self.storage), self._reader.connect() as connection:
            yield connection

    def _records(self, trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
        return [self.record(trial) for trial in trials if "duplicate_of" not in trial.user_attrs]

    def record(self, trial: FrozenTrial) -> TrialRecord:
        """An Optuna trial in our terms."""
        noted, said = trial.user_attrs, reports_of(trial)
        looks = trial.intermediate_values
        curve = {epoch: value for epoch, value in looks.items() if epoch != EARLY}
        best = max(curve, key=lambda epoch: (curve[epoch], -epoch)) if curve else None
        pause = noted.get("paused", {})
        paused = trial.state is TrialState.RUNNING and pause.get("runs") is False
        seconds = float(noted.get("seconds", pause.get("seconds", 0.0)))
        if not all(
            map(math.isfinite, (seconds, *looks.values()))
        ):  # a report that is not finite ends its trial, and is no look
            raise ValueError(f"trial {trial.number} has a number that is not finite")
        return TrialRecord(
            number=trial.number,
            state=State.PAUSED if paused else STATES[trial.state],
            config=self.config_of(trial),
            value=curve[best] if best is not None else looks.get(EARLY),
            best_epoch=best,
            curve=tuple(curve[epoch] for epoch in sorted(curve)),
            reports=tuple(report for report in said if report.epoch != EARLY),
            seconds=seconds,
            why=str(noted.get("why", pause["why"] if paused else "")),
            seed=int(noted.get("seed", 0)),
            origin=str(noted.get("origin", "sampled")),
            ended=trial.datetime_complete.astimezone() if trial.datetime_complete else None,
            early=next((report for report in said if report.epoch == EARLY), None),
            continues=int(noted["continues"]) if "continues" in noted else None,
            repeats=noted.get("duplicate_of"),
        )

    def config_of(self, trial: FrozenTrial) -> Config:
        """The config that a trial's model is built from, "family" included; what is known of it, for one that waits."""
        # A hypermodel asks for what it wants, which may be less than it was queued with.
        whole = self.space.hypermodel is not None and trial.state.is_finished() and trial.params
        params = trial.params if whole else {**noted_config(trial), **trial.params}
        if not params:
            return {}
        return self.space.expand({**self.space.begun(), **params})


def reports_of(trial: FrozenTrial) -> list[EpochReport]:
    """What a trial said, the early look included, as far as the ledger has it."""
    return [EpochReport(**report) for report in trial.user_attrs.get("reports", [])]


def noted_config(trial: FrozenTrial) -> Config:
    """The parameters that a queued trial is to have."""
    queued: Config = trial.user_attrs.get("queued", {})
    return queued


def load_study(name: str | None = None, storage: str = DEFAULT_STORAGE) -> Study:
    """The study of this name, or the one last updated. Raises StudyMissing, LedgerError."""
    if name is not None:
        return Study(name, storage)
    with _reading(storage) as connection:
        found = read_studies(connection) if connection else {}
        moments = {
            name: _updated(attributes)
            for name, (_, attributes) in found.items()
            if attributes.get("format") == FORMAT and not is_confirmation(name)
        }
    if not moments:
        raise StudyMissing(f"there is no study yet in {redacted(storage)}", "autofash search --trials 50")
    return Study(max(moments, key=lambda name: moments[name]), storage)


def list_studies(storage: str = DEFAULT_STORAGE) -> list[StudySummary]:
    """Every study of a storage, the one last updated first. Raises LedgerError where the database cannot be read."""
    with _reading(storage) as connection:
        if connection is None:
            return []
        summaries = [
            _summary(name, attributes, _standings(connection, number))
            for name, (number, attributes) in read_studies(connection).items()
            if attributes.get("format") == FORMAT
        ]
    return sorted(summaries, key=lambda summary: summary.updated, reverse=True)


def study_names(storage: str) -> set[str]:
    """Names of all studies of a storage, without reading a trial. Raises LedgerError."""
    with _reading(storage) as connection:
        found = read_studies(connection) if connection else {}
    # One whose making was cut short has no format yet: whoever comes next makes it whole.
    return {name for name, (_, attributes) in found.items() if "format" in attributes}


@contextmanager
def _reading(storage: str) -> Iterator[Connection | None]:
    """A connection to the ledger; None where there is none yet."""
    with ledger_errors(storage), understood(storage):
        reader = open_reader(storage)
        with reader.connect() if reader else nullcontext() as connection:
            yield connection


def _standings(connection: Connection, study: int) -> list[Standing]:
    found = [
        Standing(number, State.PAUSED if paused else STATES[state], value)
        for number, state, paused, value in read_standings(connection, study)
    ]
    return sorted(found, key=lambda standing: (not standing.ranks, -(standing.value or 0.0), standing.number))


def _summary(name: str, attributes: Mapping[str, Any], standings: Sequence[Standing]) -> StudySummary:
    count = Counter(standing.state for standing in standings)
    return StudySummary(
        name=name,
        dataset=attributes["settings"]["dataset"],
        space=attributes["settings"]["space"],
        trials=int(attributes["target"]),
        complete=count[State.COMPLETE],
        pruned=count[State.PRUNED],
        paused=count[State.PAUSED],
        failed=count[State.FAILED],
        best=standings[0].value if standings and standings[0].ranks else None,
        updated=_updated(attributes),
    )


def _updated(attributes: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(attributes["updated"]).astimezone()


def create_or_load(name: str, opened: LeanStorage, settings: StudySettings, target: int) -> optuna.Study:
    """The Optuna study of this name for its writer, made with these settings where it does not exist yet."""
    study = optuna.create_study(study_name=name, storage=opened, direction="maximize", load_if_exists=True)
    if "format" in study.user_attrs:
        return study
    failpoints.reach("study")
    if study.get_trials(deepcopy=False):
        raise StudyMismatch(
            f"the study {name} is there already, and was not written by autofash", "--study with another name"
        )
    with opened.at_once("study"), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna's major version is pinned
        study.set_metric_names([f"validation {settings.objective.replace('_', ' ')} (fraction, 0 to 1)"])
        study.set_user_attr("settings", asdict(settings))
        study.set_user_attr("target", target)
        study.set_user_attr("updated", datetime.now().astimezone().isoformat())
        study.set_user_attr("format", FORMAT)  # with it, the study counts as made
    return study


def as_json(value: object) -> Any:
    """The value as plain JSON types, which is all that a ledger's attribute may hold."""
    return json.loads(json.dumps(value))
