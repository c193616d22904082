import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autofash.data import SOURCES, PreparedData, load, prepare, prepare_for
from autofash.data.cache import cache_folder, checked
from autofash.data.sources import Source
from autofash.errors import DataError, ResourceError, StudyMismatch
from autofash.records import StudySettings
from autofash.space import load_space
from tests.data.test_formats import idx


def test_the_split_is_stratified_seeded_and_covers_every_image_once() -> None:
    prepared = prepare("digits", Path(), seed=3, validation=1 / 6)
    data = load(prepared.folder)
    assert (len(data.train_images), len(data.validation_images)) == (prepared.train, prepared.validation) == (1197, 240)
    share = np.bincount(data.validation_labels) / (np.bincount(data.train_labels) + np.bincount(data.validation_labels))
    assert share.min() > 0.15 and share.max() < 0.19
    other = load(prepare("digits", Path(), seed=4, validation=1 / 6).folder)
    assert (other.validation_images != data.validation_images).any()
    again = load(prepare("digits", Path(), seed=3, validation=1 / 6).folder)
    assert (again.validation_images == data.validation_images).all()


def test_the_fingerprint_is_the_datas_and_not_the_splits() -> None:
    assert (
        prepare("digits", Path(), seed=3, validation=1 / 6).fingerprint
        == prepare("digits", Path(), seed=5, validation=0.3).fingerprint
    )


def test_arrays_are_mapped_not_copied() -> None:
    data = load(prepare("digits", Path(), seed=3, validation=1 / 6).folder)
    assert (
        isinstance(data.train_images, np.memmap)
        and data.train_images.dtype == np.uint8
        and data.train_images.shape[1:] == (8, 8, 1)
    )


def test_a_damaged_cache_is_made_anew() -> None:
    prepared = prepare("digits", Path(), seed=6, validation=1 / 6)
    array = Path(prepared.folder) / "train_images.npy"
    array.write_bytes(array.read_bytes()[:-100])
    assert prepare("digits", Path(), seed=6, validation=1 / 6) == prepared
    assert len(load(prepared.folder).train_images) == prepared.train
    assert not [found for found in cache_folder().iterdir() if found.name.startswith(".")]


def test_a_cache_that_cannot_be_written_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOFASH_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="AUTOFASH_CACHE_DIR"):
        prepare("digits", Path(), seed=0, validation=1 / 6)


def searched_on(prepared: PreparedData, *, seed: int, validation: float) -> StudySettings:
    """What a study remembers that was begun on these data."""
    space = load_space("mlp")
    return StudySettings(
        dataset=prepared.dataset,
        data_fingerprint=prepared.fingerprint,
        space=space.name,
        space_table=space.table(),
        space_fingerprint=space.fingerprint,
        sampler="tpe",
        pruner="none",
        objective="accuracy",
        epochs=3,
        seed=seed,
        validation=validation,
        starters=False,
    )


def one_pixel(digits: Source) -> Source:
    images, labels = digits.train(Path())
    images = images.copy()
    images[0, 0, 0] ^= 1
    return replace(digits, train=lambda _: (images, labels))


def one_label(digits: Source) -> Source:
    images, labels = digits.train(Path())
    labels = labels.copy()
    labels[0] = (labels[0] + 1) % 10
    return replace(digits, train=lambda _: (images, labels))


def one_name(digits: Source) -> Source:
    return replace(digits, classes=("nought", *digits.classes[1:]))


def test_a_study_gets_its_own_data_split_as_it_was_even_where_the_cache_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare("digits", Path(), seed=7, validation=0.25)
    settings = searched_on(prepared, seed=7, validation=0.25)
    assert prepare_for(settings, Path()) == prepared
    monkeypatch.setenv("AUTOFASH_CACHE_DIR", str(tmp_path / "another"))
    anew = prepare_for(settings, Path())
    assert anew == replace(prepared, folder=anew.folder) and Path(anew.folder).parent == tmp_path / "another"
    for name in ("train_images", "train_labels", "validation_images", "validation_labels"):
        assert (getattr(load(anew.folder), name) == getattr(load(prepared.folder), name)).all(), name


@pytest.mark.parametrize("change", [one_pixel, one_label, one_name])
def test_a_data_set_that_has_changed_since_is_not_the_studys_and_both_fingerprints_are_named(
    change: Callable[[Source], Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare("digits", Path(), seed=7, validation=0.25)
    monkeypatch.setitem(SOURCES, "digits", change(SOURCES["digits"]))
    monkeypatch.setenv("AUTOFASH_CACHE_DIR", str(tmp_path / "another"))
    now = prepare("digits", Path(), seed=7, validation=0.25)
    with pytest.raises(StudyMismatch, match="digits is not the data that the study was searched on") as caught:
        prepare_for(searched_on(prepared, seed=7, validation=0.25), Path())
    assert (caught.value.code, caught.value.exit_code) == ("E-DATA-CHANGED", 4)
    assert f"{prepared.fingerprint[:12]} → {now.fingerprint[:12]}" in str(caught.value)
    assert "Try: the earlier data, or a new study" in str(caught.value)


def test_files_that_were_only_touched_are_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, images = np.repeat(np.arange(10, dtype=np.uint8), 4), np.zeros((40, 28, 28), np.uint8)
    files = {name: idx(images if "images" in name else labels) for name in SOURCES["fashion_mnist"].files}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(SOURCES, "fashion_mnist", replace(SOURCES["fashion_mnist"], files=hashes))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    before = prepare("fashion_mnist", tmp_path, seed=0, validation=0.25)
    for number, name in enumerate(files):
        os.utime(tmp_path / name, (1e9 + number, 1e9 + number))
    assert prepare("fashion_mnist", tmp_path, seed=0, validation=0.25) == before
    monkeypatch.setenv("AUTOFASH_CACHE_DIR", str(tmp_path / "another"))
    assert prepare("fashion_mnist", tmp_path, seed=0, validation=0.25).fingerprint == before.fingerprint


IMAGES, LABELS = np.zeros((4, 2, 2), np.uint8), np.array([0, 1, 0, 1])


def test_a_label_out_of_range_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match="row 2: label 7, want 0 to 1"):
        checked(IMAGES, np.array([0, 1, 7, 1]), ("a", "b"), where="mine")


def test_an_empty_class_is_named() -> None:
    with pytest.raises(DataError, match="no image of c"):
        checked(IMAGES, LABELS, ("a", "b", "c"), where="mine")


def test_images_and_labels_must_be_as_many_and_bytes() -> None:
    with pytest.raises(DataError, match="4 images but 3 labels"):
        checked(IMAGES, LABELS[:3], ("a", "b"), where="mine")
    with pytest.raises(DataError, match="float32"):
        checked(IMAGES.astype(np.float32), LABELS, ("a", "b"), where="mine")
