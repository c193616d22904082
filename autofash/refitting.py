"""From the best config to a model that can be trusted: trained on train + validation, tested once, saved, reloaded, compared.

Each step leaves its result in a working folder, so that a killed refit goes on where it was: a training from its last epoch,
and a test that was done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock

from autofash import data, failpoints, hardware, manifest
from autofash.errors import (
    Interrupted,
    NoTrial,
    ResourceError,
    StudyBusy,
    UnsafeFile,
    UsageError,
    disk_error,
)
from autofash.executors import Executor, ProcessExecutor
from autofash.manifest import GALLERY, MODEL, PREDICTIONS
from autofash.records import Ending, EpochReport, FittedModel, Outcome, TrialRecord, TrialSpec, Verdict
from autofash.study import Candidate, Study, candidates, check_searched
from autofash.study.proposals import epochs_of

Watch = Callable[[str, int, int], None]  # what is being done, steps done, steps in all (0 where unknown)


def refit(
    study: Study,
    trial: int | None = None,
    *,
    ensemble: int = 1,
    tta: bool = False,
    epochs: int | None = None,
    data_dir: Path | None = None,
    command: str = "autofash.refit",
    watch: Watch | None = None,
    executor: Executor | None = None,
) -> FittedModel:
    """Train a trial's config on train + validation, test it once, save it, and prove that the file is the model.

    trial: number; None for the best, which is the first of the confirmed where configs were confirmed. ensemble: average the
    models of this many distinct configs, the best first, in one file. tta: the saved model also looks at each image's mirror
    image, and averages. epochs: to train; None for the best epoch. The learning-rate schedule is the trial's own in any case.
    command: noted in the ledger beside the opening of the test set. executor: where to train, and left open; None for one of
    its own.

    What was saved before for the same trials, and is intact, is returned as it is: nothing is trained or opened again.
    Raises NoTrial, UsageError, StudyBusy, StudyMismatch, DataError, ResourceError, Interrupted.
    """
    check_searched(study)
    members = _members(study, trial, ensemble, epochs)
    name = ("best" if ensemble == 1 else f"ensemble-{ensemble}") if trial is None else f"trial-{trial}"
    folder = study.folder / (name + ("-tta" if tta else ""))
    with _sole(study):
        _mend(folder)
        recipe = _recipe(study, members, tta)
        saved, damage = _saved(folder, recipe)
        if saved is not None:
            return saved
        study.warn_if_model_changed()
        runner = executor or ProcessExecutor("autofash.training", log=study.folder / "server.log")
        try:
            work = _Refit(study, members, tta, recipe, runner, watch or (lambda *_: None))
            metrics = work.run(data_dir, command)
            _replace(folder, work.final)
            shutil.rmtree(work.place.parent, ignore_errors=True)  # and what was given up for this
        except OSError as error:
            raise manifest.not_writable(study.folder, error) from None
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted: what was trained is kept, and an earlier export is untouched", "the same command again"
            ) from None
        finally:
            if runner is not executor:
                runner.close()
    return FittedModel(folder, folder / MODEL, metrics, members[0].record.number, repeated=False, repaired=damage)


class _Refit:
    """One refit, from its configs to a folder with a manifest: train each member, assemble, test, vouch."""

    def __init__(
        self,
        study: Study,
        members: Sequence[Candidate],
        tta: bool,
        recipe: Mapping[str, Any],
        executor: Executor,
        watch: Watch,
    ) -> None:
        self._study, self._members, self._tta, self._recipe = study, members, tta, recipe
        self._executor, self._watch = executor, watch
        self._key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
        self._log = study.folder / "refit.log"
        self.place = study.folder / ".refit" / self._key  # work in progress, kept when killed
        self.final = self.place / "final"  # what becomes the model's folder
        self._resumed = self.place.exists()
        self.final.mkdir(parents=True, exist_ok=True)

    def run(self, data_dir: Path | None, command: str) -> dict[str, float]:
        """Everything, but what an earlier attempt has done already. Returns the metrics."""
        settings = self._study.settings
        self._watch("reading the data", 0, 0)
        source = data.locate(settings.dataset, data_dir)
        prepared = data.prepare_for(settings, source)
        began = time.monotonic()
        self._train(prepared)
        took = {} if self._resumed else {"refit_seconds": round(time.monotonic() - began, 1)}  # else it is not known
        self._watch("assembling and comparing", 0, 0)
        options = {"members": self._files(), "flip": self._tta}
        assembled = self._once("assembled", "assemble_task", [MODEL], prepared, options)
        self._watch("opening the test set", 0, 0)
        tested = self._test(prepared, source, command)
        metrics = {
            **tested,
            **assembled["metrics"],
            **took,
            "validation_accuracy": _validation_accuracy(self._members[0].record),
        }
        self._vouch(prepared, metrics, assembled["input"])
        return metrics

    def _train(self, prepared: data.PreparedData) -> None:
        """Train the members that are not there yet, as many at once as the machine has room for."""
        left = [
            (member, file) for member, file in zip(self._members, self._files(), strict=True) if not Path(file).exists()
        ]
        at_once = min(len(left), hardware.plan().workers)
        done = {member.record.number: 0 for member, _ in left}
        total = sum(member.epochs or 0 for member, _ in left)
        self._watch("starting Keras", 0, 0)
        plan = hardware.plan(workers=max(1, at_once))
        specs = [
            TrialSpec(
                trial=member.record.number,
                config=member.record.config,
                seed=member.record.seed,
                epochs=epochs_of(member.record.config, self._study.settings.epochs),
                data=prepared.folder,
                task="autofash.refit_tasks:fit_task",
                threads=plan.threads,
                precision=plan.precision,
                device=plan.device(slot),
                log=str(self._log.absolute()),
                options={"file": file, "epochs": member.epochs},
            )
            for slot, (member, file) in enumerate(left)
        ]

        def count(said: EpochReport) -> None:
            done[said.trial] = said.epoch
            self._watch("training on train + validation", sum(done.values()), total)

        _run(self._executor, specs, at_once, count, self._log)

    def _test(self, prepared: data.PreparedData, source: Path, command: str) -> dict[str, float]:
        """The test set's verdict, asked for once: an attempt that was killed after it is not asked for again."""
        done = self.place / "tested.json"
        openings = self._study.openings
        noted = max((n for n, told in enumerate(openings) if told.get("refit") == self._key), default=None)
        if noted is None or not self._is_done("tested", [PREDICTIONS, GALLERY]):
            # Noted before it is opened, so that no crash can hide an opening.
            noted = self._study.note_opening(
                {"when": _now(), "command": command, "trial": self._members[0].record.number, "refit": self._key}
            )
            done.unlink(missing_ok=True)
        options = {"dataset": self._study.settings.dataset, "source": str(source.absolute())}
        tested = self._once("tested", "test_task", [PREDICTIONS, GALLERY], prepared, options)
        self._study.note_result(noted, tested)
        return tested

    def _is_done(self, name: str, files: Sequence[str]) -> bool:
        """Whether an attempt that was killed later left a step's result and the files that it made."""
        return (self.place / f"{name}.json").exists() and all((self.final / file).exists() for file in files)

    def _once(
        self, name: str, task: str, files: Sequence[str], prepared: data.PreparedData, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A step's result: run it in a process of its own, unless it is done."""
        done = self.place / f"{name}.json"
        if not self._is_done(name, files):
            plan = hardware.plan(workers=1)
            record = self._members[0].record
            spec = TrialSpec(
                trial=record.number,
                config=record.config,
                seed=record.seed,
                epochs=1,
                data=prepared.folder,
                task=f"autofash.refit_tasks:{task}",
                threads=plan.threads,
                device=plan.device(0),
                log=str(self._log.absolute()),
                options={"folder": str(self.final.absolute()), "done": str(done.absolute()), **options},
            )
            _run(self._executor, [spec], 1, lambda _: None, self._log)
        told: dict[str, Any] = json.loads(done.read_text())
        return told

    def _files(self) -> list[str]:
        return [str((self.place / f"member-{member.record.number}.keras").absolute()) for member in self._members]

    def _vouch(self, prepared: data.PreparedData, metrics: Mapping[str, float], seen: Mapping[str, Any]) -> None:
        told = {
            "format": manifest.FORMAT,
            **self._recipe,
            "dataset": prepared.dataset,
            "classes": list(prepared.classes),
            "input": {"shape": list(prepared.image_shape), "dtype": "uint8", "range": [0, 255], **seen},
            "output": "class probabilities, float32",
            "space_fingerprint": self._study.settings.space_fingerprint,
            "metrics": dict(metrics),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("autofash", "keras", "numpy", "tensorflow") if find_spec(name)},
            },
            "machine": hardware.machine(),
            "created": _now(),
            "exports": {},
        }
        manifest.write(self.final, told, [MODEL, PREDICTIONS, GALLERY])


def _members(study: Study, trial: int | None, ensemble: int, epochs: int | None) -> list[Candidate]:
    """The trials to train, the best first."""
    if ensemble < 1:
        raise UsageError(f"--ensemble {ensemble} is not above 0", "--ensemble 3")
    if trial is not None:
        if ensemble > 1:
            raise UsageError("--ensemble takes the best trials, and --trial names one", "one of them")
        record = study.trial(trial)
        chosen = [Candidate(record, record.best_epoch)]
    else:
        study.best()  # raises NoTrial
        chosen = candidates(study)[:ensemble]
        if len(chosen) < ensemble:
            raise UsageError(
                f"--ensemble {ensemble}, but {study.name} has {len(chosen)} complete trials",
                f"--ensemble {len(chosen)}",
            )
    found = [Candidate(member.record, epochs or member.epochs) for member in chosen]
    for member in found:
        if member.epochs is None:
            raise NoTrial(f"trial {member.record.number} never finished an epoch", "another --trial")
    return found


def _recipe(study: Study, members: Sequence[Candidate], tta: bool) -> dict[str, Any]:
    """All that decides what model comes out; the same recipe is not made twice."""
    parts = [
        {
            "trial": member.record.number,
            "seed": member.record.seed,
            "epochs": member.epochs,
            "config": dict(member.record.config),
        }
        for member in members
    ]
    first = parts[0]
    return {
        "study": study.name,
        "trial": first["trial"],
        "seed": first["seed"],
        "epochs": first["epochs"],
        "config": first["config"],
        "members": parts,
        "tta": tta,
        "data_fingerprint": study.settings.data_fingerprint,
    }


def _saved(folder: Path, recipe: Mapping[str, Any]) -> tuple[FittedModel | None, str]:
    """The model that was made of this recipe before; or, where a file of it is not what it was, which."""
    try:
        told = manifest.read(folder)
    except UnsafeFile:
        return None, ""
    if any(told.get(key) != value for key, value in recipe.items()):
        return None, ""
    try:
        manifest.verify(folder, told, [MODEL, PREDICTIONS, GALLERY])
    except UnsafeFile as error:
        return None, error.problems[0].where
    return FittedModel(folder, folder / MODEL, told["metrics"], int(told["trial"]), repeated=True), ""


def _validation_accuracy(record: TrialRecord) -> float:
    """Accuracy of the trial's best epoch, whatever the study's objective was."""
    return next((said.accuracy for said in record.reports if said.epoch == record.best_epoch), record.value or 0.0)


def _run(
    executor: Executor,
    specs: Sequence[TrialSpec],
    at_once: int,
    on_report: Callable[[EpochReport], None],
    log: Path,
) -> None:
    """Run tasks, this many at once. Raises ResourceError when one fails."""
    left, running = list(specs), 0
    while left or running:
        while left and running < at_once:
            executor.submit(left.pop(0))
            running += 1
        for event in executor.events(timeout_seconds=0.5):
            match event:
                case EpochReport():
                    on_report(event)
                    executor.reply(event.trial, Verdict.go())
                case Outcome() if event.ending is Ending.DONE:
                    running -= 1
                case Outcome() if event.ending is Ending.DISK:
                    raise disk_error(event.reason, where=str(log.parent))
                case Outcome():
                    raise ResourceError(
                        f"refitting trial {event.trial} failed: {event.reason}", f"look into {log}", code="E-REFIT"
                    )


@contextmanager
def _sole(study: Study) -> Iterator[None]:
    """Keep every other refit of the study out. Raises StudyBusy."""
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(study.folder / "refit.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyBusy(f"another process is making a model of {study.name}", "again, when it is done") from None
    except OSError as error:
        raise manifest.not_writable(study.folder, error) from None
    try:
        yield
    finally:
        lock.release()


def _replace(folder: Path, new: Path) -> None:
    """Put the new folder in the place of the old one; `_mend` ends what a kill cut short."""
    old = _old(folder)
    failpoints.reach("export")
    try:
        if folder.exists():
            folder.rename(old)
            failpoints.reach("export")
        new.rename(folder)
    except OSError:
        _mend(folder)
        raise
    failpoints.reach("export")
    shutil.rmtree(old, ignore_errors=True)


def _mend(folder: Path) -> None:
    """Undo the replacement that a kill cut short between its two renames."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
