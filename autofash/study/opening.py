"""Opens a study for the one process that writes it: locked, its ledger sound, made or found, and the same as it was."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields

import optuna

from autofash.errors import StudyMismatch
from autofash.records import StudySettings
from autofash.space import space_from_table
from autofash.study.ledger import Study, create_or_load, study_names
from autofash.study.lock import ServerLock, StudyLock, creating
from autofash.study.soundness import check_local
from autofash.study.storage import (
    artifacts,
    check_name,
    examine,
    is_confirmation,
    ledger_errors,
    open_storage,
    sqlite_path,
    understood,
)

FIXED_SETTINGS = ("data_fingerprint", "space_fingerprint", "objective", "epochs", "seed", "validation")


class OpenedStudy:
    """A study that nobody else can write until it is closed."""

    def __init__(self, name: str, storage: str, settings: StudySettings, target: int | None) -> None:
        """Take the study's lock, and make the study with these settings where there is none. target: trials of a new one.

        Raises StudyBusy, StudyMismatch with every difference, LedgerError, UsageError.
        """
        if not is_confirmation(name):
            check_name(name, storage)
        self.folder = artifacts(storage) / name
        with ledger_errors(storage), understood(storage):
            if (path := sqlite_path(storage)) is not None:
                check_local(path)
            if name in study_names(storage):  # what will not do when the study is free is said while it is busy, too
                _check_same(Study(name, storage), settings)
            artifacts(storage).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock, self._held = StudyLock(self.folder, name), ExitStack()
            try:
                self._held.callback(ServerLock(storage, name).release)
                with creating(storage, artifacts(storage)):
                    examine(storage)
                    self.storage = open_storage(storage, write=True, sole=True)
                    self._held.callback(self.storage.engine.dispose)
                    self.study: optuna.Study = create_or_load(name, self.storage, settings, target or 50)
                self.read = Study(name, storage)
                _check_same(self.read, settings)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let others write."""
        self._held.close()
        self._lock.release()


def _check_same(study: Study, settings: StudySettings) -> None:
    """Raise StudyMismatch with every difference that a resumed search may not have."""
    before = study.settings
    differing = [
        f.name
        for f in fields(StudySettings)
        if f.name in FIXED_SETTINGS and getattr(before, f.name) != getattr(settings, f.name)
    ]
    if not differing:
        return
    lines, code = [], "E-STUDY-MISMATCH"
    for name in differing:
        match name:
            case "space_fingerprint":
                asked = space_from_table(settings.space_table, name=settings.space, where=settings.space)
                lines.append("another space: " + "; ".join(asked.difference(before.space_table)))
                code = "E-SPACE-MISMATCH"
            case "data_fingerprint":
                was, now = (f"{found.dataset} {found.data_fingerprint[:12]}" for found in (before, settings))
                lines.append(f"other data: {was} → {now}")
                code = "E-DATA-CHANGED"
            case _:
                lines.append(f"{name} {getattr(before, name)} → {getattr(settings, name)}")
    raise StudyMismatch(
        f"the study {study.name} was begun with {'; '.join(lines)}",
        "--new-study to begin another beside it, or the earlier settings",
        code=code,
    )
