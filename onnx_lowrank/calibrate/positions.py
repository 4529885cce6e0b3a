"""Draw the positions of every image at which responses and input patches are sampled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def draw_positions(generator: np.random.Generator, images: int, size: int, count: int) -> Ints:
    """Positions for every image, drawn without replacement; all of them where there are not more than ``count``.

    Args:
        generator: source of randomness.
        images: number of images N.
        size: positions an image has, height * width.
        count: positions wanted per image.

    Returns:
        Flat positions, ascending within an image, shape (N, min(count, size)).
    """
    if count >= size:
        return np.tile(np.arange(size), (images, 1))
    drawn = [generator.choice(size, count, replace=False, shuffle=False) for _ in range(images)]
    return np.sort(np.array(drawn, dtype=np.int64).reshape(images, count), axis=1)
