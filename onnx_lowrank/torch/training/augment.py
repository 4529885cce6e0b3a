"""Random flips and shifts of images, drawn for each image on its own: independent of its batch and its process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHIFT_DIVISOR = 8  # an image is shifted by up to an eighth of its side


def augment_images(images: NDArray[Any], keys: Sequence[Sequence[int]], *, channels_first: bool) -> NDArray[Any]:
    """Flip half of the images left to right, and shift all by up to an eighth of their sides, mirrored at the border.

    Args:
        images: shape (images, channels, height, width), or (images, height, width, channels).
        keys: per image, the seed of its random numbers.
        channels_first: whether the second axis is that of channels.

    Returns:
        New images of the same shape.
    """
    height, width = images.shape[2:] if channels_first else images.shape[1:3]
    down, right = height // _SHIFT_DIVISOR, width // _SHIFT_DIVISOR
    border: list[tuple[int, int]] = [(down, down), (right, right)]
    padded = np.pad(images, [(0, 0), (0, 0), *border] if channels_first else [(0, 0), *border, (0, 0)], mode="reflect")
    result = np.empty_like(images)
    for number, key in enumerate(keys):
        generator = np.random.default_rng(key)
        top, left = generator.integers(2 * down + 1), generator.integers(2 * right + 1)
        rows, columns = slice(top, top + height), slice(left, left + width)
        image = padded[number, :, rows, columns] if channels_first else padded[number, rows, columns]
        flip = generator.random() < 0.5
        result[number] = np.flip(image, 2 if channels_first else 1) if flip else image
    return result
