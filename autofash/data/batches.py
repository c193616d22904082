"""Shuffled, augmented training batches for keras.Model.fit, gathered from memory-mapped arrays."""

from __future__ import annotations

import keras
import numpy as np

from autofash.data.augment import Augmentation

Array = np.ndarray


class Batches:
    """A training's batches, step after step: uint8 images and float32 one-hot targets.

    Each epoch is shuffled anew, by the seed. The last images that fill no batch are left out of it; the next shuffle brings
    them back.
    """

    def __init__(
        self, images: Array, labels: Array, classes: int, *, batch_size: int, augmentation: Augmentation, seed: int
    ) -> None:
        """images: uint8 (n, height, width, channels); labels: int64 (n,)."""
        self.size = min(batch_size, len(images))  # images in a batch
        self.per_epoch = len(images) // self.size  # steps
        self._images, self._labels = images, labels
        self._targets = np.eye(classes, dtype=np.float32)
        self._augmentation = augmentation
        self._seed = seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> tuple[Array, Array]:
        """The batch of a step, from 0; the same each time it is asked for."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._images))
        chosen = np.sort(self._order[index * self.size : (index + 1) * self.size])
        rng = np.random.default_rng((self._seed, epoch, index))
        return self._augmentation.apply(self._images[chosen], self._targets[self._labels[chosen]], rng)

    def between(self, begin: int, end: int) -> keras.utils.PyDataset:
        """The batches of steps from `begin` up to `end`, for keras.Model.fit(shuffle=False) over one of its epochs."""
        return _Between(self, begin, end)


class _Between(keras.utils.PyDataset):
    def __init__(self, batches: Batches, begin: int, end: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self._batches, self._begin, self._end = batches, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        return self._batches.batch(self._begin + index)
