"""The top configs of a study again, over several seeds: one validation score is noise, and the best of many flatters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from autofash import data
from autofash.errors import UsageError
from autofash.executors import Executor
from autofash.loop import Listener, conduct, outlasting
from autofash.records import Rerun
from autofash.request import Progress, SearchRequest, task_of
from autofash.study import Confirmed, Study, StudyWriter, check_searched, confirmed, leaders
from autofash.study.proposals import QUEUE, seed_of
from autofash.study.storage import confirmation_name

MOST_SEEDS = 100


def confirm(
    study: Study,
    top: int = 3,
    seeds: int = 3,
    *,
    workers: int | None = None,
    data_dir: Path | None = None,
    listeners: Sequence[Listener] = (),
    task: str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> list[Confirmed]:
    """Run a study's `top` best configs over `seeds` seeds, unpruned, and rank them by the lower bound of their mean.

    The runs are a study of their own, <name>@confirm, which resumes, and grows where more configs or seeds are asked for. The
    seeds are the same for every config, and none is one that the search used.
    Returns every config that was ever confirmed, the best first.
    Raises UsageError, NoTrial, StudyBusy, StudyMismatch, DataError, Interrupted.
    """
    if top < 1 or not 1 <= seeds <= MOST_SEEDS:
        raise UsageError(f"{top} configs over {seeds} seeds cannot be confirmed", "--confirm 3 --seeds 3")
    check_searched(study)
    study.best()  # raises NoTrial
    settings = replace(study.settings, space_table=study.space.table(), sampler=QUEUE, pruner="none", starters=False)
    prepared = data.prepare_for(settings, data.locate(settings.dataset, data_dir, progress))
    best = leaders(study)[:top]
    runs = [
        Rerun(record.config, seed_of(settings.seed, -seed), f"trial {record.number}, seed {seed}")
        for seed in range(1, seeds + 1)
        for record in best
    ]
    request = SearchRequest(workers=workers, storage=study.storage)
    again = "the same command again"

    def attempt(left: SearchRequest) -> Study:
        with closing(StudyWriter(confirmation_name(study.name), study.storage, settings, target=None)) as writer:
            writer.queue(runs)
            return conduct(
                writer,
                left,
                settings,
                prepared,
                listeners,
                task=task or task_of(settings),
                executor=executor,
                again=again,
            )

    if executor:
        attempt(request)
    else:
        outlasting(attempt, request)
    return confirmed(study)
