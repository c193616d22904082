"""From one model to every wanted format: each written beside its place, reloaded by its own runtime, compared and measured."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from autofash import data, failpoints, hardware, manifest
from autofash.errors import Interrupted, Problem, ResourceError, StudyBusy, UnsafeFile
from autofash.executors import Executor, ProcessExecutor
from autofash.records import Ending, EpochReport, Outcome, Report, TrialSpec, Verdict
from autofash.runtimes import FORMATS, Array, Format, Predictor, check_format, load_keras, probabilities
from autofash.study import Study

COMPARED = 1000  # validation images
LARGEST_DRIFT = 1e-3  # of a probability from model.keras'; 3e-8 is usual, and a layer that is left active makes it 0.1
WARM_UP, CALLS = 20, 200  # of one image
BATCH, BATCHES = 256, 10  # of many
BESIDE = ".export-"  # how folders begin that hold what is not proven yet
Watch = Callable[[str, int, int], None]  # what is being done, formats done, formats in all


@dataclass(frozen=True, slots=True)
class Exported:
    """A format of a model, proven and measured; or why it is not, and then its figures are 0.

    Measured on the CPU: TensorFlow with a thread a core, the other runtimes with as many as they choose by themselves.
    """

    format: str  # a name in runtimes.FORMATS
    path: Path  # of the file or folder
    bytes: int = 0  # on disk, all files of the folder
    parameters: int = 0
    largest_difference: float = 0.0  # of a probability from model.keras', 0 to 1
    agreement: float = 0.0  # share of the images that get the label that model.keras gives them, 0 to 1
    images: int = 0  # compared, of the validation images
    latency_p50_ms: float = 0.0  # one image, the median of 200 calls
    latency_p99_ms: float = 0.0
    images_per_second: float = 0.0  # in batches of 256, the median of 10
    repeated: bool = False  # it was there already, intact; nothing was made
    failed: str = ""  # why it is not there, or not the new one; empty when proven


def export(
    folder: Path,
    formats: Sequence[str],
    *,
    validation: str | Path,
    log: Path,
    watch: Watch | None = None,
    executor: Executor | None = None,
) -> list[Exported]:
    """Bring a refitted model into these formats; a record for each, in this order, of those that failed too.

    folder: of the model, which its manifest vouches for. formats: names in runtimes.FORMATS. validation: folder of prepared data,
    whose validation images are what the formats are compared on. log: file for all that the libraries print.
    executor: where to run, and left open; None for one of its own.
    A format takes its place, and the manifest vouches for it, once its runtime has answered as model.keras does. What is not
    proven is removed, and an earlier export of that format stays as it was. One that is intact, of this very model, is not made
    again. Every other file that the manifest vouched for, and that was changed since, is no longer vouched for.
    Raises UsageError for a format that does not exist or whose extra is not installed, UnsafeFile when the model is not what the
    manifest vouches for, StudyBusy while another process exports it, ResourceError where nothing can be written, Interrupted.
    """
    wanted = [check_format(name, to_write=True) for name in dict.fromkeys(formats)]
    manifest.verify(folder, manifest.read(folder), [manifest.MODEL])
    runner = executor
    records: list[Exported] = []
    with _alone(folder):
        try:
            for found in wanted:
                if watch:
                    watch(f"exporting {found.name}", len(records), len(wanted))
                record = _earlier(folder, found)
                if record is None:
                    runner = runner or ProcessExecutor(log=log)
                    record = _made(folder, found, validation, log, runner)
                records.append(record)
        except OSError as error:
            raise manifest.not_writable(folder, error) from None
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {len(records)} of {len(wanted)} formats are there", "the same command again"
            ) from None
        finally:
            if runner is not None and runner is not executor:
                runner.close()
    return records


def export_study_model(
    study: Study, folder: Path, formats: Sequence[str], *, data_dir: Path | None = None, watch: Watch | None = None
) -> list[Exported]:
    """`export` of a model of this study, compared on the study's own validation images.

    data_dir: folder of the data set's files. Raises StudyMismatch where the data are others than the study's, DataError, and
    whatever `export` raises.
    """
    wanted = [check_format(name, to_write=True) for name in formats]
    if all(_earlier(folder, found) for found in wanted):  # nothing will be compared: the data may be anywhere by now
        return export(folder, formats, validation="", log=study.folder / "export.log", watch=watch)
    prepared = data.prepare_for(study.settings, data.locate(study.settings.dataset, data_dir))
    return export(folder, formats, validation=prepared.folder, log=study.folder / "export.log", watch=watch)


def check_exported(records: Sequence[Exported]) -> None:
    """Raise ResourceError with a line for each format that was not proven."""
    failed = [record for record in records if record.failed]
    if failed:
        raise ResourceError(
            [Problem(f"{record.format} was not exported: {record.failed}") for record in failed], code="E-EXPORT"
        )


def export_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """In a process of its own: write one format, reload it by its runtime, compare and measure.

    spec.options: `folder` of the model, `format`, and `beside`, the folder to write into.
    Raises ResourceError when the format answers otherwise than model.keras.
    """
    from autofash import training

    training.take_resources(spec)
    wanted, beside = FORMATS[spec.options["format"]], Path(spec.options["beside"])
    source = Path(spec.options["folder"]) / manifest.MODEL
    model = load_keras(source)
    if wanted.path == manifest.MODEL:
        place = source  # proven and measured like the others; there is nothing to write
    else:
        place = beside / wanted.path
        _write(model, wanted, place)
        manifest.sync(place)
    images = data.load(spec.data).validation_images[:COMPARED]
    expected = probabilities(lambda batch: np.asarray(model.predict_on_batch(batch)), images)
    predictor = wanted.load(place)
    difference, agreement = compare(expected, probabilities(predictor, images), wanted.name)
    return {
        "bytes": sum(file.stat().st_size for file in [place, *place.rglob("*")] if file.is_file()),
        "parameters": model.count_params(),
        "largest_difference": difference,
        "agreement": agreement,
        "images": len(images),
        **_speed(predictor, images),
    }


def compare(expected: Array, found: Array, name: str) -> tuple[float, float]:
    """How far probabilities, float32 (n, classes), are from the expected ones.

    Returns the largest difference, and the share of the images with the same label, 0 to 1.
    Raises ResourceError E-EXPORT-DRIFT when a difference is above 1e-3 or not a number. name: of the format, for the message.
    """
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else math.nan
    if not difference <= LARGEST_DRIFT:
        raise ResourceError(
            f"{name} answers otherwise than {manifest.MODEL}: a probability differs by {difference:.2g}",
            "another format",
            code="E-EXPORT-DRIFT",
        )
    return difference, float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())


def _write(model: Any, wanted: Format, place: Path) -> None:
    import keras

    # Layers of augmentation are active in an export unless they are called like this; model.export alone would let them be.
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="pixels")
    still = keras.Model(inputs, model(inputs, training=False))
    still(np.zeros((1, *model.input_shape[1:]), np.uint8))  # tf2onnx wants a model that was called before
    if wanted.name == "openvino":
        place.mkdir()
        place = place / "model.xml"  # and model.bin beside it
    still.export(str(place), format="tf_saved_model" if wanted.name == "saved_model" else wanted.name, verbose=False)


def _speed(predictor: Predictor, images: Array) -> dict[str, float]:
    """Latency of one image, and images per second of many, after a few calls that do not count."""
    many = np.resize(images, (BATCH, *images.shape[1:]))
    single = [_seconds(predictor, images[:1]) for _ in range(WARM_UP + CALLS)][WARM_UP:]
    batches = [_seconds(predictor, many) for _ in range(2 + BATCHES)][2:]
    return {
        "latency_p50_ms": 1000 * float(np.percentile(single, 50)),
        "latency_p99_ms": 1000 * float(np.percentile(single, 99)),
        "images_per_second": BATCH / float(np.median(batches)),
    }


def _seconds(predictor: Predictor, images: Array) -> float:
    began = time.perf_counter()
    predictor(images)
    return time.perf_counter() - began


def _earlier(folder: Path, wanted: Format) -> Exported | None:
    """What was exported before from this very model, if every file of it is intact."""
    told = manifest.read(folder)
    try:
        figures = dict(_exports(told)[wanted.name])
        if figures.pop("model") != told["files"][manifest.MODEL]["sha256"] or not _intact(folder, told, wanted.path):
            return None
        return Exported(wanted.name, folder / wanted.path, **figures, repeated=True)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # never exported, or by hands other than ours


def _made(folder: Path, wanted: Format, validation: str | Path, log: Path, runner: Executor) -> Exported:
    beside = Path(tempfile.mkdtemp(prefix=BESIDE, dir=folder))
    try:
        model = manifest.read(folder)["files"][manifest.MODEL]["sha256"]
        spec = TrialSpec(
            trial=0,
            config={},
            seed=0,
            epochs=1,
            data=str(validation),
            task="autofash.export:export_task",
            threads=hardware.plan(workers=1).threads,
            device="-1",  # the other runtimes are on the CPU, and a GPU's own rounding would count as drift
            log=str(log.absolute()),
            options={"folder": str(folder.absolute()), "format": wanted.name, "beside": str(beside.absolute())},
        )
        ended = _ended(runner, spec)
        if ended.ending is not Ending.DONE:
            return Exported(wanted.name, folder / wanted.path, failed=ended.reason)
        _put(folder, wanted, beside, {**ended.details, "model": model})
        return Exported(wanted.name, folder / wanted.path, **ended.details)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _ended(executor: Executor, spec: TrialSpec) -> Outcome:
    executor.submit(spec)
    while True:
        for event in executor.events(timeout_seconds=0.5):
            match event:
                case EpochReport():
                    executor.reply(event.trial, Verdict.go())
                case Outcome():
                    return event


def _put(folder: Path, wanted: Format, beside: Path, figures: Mapping[str, Any]) -> None:
    """Put what was proven in its place, and into the manifest; what was there before comes back where that fails."""
    told = manifest.read(folder)
    manifest.verify(folder, told, [manifest.MODEL])
    if told["files"][manifest.MODEL]["sha256"] != figures["model"]:
        raise StudyBusy(f"the model in {folder} was replaced while it was exported", "the same command again")
    place, new, older = folder / wanted.path, beside / wanted.path, beside / "older"
    # The manifest is written with hashes made anew: a file that was changed since must not be among them.
    files = [
        name for name in told["files"] if not (folder / name).is_relative_to(place) and _intact(folder, told, name)
    ]
    exports = {
        name: told["exports"][name]
        for name, format in FORMATS.items()
        if name in _exports(told) and _intact(folder, told, format.path)
    }
    written = new.exists()
    try:
        if written:
            failpoints.reach("export")
            if place.exists():
                place.rename(older)
                failpoints.reach("export")
            new.rename(place)
            failpoints.reach("export")
        manifest.write(folder, {**told, "exports": {**exports, wanted.name: figures}}, [*files, wanted.path])
    except BaseException:
        if written and not new.exists():
            place.rename(new)
        if older.exists():
            older.rename(place)
        raise


def _exports(told: Mapping[str, Any]) -> Mapping[str, Any]:
    found = told.get("exports")
    return found if isinstance(found, dict) else {}


def _intact(folder: Path, told: Mapping[str, Any], name: str) -> bool:
    try:
        manifest.verify(folder, told, [name])
    except UnsafeFile:
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While this lasts, no other process exports into the folder; what a killed one left behind is gone."""
    lock = filelock.FileLock(folder / ".exporting.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyBusy(f"another process is exporting into {folder}", "wait for it") from None
    except OSError as error:
        raise manifest.not_writable(folder, error) from None
    try:
        for left in folder.glob(f"{BESIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
