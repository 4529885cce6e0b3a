"""Images flipped and shifted at random, every one by itself: the same in whichever batch and process it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_SHIFT = 8  # a side is shifted by up to this part of it


def augmented(images: NDArray[Any], keys: Sequence[Sequence[int]], *, channels_first: bool) -> NDArray[Any]:
    """Flip half of the images left to right, and shift all by up to an eighth of their sides, mirrored at the border.

    Args:
        images: shape (images, channels, height, width), or channels last.
        keys: per image what its randomness comes from.
        channels_first: whether the second axis is that of channels.
    """
    height, width = images.shape[2:] if channels_first else images.shape[1:3]
    tall, wide = height // _LARGEST_SHIFT, width // _LARGEST_SHIFT
    border: list[tuple[int, int]] = [(tall, tall), (wide, wide)]
    around = np.pad(images, [(0, 0), (0, 0), *border] if channels_first else [(0, 0), *border, (0, 0)], mode="reflect")
    result = np.empty_like(images)
    for number, key in enumerate(keys):
        generator = np.random.default_rng(key)
        top, left = generator.integers(2 * tall + 1), generator.integers(2 * wide + 1)
        rows, columns = slice(top, top + height), slice(left, left + width)
        image = around[number, :, rows, columns] if channels_first else around[number, rows, columns]
        flip = generator.random() < 0.5
        result[number] = np.flip(image, 2 if channels_first else 1) if flip else image
    return result
