"""What a confirmation showed: a study's top configs, run again over several seeds, ranked by what they surely reach."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from autofash.errors import StudyMissing
from autofash.intervals import Interval, apart, over_seeds
from autofash.records import State, TrialRecord
from autofash.study.ledger import Study, confirmation_name
from autofash.study.samplers import key_of


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A config of a study, and how it fared over seeds."""

    record: TrialRecord  # the study's own trial of this config
    values: tuple[float, ...]  # objective of each seed's best epoch, fractions
    interval: Interval  # of their mean
    epochs: int  # median of the seeds' best epochs
    tied: bool  # with the first of the ranking: the difference may be chance (the first is tied with itself)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial that may be refitted, and the epochs that its config is best trained for."""

    record: TrialRecord
    epochs: int | None  # from 1; None where it never finished one


def confirmed(study: Study) -> list[Confirmed]:
    """The configs that were confirmed, ranked by the lower bound of their mean; none where nothing was."""
    try:
        again = Study(confirmation_name(study.name), study.storage)
    except StudyMissing:
        return []
    runs: dict[str, list[TrialRecord]] = defaultdict(list)
    for run in again.trials():
        if run.state is State.COMPLETE and run.value is not None:
            runs[key_of(run.config)].append(run)
    first: dict[str, TrialRecord] = {}
    for record in study.leaderboard():
        first.setdefault(key_of(record.config), record)
    found = [
        (first[key], tuple(run.value or 0.0 for run in done), [run.best_epoch or 1 for run in done])
        for key, done in runs.items()
        if key in first
    ]
    ranked = sorted(found, key=lambda entry: (-over_seeds(entry[1]).low, -statistics.fmean(entry[1]), entry[0].number))
    return [
        Confirmed(
            record=record,
            values=values,
            interval=over_seeds(values),
            epochs=round(statistics.median(epochs)),
            tied=not apart(ranked[0][1], values),
        )
        for record, values, epochs in ranked
    ]


def candidates(study: Study) -> list[Candidate]:
    """Complete trials, the one to ship first: the confirmed ones as confirmed, then the others by their one score."""
    sure = confirmed(study)
    numbers = {entry.record.number for entry in sure}
    others = [record for record in study.leaderboard() if record.number not in numbers]
    return [
        *(Candidate(entry.record, entry.epochs) for entry in sure),
        *(Candidate(record, record.best_epoch) for record in others),
    ]
