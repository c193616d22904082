"""Augmentation of whole batches in NumPy: no Python loop over images, no layer in the model that an export could keep alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from autofash.records import Config

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to a training batch; all at their defaults do nothing."""

    flip: bool = False  # half of the images, left to right
    shift: int = 0  # most pixels in each direction
    erase: float = 0.0  # share of the images that lose a square, 0 to 1
    mixup: float = 0.0  # strength of Beta(mixup, mixup), 0 for none

    @classmethod
    def of(cls, config: Config) -> Augmentation:
        """The augmentation of a trial's config."""
        return cls(
            flip=bool(config.get("flip", False)),
            shift=int(config.get("shift", 0)),
            erase=float(config.get("erase", 0.0)),
            mixup=float(config.get("mixup", 0.0)),
        )

    def apply(self, images: Array, targets: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """A new batch like this one.

        images: uint8 (n, height, width, channels). targets: float32 (n, classes), each row sums to 1.
        """
        if self.flip:
            images = flipped(images, rng)
        if self.shift:
            images = shifted(images, self.shift, rng)
        if self.erase:
            images = erased(images, self.erase, rng)
        if self.mixup:
            images, targets = mixed(images, targets, self.mixup, rng)
        return images, targets


def flipped(images: Array, rng: np.random.Generator) -> Array:
    """Half of the images, left to right."""
    chosen = rng.random(len(images)) < 0.5
    return np.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def shifted(images: Array, most: int, rng: np.random.Generator) -> Array:
    """Each image moved by up to `most` pixels down or up and right or left; what comes in is black.

    The offsets are few, so images are moved in groups of one offset: slices, where a gather is ten times slower.
    """
    height, width = images.shape[1:3]
    most = min(most, height - 1, width - 1)
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    offsets = rng.integers(0, 2 * most + 1, (len(images), 2))
    moved = np.empty_like(images)
    for down in range(2 * most + 1):
        for right in range(2 * most + 1):
            chosen = np.flatnonzero((offsets[:, 0] == down) & (offsets[:, 1] == right))
            moved[chosen] = padded[chosen, down : down + height, right : right + width]
    return moved


def erased(images: Array, share: float, rng: np.random.Generator) -> Array:
    """A grey square of an eighth to a half of the shorter side on this share of the images.

    Source: Zhong et al. 2020, arXiv:1708.04896, with squares.
    """
    count, height, width = images.shape[:3]
    side = rng.integers(max(1, min(height, width) // 8), max(2, min(height, width) // 2 + 1), count)
    top = rng.integers(0, height - side + 1)
    left = rng.integers(0, width - side + 1)
    rows, columns = np.arange(height), np.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    chosen = rng.random(count) < share
    square = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
    return np.where(square[..., None], np.uint8(128), images)


def mixed(images: Array, targets: Array, alpha: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Blend the images with those of another order by one Beta(alpha, alpha) a batch, and their targets alike.

    images stay uint8, rounded. Source: Zhang et al. 2018, arXiv:1710.09412 (one weight a batch, as its authors' code has it).
    """
    weight = float(rng.beta(alpha, alpha))
    other = rng.permutation(len(images))
    # In 16 bits: weight as a whole number of 1/256, exact to half a grey level.
    share = round(weight * 256)
    blend = images.astype(np.uint16) * np.uint16(share)
    blend += images[other] * np.uint16(256 - share)
    blend += np.uint16(127)
    blend >>= np.uint16(8)
    weight = share / 256
    return blend.astype(np.uint8), (weight * targets + (1 - weight) * targets[other]).astype(np.float32)
