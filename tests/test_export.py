"""Exporting when things are not as they should be: leaks, damage, crashes, strangers at the same folder, no room."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autofash import data, manifest
from autofash import export as exporting
from autofash.errors import AutofashError, Interrupted, ResourceError, StudyBusy, UnsafeFile, UsageError
from autofash.executors import Event, Executor
from autofash.export import Exported, compare, export, export_task
from autofash.records import Report, TrialSpec, Verdict
from autofash.runtimes import FORMATS, probabilities
from tests.contracts.test_exporter import NoExecutor, flip, model_folder, prepared_digits

pytestmark = pytest.mark.keras


class Sabotaged:
    """Runs every format as it should be, but one, for which it runs another task."""

    def __init__(self, executor: Executor, name: str, task: str) -> None:
        self._executor, self._name, self._task = executor, name, task

    def submit(self, spec: TrialSpec) -> None:
        self._executor.submit(replace(spec, task=self._task) if spec.options["format"] == self._name else spec)

    def events(self, timeout_seconds: float) -> Sequence[Event]:
        return self._executor.events(timeout_seconds)

    def reply(self, trial: int, verdict: Verdict) -> None:
        self._executor.reply(trial, verdict)

    def close(self) -> None:
        self._executor.close()


def naive_task(spec: TrialSpec, report: Report) -> Mapping[str, Any]:
    """As the exporter, but calling `model.export` as anyone would."""
    exporting._write = lambda model, wanted, place: model.export(str(place), format="tf_saved_model", verbose=False)
    return export_task(spec, report)


def small(width: int = 8) -> Any:
    """A small model of ours, untrained."""
    import keras

    from autofash import models

    keras.utils.set_random_seed(width)
    return models.build({"family": "mlp", "width": width, "depth": 1}, (8, 8, 1), 10)


def augmenting() -> Any:
    """A model of someone else's, with its augmentation inside."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    pixels = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.RandomFlip("horizontal")(layers.RandomTranslation(0.3, 0.3)(x))
    x = layers.Dense(32, activation="relu", kernel_initializer="he_normal")(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(10, activation="softmax", kernel_initializer="he_normal")(x))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "best", small())


def run(folder: Path, formats: Sequence[str], executor: Any, **options: Any) -> list[Exported]:
    return export(
        folder,
        formats,
        validation=prepared_digits().folder,
        log=folder.parent / "export.log",
        executor=executor,
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_augmentation_that_leaks_into_an_export_is_caught_and_nothing_of_it_stays(
    tmp_path: Path, executor: Executor
) -> None:
    folder = model_folder(tmp_path / "best", augmenting())
    before = contents(folder)
    [record] = run(folder, ["saved_model"], Sabotaged(executor, "saved_model", "tests.test_export:naive_task"))
    assert "answers otherwise than model.keras" in record.failed and record.images_per_second == 0
    assert {name: content for name, content in contents(folder).items() if name != ".exporting.lock"} == before


def test_a_model_with_augmentation_inside_is_exported_with_the_augmentation_still(
    tmp_path: Path, executor: Executor
) -> None:
    folder = model_folder(tmp_path / "best", augmenting())
    for record in run(folder, list(FORMATS), executor):
        assert record.failed == "" and record.agreement == 1.0 and record.largest_difference < 1e-5, record


def test_flip_averaging_over_an_ensemble_is_the_same_in_every_format(tmp_path: Path, executor: Executor) -> None:
    import keras

    from autofash import models

    pixels = keras.Input((8, 8, 1), dtype="uint8")
    views = [pixels, keras.ops.flip(pixels, axis=2)]
    configs: list[dict[str, Any]] = [{"family": "mlp", "width": 8}, {"family": "cnn", "width": 4, "conv_blocks": 1}]
    members = [models.build(config, (8, 8, 1), 10) for config in configs]
    for number, member in enumerate(members):
        member.name = f"member_{number}"
    answers = [member(view, training=False) for member in members for view in views]
    folder = model_folder(tmp_path / "best", keras.Model(pixels, keras.layers.Average()(answers)))
    for record in run(folder, list(FORMATS), executor):
        assert record.failed == "" and record.agreement == 1.0 and record.largest_difference < 1e-5, record


def test_a_model_trained_in_half_precision_is_exported_in_float32(tmp_path: Path, executor: Executor) -> None:
    import keras
    import onnx

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(16)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile("adam", "sparse_categorical_crossentropy")
    found = data.load(prepared_digits().folder)
    model.fit(np.asarray(found.train_images), np.asarray(found.train_labels), verbose=0)
    assert "bfloat16" in model.to_json()
    folder = model_folder(tmp_path / "best", model)
    for record in run(folder, list(FORMATS), executor):
        assert record.failed == "" and record.agreement == 1.0 and record.largest_difference < 1e-5, record
    written = onnx.load(folder / "model.onnx")
    assert {weight.data_type for weight in written.graph.initializer} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    assert b"bf16" not in (folder / "openvino" / "model.xml").read_bytes()


def test_the_comparison_refuses_what_is_not_a_number_and_what_is_of_another_shape() -> None:
    same = np.full((4, 10), 0.1, np.float32)
    assert compare(same, same + np.float32(5e-4), "onnx")[0] == pytest.approx(5e-4, rel=1e-3)
    for other in (np.full_like(same, np.nan), same + np.float32(2e-3), same[:2], same[:, :5]):
        with pytest.raises(ResourceError, match="onnx answers otherwise") as caught:
            compare(same, other, "onnx")
        assert (caught.value.code, caught.value.exit_code) == ("E-EXPORT-DRIFT", 6)


@pytest.mark.parametrize(("task", "why"), [("raise_an_error", "out of order"), ("always_die", "signal 9")])
def test_a_format_that_fails_or_dies_costs_only_itself(task: str, why: str, folder: Path, executor: Executor) -> None:
    first, second = run(folder, ["onnx", "litert"], Sabotaged(executor, "onnx", f"tests.fakes:{task}"))
    assert why in first.failed and not first.path.exists()
    assert second.failed == "" and second.path.is_file()
    assert set(manifest.read(folder)["exports"]) == {"litert"}


def test_an_older_export_stays_as_it_was_until_the_new_one_is_proven(folder: Path, executor: Executor) -> None:
    run(folder, ["litert", "saved_model"], executor)
    small(12).save(folder / manifest.MODEL)  # another model, refitted into the same folder
    told = manifest.read(folder)
    manifest.write(folder, told, list(told["files"]))
    before = contents(folder)
    for record in run(folder, ["litert", "saved_model"], Sabotaged(executor, "litert", "tests.fakes:raise_an_error")):
        assert bool(record.failed) == (record.format == "litert") and not record.repeated
    after = contents(folder)
    assert after["model.tflite"] == before["model.tflite"] and after["saved_model/saved_model.pb"]
    assert (
        after["saved_model/variables/variables.data-00000-of-00001"]
        != before["saved_model/variables/variables.data-00000-of-00001"]
    )
    manifest.verify(folder, manifest.read(folder))
    [record] = run(folder, ["litert"], executor)
    assert not record.repeated and record.agreement == 1.0


def test_a_disk_that_is_full_at_the_last_moment_leaves_the_older_export(
    folder: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, ["litert", "saved_model"], executor)
    for name in ("model.tflite", "saved_model/saved_model.pb"):
        flip(folder / name)
    before = contents(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "write", full)
        for name in ("litert", "saved_model", "onnx"):
            with pytest.raises(ResourceError, match="No space left") as caught:
                run(folder, [name], executor)
            assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", 6)
    assert contents(folder) == before


def test_what_was_changed_behind_the_manifest_is_not_vouched_for_anew(folder: Path, executor: Executor) -> None:
    run(folder, ["litert"], executor)
    flip(folder / "model.tflite")
    flip(folder / manifest.PREDICTIONS)
    run(folder, ["saved_model"], executor)
    told = manifest.read(folder)
    assert set(told["exports"]) == {"saved_model"}
    for name in ("model.tflite", manifest.PREDICTIONS):
        with pytest.raises(UnsafeFile, match="not vouched for"):
            manifest.verify(folder, told, [name])


def test_a_model_that_is_not_what_its_manifest_vouches_for_is_not_exported(folder: Path, tmp_path: Path) -> None:
    flip(folder / manifest.MODEL)
    with pytest.raises(UnsafeFile, match="not what the manifest vouches for") as caught:
        run(folder, ["litert"], NoExecutor())
    assert caught.value.exit_code == 7
    with pytest.raises(UnsafeFile, match="no manifest"):
        run(tmp_path / "nowhere", ["litert"], NoExecutor())


def test_a_manifest_edited_by_hand_does_not_stand_in_the_way(folder: Path, executor: Executor) -> None:
    told = manifest.read(folder)
    for exports in (5, {"litert": 5}, {"litert": {"model": told["files"][manifest.MODEL]["sha256"], "colour": "red"}}):
        manifest.write(folder, {**told, "exports": exports}, told["files"])
        [record] = run(folder, ["litert"], executor)
        assert record.failed == "" and not record.repeated
    assert run(folder, ["litert"], NoExecutor())[0].repeated


def test_a_format_whose_extra_is_missing_is_refused_with_the_way_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, modules in (("onnx", "onnxruntime and tf2onnx"), ("openvino", "openvino")):
        with pytest.raises(UsageError, match=f"the format {name} needs {modules}") as caught:
            run(folder, ["litert", name], NoExecutor())
        assert (caught.value.code, caught.value.exit_code) == ("E-EXTRA", 2)
        assert f"Try: pip install 'autofash[{name}]'" in str(caught.value)


def test_a_format_that_does_not_exist_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match="there is no format 'onxx'. Try: onnx"):
        run(folder, ["onxx"], NoExecutor())


def test_a_folder_that_cannot_be_written_is_refused_at_once() -> None:
    with tempfile.TemporaryDirectory() as place:  # not tmp_path, which only its owner may enter
        folder = model_folder(Path(place) / "best", small())
        Path(place).chmod(0o755)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:  # to whom everything is writable
            os.seteuid(65534)
        began = time.monotonic()
        try:
            with pytest.raises(ResourceError, match="cannot be written: Permission denied") as caught:
                export(folder, ["litert"], validation="nowhere", log=folder / "log", executor=NoExecutor())
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
    assert time.monotonic() - began < 1
    assert (caught.value.code, caught.value.exit_code) == ("E-EXPORT-DIR", 6)
    assert f"Try: chmod u+w {folder}" in str(caught.value)


def test_two_processes_do_not_export_into_one_folder(folder: Path, executor: Executor) -> None:
    program = (
        "import sys; from pathlib import Path; from autofash.export import _alone\n"
        "with _alone(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(StudyBusy, match="another process is exporting"):
            run(folder, ["litert"], NoExecutor())
        other.kill()
    assert run(folder, ["litert"], executor)[0].failed == "", "a dead holder stands in nobody's way"


def test_an_interrupted_export_says_how_far_it_came_and_leaves_nothing_half_done(folder: Path) -> None:
    class Interrupting(NoExecutor):
        def submit(self, spec: TrialSpec) -> None:
            (Path(spec.options["beside"]) / "model.tflite").write_bytes(b"half")
            raise KeyboardInterrupt

    before = contents(folder)
    with pytest.raises(Interrupted, match="0 of 1 formats are there") as caught:
        run(folder, ["litert"], Interrupting())
    assert caught.value.exit_code == 130
    assert {name: content for name, content in contents(folder).items() if name != ".exporting.lock"} == before


def test_what_a_killed_export_left_behind_is_swept_up(folder: Path, executor: Executor) -> None:
    left = folder / ".export-abc"
    (left / "saved_model").mkdir(parents=True)
    (left / "saved_model" / "saved_model.pb").write_bytes(b"half")
    run(folder, ["litert"], executor)
    assert not left.exists()


def test_it_says_what_it_does_and_nothing_else_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[tuple[str, int, int]] = []
    capfd.readouterr()
    records = run(folder, ["litert", "onnx", "litert"], None, watch=lambda *told: said.append(told))
    assert said == [("exporting litert", 0, 2), ("exporting onnx", 1, 2)]
    assert [record.format for record in records] == ["litert", "onnx"] and not any(record.failed for record in records)
    assert capfd.readouterr() == ("", "") and (folder.parent / "export.log").stat().st_size > 0


def test_the_runtimes_name_the_file_that_they_cannot_load(folder: Path) -> None:
    for name, found in FORMATS.items():
        with pytest.raises(AutofashError) as caught:
            found.load(folder / "nowhere" / found.path)
        assert caught.value.exit_code == 7 and "nowhere" in str(caught.value), name


def test_probabilities_come_in_batches_and_in_order() -> None:
    images = np.arange(2500, dtype=np.float32).reshape(-1, 1)
    sizes: list[int] = []

    def predictor(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch

    assert (probabilities(predictor, images) == images).all() and sizes == [1000, 1000, 500]
