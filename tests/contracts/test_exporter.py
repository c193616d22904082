"""What every export format promises, run over all five with their real runtimes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autofash import data, manifest
from autofash.errors import AutofashError, UnsafeFile
from autofash.executors import Executor
from autofash.export import Exported, export
from autofash.records import TrialSpec
from autofash.runtimes import FORMATS, probabilities

pytestmark = pytest.mark.keras


def model_folder(folder: Path, model: Any) -> Path:
    """A refitted model's folder as refitting leaves it, as far as exporting cares."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / manifest.MODEL)
    np.savez_compressed(folder / manifest.PREDICTIONS, probabilities=np.eye(10, dtype=np.float32), labels=np.arange(10))
    told = {"format": manifest.FORMAT, "study": "digits-cnn", "trial": 0, "exports": {}}
    manifest.write(folder, told, [manifest.MODEL, manifest.PREDICTIONS])
    return folder


def prepared_digits() -> data.PreparedData:
    return data.prepare("digits", data.locate("digits", None), seed=0, validation=0.2)


class NoExecutor:
    """Stands where nothing may be run."""

    def submit(self, spec: TrialSpec) -> None:
        raise AssertionError(f"{spec.task} was run")

    def events(self, timeout_seconds: float) -> list[Any]:
        return []

    def reply(self, trial: int, verdict: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small convolutional network that has learnt something."""
    import keras

    from autofash import models

    keras.utils.set_random_seed(1)
    model = models.build(
        {"family": "cnn", "width": 8, "conv_blocks": 2, "normalization": "batch", "head_dropout": 0.2}, (8, 8, 1), 10
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    found = data.load(prepared_digits().folder)
    model.fit(np.asarray(found.train_images), np.asarray(found.train_labels), epochs=3, verbose=0)
    return model_folder(tmp_path_factory.mktemp("study") / "best", model)


@pytest.fixture(scope="module", params=list(FORMATS))
def exported(request: pytest.FixtureRequest, folder: Path, executor: Executor) -> Exported:
    """One format of the model, exported for the first time."""
    return again(folder, request.param, executor)


def again(folder: Path, name: str, executor: Executor) -> Exported:
    [record] = export(
        folder, [name], validation=prepared_digits().folder, log=folder.parent / "export.log", executor=executor
    )
    return record


def own_files(folder: Path, record: Exported) -> list[Path]:
    return sorted(path for path in [record.path, *record.path.rglob("*")] if path.is_file())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_format_answers_as_the_model_does_and_is_measured(exported: Exported) -> None:
    assert exported.failed == "" and not exported.repeated
    assert exported.largest_difference < 1e-5 and exported.agreement == 1.0
    assert exported.images == prepared_digits().validation and exported.parameters > 1000
    assert 0 < exported.latency_p50_ms <= exported.latency_p99_ms and exported.images_per_second > 1
    assert exported.bytes == sum(path.stat().st_size for path in own_files(exported.path.parent, exported))


def test_its_runtime_gives_probabilities_for_any_number_of_images(exported: Exported) -> None:
    predictor = FORMATS[exported.format].load(exported.path)
    images = np.asarray(data.load(prepared_digits().folder).validation_images)
    seven, one = probabilities(predictor, images[:7]), probabilities(predictor, images[3:4])
    assert seven.shape == (7, 10) and seven.dtype == np.float32
    np.testing.assert_allclose(seven.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(one[0], seven[3], atol=1e-5)


def test_the_manifest_vouches_for_every_file_of_it_and_tells_its_figures(folder: Path, exported: Exported) -> None:
    told = manifest.read(folder)
    manifest.verify(folder, told)
    assert {path.relative_to(folder).as_posix() for path in own_files(folder, exported)} <= set(told["files"])
    figures = told["exports"][exported.format]
    assert figures["bytes"] == exported.bytes and figures["latency_p50_ms"] == exported.latency_p50_ms
    assert told["study"] == "digits-cnn" and {manifest.MODEL, manifest.PREDICTIONS} <= set(told["files"])


def test_nothing_else_lies_in_the_folder(folder: Path, exported: Exported) -> None:
    vouched = {name.split("/")[0] for name in manifest.read(folder)["files"]}
    assert {path.name for path in folder.iterdir()} - {".exporting.lock"} == vouched | {manifest.MANIFEST}


def test_one_flipped_byte_in_any_of_its_files_is_found_out(folder: Path, exported: Exported) -> None:
    for path in own_files(folder, exported):
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(UnsafeFile, match=path.name) as caught:
            manifest.verify(folder, manifest.read(folder), [FORMATS[exported.format].path])
        assert (caught.value.code, caught.value.exit_code) == ("E-MODEL-INCOMPLETE", 7)
        path.write_bytes(whole)


def test_a_second_export_finds_it_intact_and_runs_nothing(folder: Path, exported: Exported) -> None:
    before = {path: path.stat().st_mtime_ns for path in [*own_files(folder, exported), folder / manifest.MANIFEST]}
    record = again(folder, exported.format, NoExecutor())
    assert record.repeated and record.images_per_second == exported.images_per_second
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_one_is_made_again(folder: Path, exported: Exported, executor: Executor) -> None:
    path = own_files(folder, exported)[-1]
    whole = path.read_bytes()
    flip(path)
    if exported.format == "keras":  # the model itself: only a refit can repair that
        with pytest.raises(UnsafeFile, match="not what the manifest vouches for"):
            again(folder, exported.format, NoExecutor())
        path.write_bytes(whole)
        return
    record = again(folder, exported.format, executor)
    assert not record.repeated and record.failed == "" and record.agreement == 1.0
    manifest.verify(folder, manifest.read(folder))


def test_a_file_that_its_runtime_does_not_take_is_refused_in_one_line(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / exported.path.name
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(AutofashError) as caught:
        FORMATS[exported.format].load(path)
    assert caught.value.exit_code == 7 and "Try: " in str(caught.value) and "\n" not in str(caught.value)
