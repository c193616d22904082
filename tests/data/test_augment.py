import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofash.data.augment import Augmentation, erased, flipped, mixed, shifted

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 9, 3), dtype=np.uint8)
TARGETS = np.eye(10, dtype=np.float32)[np.arange(64) % 10]


@given(
    st.booleans(), st.integers(0, 20), st.floats(0, 1), st.sampled_from([0.0, 0.05, 0.4, 8.0]), st.integers(0, 2**32)
)
def test_any_augmentation_keeps_shape_type_and_the_sum_of_targets(
    flip: bool, shift: int, erase: float, mixup: float, seed: int
) -> None:
    images, targets = Augmentation(flip, shift, erase, mixup).apply(IMAGES, TARGETS, np.random.default_rng(seed))
    assert images.shape == IMAGES.shape and images.dtype == np.uint8
    assert targets.dtype == np.float32 and targets.sum(axis=1) == pytest.approx(np.ones(64))


def test_no_augmentation_changes_nothing_and_none_changes_its_input() -> None:
    before = IMAGES.copy()
    images, targets = Augmentation().apply(IMAGES, TARGETS, np.random.default_rng(0))
    assert images is IMAGES and targets is TARGETS
    Augmentation(True, 2, 1.0, 0.4).apply(IMAGES, TARGETS, np.random.default_rng(0))
    assert (before == IMAGES).all()


def test_a_flip_turns_about_half_of_the_images_around() -> None:
    turned = flipped(IMAGES, np.random.default_rng(0))
    same = (turned == IMAGES).all(axis=(1, 2, 3))
    around = (turned == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | around).all() and 20 < around.sum() < 44


def test_a_shift_moves_the_picture_and_fills_with_black() -> None:
    dot = np.zeros((200, 8, 8, 1), np.uint8)
    dot[:, 4, 4] = 255
    moved = shifted(dot, 2, np.random.default_rng(0))
    places = {tuple(place[1:3]) for place in np.argwhere(moved)}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert (moved.reshape(200, -1) > 0).sum(axis=1).tolist() == [1] * 200


def test_erasing_greys_a_square_in_the_chosen_share_of_images() -> None:
    white = np.full((400, 16, 16, 1), 255, np.uint8)
    gone = (erased(white, 0.5, np.random.default_rng(0)) == 128).reshape(400, -1).sum(axis=1)
    assert 150 < (gone > 0).sum() < 250
    assert set(np.sqrt(gone[gone > 0]).tolist()) <= set(range(2, 9))


def test_mixup_blends_images_and_targets_by_the_same_weight() -> None:
    images = np.stack([np.zeros((4, 4, 1), np.uint8), np.full((4, 4, 1), 255, np.uint8)])
    blended, targets = mixed(images, np.eye(2, dtype=np.float32), 5.0, np.random.default_rng(3))
    assert blended[0].max() / 255 == pytest.approx(float(targets[0, 1]), abs=0.01)
