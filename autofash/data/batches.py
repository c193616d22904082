"""Shuffled, augmented training batches for keras.Model.fit, gathered from memory-mapped arrays."""

from __future__ import annotations

import keras
import numpy as np

from autofash.data.augment import Augmentation

Array = np.ndarray


class Batches(keras.utils.PyDataset):
    """One epoch after another of shuffled batches: uint8 images and float32 one-hot targets.

    The last images that fill no batch are left out of an epoch; the next shuffle brings them back.
    """

    def __init__(
        self,
        images: Array,
        labels: Array,
        classes: int,
        *,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        epoch: int = 0,
    ) -> None:
        """images: uint8 (n, height, width, channels); labels: int64 (n,). epoch: to begin with, from 0."""
        super().__init__(workers=1, use_multiprocessing=False)
        self._images, self._labels = images, labels
        self._targets = np.eye(classes, dtype=np.float32)
        self._size = min(batch_size, len(images))
        self._augmentation = augmentation
        self._seed = seed
        self._begin(epoch)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._images) // self._size

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        """Batch `index` of the current epoch, the same each time it is asked for."""
        chosen = np.sort(self._order[index * self._size : (index + 1) * self._size])
        rng = np.random.default_rng((self._seed, self._epoch, index))
        return self._augmentation.apply(self._images[chosen], self._targets[self._labels[chosen]], rng)

    def on_epoch_end(self) -> None:
        """Shuffle for the next epoch."""
        self._begin(self._epoch + 1)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._images))
