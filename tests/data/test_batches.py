import numpy as np
import pytest

from autofash.data.augment import Augmentation
from autofash.data.batches import Batches

pytestmark = pytest.mark.keras
IMAGES = np.arange(103, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
LABELS = np.arange(103) % 10


def batches(seed: int = 0) -> Batches:
    return Batches(IMAGES, LABELS, 10, batch_size=10, augmentation=Augmentation(), seed=seed)


def test_an_epoch_shows_each_image_at_most_once_with_its_own_label() -> None:
    found = batches()
    assert found.per_epoch == 10
    seen = np.concatenate([found.batch(step)[0][:, 0, 0, 0] for step in range(10)])
    targets = np.concatenate([found.batch(step)[1] for step in range(10)])
    assert len(set(seen.tolist())) == 100
    assert (targets.argmax(axis=1) == LABELS[seen]).all() and targets.dtype == np.float32


def test_epochs_differ_seeds_differ_and_the_same_seed_repeats() -> None:
    one, two, other = batches(), batches(), batches(seed=1)
    assert (one.batch(0)[0] == two.batch(0)[0]).all() and (one.batch(0)[0] != other.batch(0)[0]).any()
    assert (one.batch(10)[0] != one.batch(0)[0]).any() and (one.batch(10)[0] == two.batch(10)[0]).all()


def test_the_batches_between_two_steps_are_those_of_the_whole_training_across_epochs() -> None:
    whole = batches()
    part = whole.between(8, 13)
    assert len(part) == 5
    assert all((part[index][0] == batches().batch(8 + index)[0]).all() for index in range(5))


def test_a_batch_size_beyond_the_data_takes_them_all() -> None:
    assert Batches(IMAGES, LABELS, 10, batch_size=4096, augmentation=Augmentation(), seed=0).per_epoch == 1
