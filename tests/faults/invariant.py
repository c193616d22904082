"""INV: what holds of a study on disk after every fault, and again after the rerun that mends it.

Rows are counted by SQL of its own: were they read by autofash alone, a fault of its reading could hide one of its writing.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from autofash import manifest
from autofash.errors import UnsafeFile
from autofash.records import TrialRecord
from autofash.study import Study
from autofash.study.storage import sqlite_path

FINISHED = ("COMPLETE", "PRUNED")
ORPHANS_SECONDS = 2.0  # that a dead coordinator's processes may take to end
MODEL_FOLDERS = ("best*", "trial-*", "ensemble-*")


def told(record: TrialRecord) -> dict[str, Any]:
    """A trial as plain JSON, which a search can print and `broken` compares with the ledger."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(record), default=str))
    return plain


def broken(
    storage: str | Path,
    study: str,
    *,
    acknowledged: Iterable[TrialRecord | Mapping[str, Any]] = (),
    paused: Iterable[int] = (),
    workers: Collection[int] | None = None,
    finished: int | None = None,
    said: str = "",
    here: Path | None = None,
    searching: bool = False,
) -> list[str]:
    """What is wrong with a study, a sentence each; nothing when all is as it must be.

    storage: the SQLite file, or its URL.
    acknowledged: every trial whose end a search has told of (as a record, or as `told` makes one), in the order of telling.
    paused: numbers of trials of which the last thing told is that they are paused, with a checkpoint.
    workers: numbers of the trials that have a worker now; None between a fault and its rerun, when nobody knows yet.
    finished: the --trials of a rerun that has come to its end; None while none has.
    said: all that the commands printed on stderr.
    here: the folder that the commands ran in; default the current one. No process may be left that works there.
    searching: a search is at it now, so that processes may be there.
    """
    path = _path(storage)
    found = [f"no traceback: {line}" for line in said.splitlines() if "Traceback" in line]
    if not searching:
        found += _orphans(here or Path.cwd())
    records = [entry if isinstance(entry, Mapping) else told(entry) for entry in acknowledged]
    found += [
        f"told once: trial {number}'s end was told {count} times"
        for number, count in Counter(record["number"] for record in records).items()
        if count > 1
    ]
    waiting = set(paused)
    # Before the ledger: a search that goes on removes a checkpoint only after the ledger says that its trial has ended.
    kept = {number for number in waiting if checkpoints(path.parent / study / "trials" / str(number) / "checkpoint")}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        if path.exists():
            _copy(path, copy, live=searching)
            found += _of_the_ledger(copy, study, records, waiting, kept, workers, finished)
        elif records or finished:
            found.append("kept: the ledger is gone")
    return [*found, *_partial_files(path.parent / study), *_tracebacks(path.parent / study)]


def _path(storage: str | Path) -> Path:
    path = sqlite_path(str(storage)) if "://" in str(storage) else Path(storage)
    assert path is not None, "the invariant is one of SQLite files"
    return path


def _copy(path: Path, copy: Path, *, live: bool) -> None:
    """A copy to look into: of a dead search's the file with its journal, so that the rerun itself rolls back a half commit."""
    if live:
        with closing(sqlite3.connect(path, timeout=60)) as reading, closing(sqlite3.connect(copy)) as writing:
            reading.backup(writing)
        return
    shutil.copy(path, copy)
    journal = path.with_name(f"{path.name}-journal")
    if journal.exists():
        shutil.copy(journal, copy.with_name(journal.name))


def _of_the_ledger(
    copy: Path,
    study: str,
    acknowledged: list[Mapping[str, Any]],
    paused: set[int],
    kept: set[int],
    workers: Collection[int] | None,
    finished: int | None,
) -> Iterator[str]:
    with closing(sqlite3.connect(copy)) as ledger:
        try:
            verdict = [row[0] for row in ledger.execute("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            verdict = [str(error)]
        if verdict != ["ok"]:
            yield f"integrity_check: {'; '.join(verdict)}"
            return
        known = ledger.execute("SELECT study_id FROM studies WHERE study_name = ?", (study,)).fetchone()
        if known is None:
            if acknowledged or finished:
                yield f"kept: the study {study} is gone"
            return
        rows = {number: (trial, state) for number, trial, state in ledger.execute(TRIALS, known)}
        states = {number: state for number, (_, state) in rows.items()}
        noted: dict[int, dict[str, Any]] = defaultdict(dict)
        for number, key, value in ledger.execute(ATTRIBUTES, known):
            noted[number][key] = json.loads(value)
        configs: dict[int, list[tuple[str, float]]] = defaultdict(list)
        for number, name, value in ledger.execute(PARAMS, known):
            configs[number].append((name, value))
        yield from _numbered(ledger.execute(NUMBERS, known).fetchall())
        yield from _told_once(states, noted, configs)
        yield from _values(states, ledger.execute(VALUES, known).fetchall(), ledger.execute(REPORTED, known).fetchall())
        yield from _running(states, noted, paused, kept, workers)
    if acknowledged:
        yield from _kept(acknowledged, Study(study, f"sqlite:///{copy}"))
    count = sum(state in FINISHED for state in states.values())
    if finished is not None and count != finished:
        yield f"exactly --trials: {count} are finished, not {finished}"


OF_STUDY = "FROM {} JOIN trials USING (trial_id) WHERE study_id = ?"
TRIALS = "SELECT number, trial_id, state FROM trials WHERE study_id = ?"
NUMBERS = "SELECT number FROM trials WHERE study_id = ? ORDER BY trial_id"
ATTRIBUTES = f"SELECT number, key, value_json {OF_STUDY.format('trial_user_attributes')}"
PARAMS = f"SELECT number, param_name, param_value {OF_STUDY.format('trial_params')} ORDER BY param_name"
VALUES = f"SELECT number, value {OF_STUDY.format('trial_values')}"
REPORTED = f"SELECT number, step, intermediate_value {OF_STUDY.format('trial_intermediate_values')}"


def _numbered(rows: list[tuple[int]]) -> Iterator[str]:
    numbers = [number for (number,) in rows]
    if numbers != list(range(len(numbers))):
        twice = sorted(number for number, count in Counter(numbers).items() if count > 1)
        yield f"numbers: the trials are not numbered from 0 on, each once; twice: {twice or 'none'}"


def _told_once(
    states: Mapping[int, str], noted: Mapping[int, dict[str, Any]], configs: Mapping[int, list[tuple[str, float]]]
) -> Iterator[str]:
    retried = Counter(told["retry_of"] for told in noted.values() if "retry_of" in told)
    for number, count in retried.items():
        if count > 1:
            yield f"told once: trial {number} was queued again {count} times"
        if states.get(number) in FINISHED:
            yield f"told once: trial {number} is {states[number]}, and was queued again"
    runs = Counter(
        (str(configs[number]), noted[number].get("seed")) for number, state in states.items() if state in FINISHED
    )
    for (config, seed), count in runs.items():
        if count > 1:
            yield f"told once: {count} finished trials have the config {config} and the seed {seed}"


def _values(
    states: Mapping[int, str], values: list[tuple[int, float]], reported: list[tuple[int, int, float]]
) -> Iterator[str]:
    twice = [place for place, count in Counter((number, step) for number, step, _ in reported).items() if count > 1]
    if twice:
        yield f"told once: trials and epochs that are reported twice: {twice}"
    best: dict[int, float] = {}
    for number, step, value in reported:
        if step:  # 0 is the early look
            best[number] = max(value, best.get(number, value))
    had = defaultdict(list)
    for number, value in values:
        had[number].append(value)
    for number, state in states.items():
        if state == "COMPLETE" and had[number] != [best.get(number)]:
            yield f"values: trial {number} has the values {had[number]}, its best epoch {best.get(number)}"
        if state not in FINISHED and had[number]:
            yield f"values: trial {number} is {state}, and has the value {had[number]}"


def _running(
    states: Mapping[int, str],
    noted: Mapping[int, dict[str, Any]],
    paused: set[int],
    kept: set[int],
    workers: Collection[int] | None,
) -> Iterator[str]:
    for number in sorted(paused):
        if states.get(number) == "RUNNING" and "paused" not in noted[number]:
            yield f"stuck: trial {number} was told to be paused, and the ledger does not know"
        put_off = noted[number].get("paused", {}).get("rung", 0) is None  # before it had anything to keep
        if states.get(number) == "RUNNING" and not put_off and number not in kept:
            yield f"stuck: trial {number} was told to be paused, and has no checkpoint"
    if workers is None:
        return
    for number, state in states.items():
        if state == "RUNNING" and number not in workers and noted[number].get("paused", {}).get("runs", True):
            yield f"stuck: trial {number} is RUNNING, has no worker and is not paused"


def _kept(acknowledged: list[Mapping[str, Any]], study: Study) -> Iterator[str]:
    now = {record.number: told(record) for record in study.trials()}
    for record in acknowledged:
        found = now.get(record["number"])
        if found is None:
            yield f"kept: trial {record['number']} was told as {record['state']}, and is gone"
        elif found != record:
            changed = {key: (record[key], found.get(key)) for key in record if record[key] != found.get(key)}
            yield f"kept: trial {record['number']} was told otherwise: {changed}"


def _partial_files(folder: Path) -> Iterator[str]:
    """Files that bear a final name and are not whole; the model's in its folder, those of a refit in work, and checkpoints."""
    for place in (found for pattern in MODEL_FOLDERS for found in folder.glob(pattern) if found.is_dir()):
        try:
            manifest.verify(place, manifest.read(place))
        except UnsafeFile as error:
            yield f"partial: {error}"
    for place in folder.glob("trials/*/checkpoint"):
        for file in place.iterdir():
            if not file.name.startswith("new") and file not in checkpoints(place) and file.exists():
                yield f"partial: {file}"
    for file in folder.glob(".refit/*/**/*"):
        if file.suffix == ".keras" and not file.name.startswith("new-") and not _is_whole(file):
            yield f"partial: {file}"
        if file.suffix == ".json" and not _is_json(file):
            yield f"partial: {file}"


def checkpoints(place: Path) -> list[Path]:
    """Those that are whole: real trials keep a step's arrays, fake ones the epoch that they have come to."""
    steps = [file for file in place.glob("step-*.npz") if _is_whole(file)]
    return steps + [file for file in place.glob("epoch") if _is_number(file)]


def _is_number(file: Path) -> bool:
    try:
        return file.read_text().isdigit()
    except OSError:  # a search that goes on has removed it
        return False


def _is_whole(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text())
    except ValueError:
        return False
    return True


def _tracebacks(folder: Path) -> Iterator[str]:
    """In what the server that forks trials wrote; a task that fails does leave one in its log."""
    log = folder / "server.log"
    if log.exists() and "Traceback" in log.read_text(errors="replace"):
        yield f"no traceback: one is in {log}"


def _orphans(here: Path) -> Iterator[str]:
    deadline = time.monotonic() + ORPHANS_SECONDS
    while (left := _working(here)) and time.monotonic() < deadline:
        time.sleep(0.02)
    yield from (f"orphan: process {pid} still works in {here}: {command}" for pid, command in left)


def _working(here: Path) -> list[tuple[int, str]]:
    """Processes that work in a folder or below, but for this one and those that started it."""
    own = psutil.Process()
    known = {own.pid, *(parent.pid for parent in own.parents())}
    left = []
    for process in psutil.process_iter():
        try:
            if process.pid not in known and Path(process.cwd()).is_relative_to(here.resolve()):
                left.append((process.pid, " ".join(process.cmdline())[:200]))
        except psutil.Error:
            pass  # ended in between, or another user's
    return left
