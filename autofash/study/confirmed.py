"""What a confirmation showed: a study's top configs, run again over several seeds, ranked by what they surely reach."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from autofash.errors import StudyMissing, UsageError
from autofash.intervals import Interval, apart, over_seeds
from autofash.records import State, TrialRecord
from autofash.study.ledger import Study
from autofash.study.samplers import key_of
from autofash.study.storage import confirmation_name, is_confirmation


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A config of a study, and how it fared over seeds."""

    record: TrialRecord  # the study's own trial of this config
    values: tuple[float, ...]  # objective of each seed's best epoch, fractions
    interval: Interval  # of their mean
    epochs: int  # median of the seeds' best epochs
    tied: bool  # with the first of the ranking, another than itself: the difference may be chance


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial that may be refitted, and the epochs that its config is best trained for."""

    record: TrialRecord
    epochs: int | None  # from 1; None where it never finished one


def confirmed(study: Study) -> list[Confirmed]:
    """The configs that were confirmed, ranked by the lower bound of their mean; none where nothing was.

    Those with fewer runs than others, for want of time or because a run failed, come after them.
    """
    try:
        again = Study(confirmation_name(study.name), study.storage)
    except StudyMissing:
        return []
    runs: dict[str, list[TrialRecord]] = defaultdict(list)
    for run in again.trials():
        if run.state is State.COMPLETE and run.value is not None:
            runs[key_of(run.config)].append(run)
    first = {key_of(record.config): record for record in leaders(study)}
    found = [
        (first[key], tuple(run.value or 0.0 for run in done), [run.best_epoch or 1 for run in done])
        for key, done in runs.items()
        if key in first
    ]
    ranked = sorted(
        found,
        key=lambda entry: (
            -len(entry[1]),
            -over_seeds(entry[1]).low,
            -statistics.fmean(entry[1]),
            entry[0].number,
        ),
    )
    return [
        Confirmed(
            record=record,
            values=values,
            interval=over_seeds(values),
            epochs=round(statistics.median(epochs)),
            tied=record is not ranked[0][0] and not apart(ranked[0][1], values),
        )
        for record, values, epochs in ranked
    ]


def is_settled(study: Study) -> bool:
    """Whether a confirmation of the study is there, has no run left to do, and at least two of each leader."""
    sure = confirmed(study)
    if not sure or len(sure[0].values) < 2:
        return False
    again = Study(confirmation_name(study.name), study.storage)
    return not any(run.state in (State.WAITING, State.RUNNING) for run in again.trials())


def verdict(study: Study) -> str:
    """What a study's confirmation says, in a sentence; empty where nothing was confirmed."""
    sure = confirmed(study)
    if not sure:
        return ""
    if not is_settled(study):
        return "The confirmation is not at its end, and ranks nothing yet."
    first, tied = sure[0], ", ".join(str(entry.record.number) for entry in sure if entry.tied)
    if tied:
        return f"Trial {first.record.number} cannot be told apart from {tied} (Welch's test, 5 %): it may be chance."
    if len(sure) == 1:
        return "One config was run again."
    if first.interval.value >= max(entry.interval.value for entry in sure):
        return f"Trial {first.record.number} is better than the others (Welch's test, 5 %)."
    return f"Trial {first.record.number} ranks first for its steadiness: another's mean is higher."


def extent(study: Study) -> tuple[int, int]:
    """Over how many configs and how many seeds a study's confirmation goes, the runs that wait included.

    Raises StudyMissing where there is none.
    """
    runs = Study(confirmation_name(study.name), study.storage).trials()
    return len({key_of(run.config) for run in runs}), len({run.seed for run in runs})


def check_searched(study: Study) -> None:
    """Raise UsageError where the study's trials are another's, a confirmation's or another program's: there is no model then."""
    if study.imported:
        raise UsageError(f"{study.name} was imported, and holds no models to go on with", search_from(study))
    if is_confirmation(study.name):
        parent = study.name.removesuffix(confirmation_name(""))
        raise UsageError(f"{study.name} only confirms {parent}, and has no model of its own", parent)


def search_from(study: Study) -> str:
    """The command that searches here from where an imported study ended."""
    return f"autofash search --warm-start {study.arguments}"


def leaders(study: Study) -> list[TrialRecord]:
    """The leaderboard, each config once: a trial that goes on with another's training has the same."""
    first: dict[str, TrialRecord] = {}
    for record in study.leaderboard():
        first.setdefault(key_of(record.config), record)
    return list(first.values())


def candidates(study: Study) -> list[Candidate]:
    """Complete trials, the one to ship first: the confirmed ones as confirmed, then the others by their one score.

    A confirmation that is not at its end ranks nothing.
    """
    sure = confirmed(study) if is_settled(study) else []
    known = {key_of(entry.record.config) for entry in sure}
    others = [record for record in leaders(study) if key_of(record.config) not in known]
    return [
        *(Candidate(entry.record, entry.epochs) for entry in sure),
        *(Candidate(record, record.best_epoch) for record in others),
    ]
