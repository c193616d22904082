"""Saved models at work, for real: a small network on the digits, in every format, behind a manifest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autofash import manifest
from autofash.data.sources import SOURCES
from autofash.errors import UnsafeFile, UsageError
from autofash.predict import LoadedModel, find_model, load_model, ranked
from autofash.runtimes import FORMATS

pytestmark = pytest.mark.keras
IMAGES, LABELS = SOURCES["digits"].test(Path())


@pytest.fixture(scope="session")
def folder(digits_model: Path) -> Path:
    return digits_model


@pytest.fixture(scope="session")
def model(folder: Path) -> LoadedModel:
    return load_model(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage, of model.keras alone."""
    place = tmp_path / "copy"
    place.mkdir()
    (place / manifest.MODEL).write_bytes((folder / manifest.MODEL).read_bytes())
    manifest.write(place, manifest.read(folder), [manifest.MODEL])
    return place


def test_a_loaded_model_knows_its_classes_and_answers_with_probabilities(model: LoadedModel) -> None:
    assert model.classes == tuple("0123456789") and model.format == "keras"
    assert model.manifest["input"]["shape"] == [8, 8, 1]
    predicted = model.predict(IMAGES)
    assert predicted.shape == (360, 10) and predicted.dtype == np.float32
    assert predicted.sum(axis=1) == pytest.approx(np.ones(360), abs=1e-5)
    assert (predicted.argmax(axis=1) == LABELS).mean() > 0.85


def test_it_answers_as_keras_does(model: LoadedModel, folder: Path) -> None:
    import keras

    bare = keras.models.load_model(folder / manifest.MODEL).predict(IMAGES[..., None], verbose=0)
    assert np.abs(model.predict(IMAGES) - bare).max() < 1e-6


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_runs_in_its_own_runtime_and_answers_alike(folder: Path, model: LoadedModel, name: str) -> None:
    loaded = load_model(folder / FORMATS[name].path)
    assert loaded.format == name
    for count in (360, 1, 7):
        assert np.abs(loaded.predict(IMAGES[:count]) - model.predict(IMAGES[:count])).max() < 1e-5


def test_a_picture_made_from_a_test_image_is_predicted_exactly_as_the_array(model: LoadedModel, tmp_path: Path) -> None:
    for row in range(20):
        Image.fromarray(IMAGES[row]).save(tmp_path / f"{row:02}.png")
    pictures = model.read([tmp_path])
    assert pictures.about == "20 pictures, as they are"
    assert (pictures.images[..., 0] == IMAGES[:20]).all()
    assert (model.predict(pictures.images) == model.predict(IMAGES[:20])).all()


def test_pictures_of_another_size_and_polarity_are_still_known(model: LoadedModel, tmp_path: Path) -> None:
    for row in range(100):
        picture = Image.fromarray(255 - IMAGES[row]).resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
        picture.save(tmp_path / f"{row:03}.jpg", quality=90)
    pictures = model.read([tmp_path])
    assert pictures.about == "100 pictures: resized to 8 × 8 grey, 100 inverted (this model knows light on dark)"
    agreement = model.predict(pictures.images).argmax(axis=1) == model.predict(IMAGES[:100]).argmax(axis=1)
    assert agreement.mean() >= 0.95


def test_no_image_is_no_error(model: LoadedModel) -> None:
    assert model.predict(np.zeros((0, 8, 8, 1), np.uint8)).shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "fact", "fix"),
    [
        (IMAGES / np.float32(255), "the images are float32, want uint8", "(images * 255).round().astype('uint8')"),
        (IMAGES.astype(np.float64), "the images are float64, want uint8", "images.astype('uint8')"),
        (IMAGES.astype(np.int64), "the images are int64, want uint8", "images.astype('uint8')"),
        (IMAGES[0], "the images are (8, 8), want (n, 8, 8, 1)", "images[None]"),
        (IMAGES[0][..., None], "the images are (8, 8, 1), want (n, 8, 8, 1)", "images[None]"),
        (np.zeros((3, 28, 28), np.uint8), "the images are (3, 28, 28), want (n, 8, 8, 1)", "read(paths)"),
        (np.zeros((3, 8, 8, 3), np.uint8), "the images are (3, 8, 8, 3), want (n, 8, 8, 1)", "read(paths)"),
        (np.uint8(3), "the images are (), want (n, 8, 8, 1)", "read(paths)"),
        ([["a"]], "the images are <U1, want uint8", "images.astype('uint8')"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_images_that_the_model_does_not_read_are_refused_with_the_fix(
    model: LoadedModel, images: Any, fact: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        model.predict(images)
    assert fact in str(caught.value) and f"Try: {fix}" in str(caught.value).replace("the model's ", "")


def test_the_likeliest_labels_come_first_and_no_more_than_there_are() -> None:
    found = ranked(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], np.float32), ("a", "b", "c"), 2)
    assert [[label for label, _ in row] for row in found] == [["b", "c"], ["a", "b"]]
    assert len(ranked(np.ones((1, 3)) / 3, ("a", "b", "c"), 9)[0]) == 3


# -- what is not loaded --------------------------------------------------------------------------------------------------------


def refused(path: Path, kind: type[UnsafeFile | UsageError] = UnsafeFile, code: str = "E-MODEL-INCOMPLETE") -> str:
    with pytest.raises(kind) as caught:
        load_model(path)
    assert caught.value.code == code and "Try: " in str(caught.value)
    return str(caught.value)


def test_a_model_that_is_not_there_or_none_is_refused_with_the_way_to_make_one(folder: Path, tmp_path: Path) -> None:
    assert "there is no such model. Try: autofash best --export" in refused(tmp_path / "x", UsageError, "E-USAGE")
    assert "there is no such model" in refused(Path("a\0b"), UsageError, "E-USAGE")
    assert "is no model. Try: the folder, or one of model.keras, " in refused(
        folder / "manifest.json", UsageError, "E-USAGE"
    )


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "weights.pkl"])
def test_a_file_that_no_manifest_vouches_for_is_not_looked_at(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    assert "there is no manifest beside it that vouches for it. Try: autofash best --export" in refused(tmp_path / name)
    assert "there is no manifest" in refused(tmp_path)


def test_a_changed_or_missing_file_of_any_format_is_refused_before_it_is_loaded(folder: Path, copy: Path) -> None:
    whole = (copy / manifest.MODEL).read_bytes()
    (copy / manifest.MODEL).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is missing, or is not what the manifest vouches for" in refused(copy)
    (copy / manifest.MODEL).unlink()
    assert "is missing" in refused(copy)
    (copy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    assert "is not vouched for by the manifest beside it" in refused(copy / "model.onnx")


def test_a_keras_file_that_brings_code_is_refused_although_its_manifest_vouches_for_it(copy: Path) -> None:
    import zipfile

    with zipfile.ZipFile(copy / manifest.MODEL) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = parts["config.json"].replace(b'"Rescaling"', b'"Lambda"')
    with zipfile.ZipFile(copy / manifest.MODEL, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    manifest.write(copy, manifest.read(copy), [manifest.MODEL])
    assert "Lambda" in refused(copy, code="E-UNSAFE-MODEL")


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("input"),
        lambda told: told.pop("classes"),
        lambda told: told.update(classes=[]),
        lambda told: told.update(classes=None),
        lambda told: told["input"].update(shape=[8, 8]),
        lambda told: told["input"].update(shape=[10**9, 10**9, 1]),
        lambda told: told["input"].update(shape=[-8, -8, 1]),
        lambda told: told["input"].update(shape=[8, 8, 2]),
        lambda told: told["input"].update(shape="8x8"),
        lambda told: told["input"].update(border=300),
        lambda told: told["input"].update(border="dark"),
        lambda told: told["input"].update(border=float("nan")),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    told = manifest.read(copy)
    change(told)
    (copy / manifest.MANIFEST).write_text(json.dumps(told))
    assert "the manifest does not say which images the model reads" in refused(copy)


def test_a_model_that_answers_for_other_classes_than_its_manifest_is_found_out(copy: Path) -> None:
    (copy / manifest.MANIFEST).write_text(json.dumps({**manifest.read(copy), "classes": ["cat", "dog"]}))
    with pytest.raises(UnsafeFile, match="answers with .10,. numbers an image, and its manifest names 2 classes"):
        load_model(copy).predict(IMAGES[:2])


def test_a_model_is_found_by_any_way_that_leads_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    formats = [find_model(name).format for name in (".", "model.keras", "./openvino", "saved_model/", "model.tflite")]
    assert formats == ["keras", "keras", "openvino", "saved_model", "litert"]
    monkeypatch.chdir(folder.parent)
    os.symlink("best", "mine")
    assert find_model("mine").classes == find_model(Path("mine") / "model.onnx").classes


def test_finding_a_model_and_reading_pictures_need_no_runtime(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    program = (
        "import sys\nfrom autofash.predict import find_model\n"
        "find_model(sys.argv[1]).read([sys.argv[2]])\n"
        "assert not {'keras', 'tensorflow', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder), str(tmp_path / "a.png")], check=True)
