"""Draw the positions of every image at which responses and input patches are sampled."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer

Ints = NDArray[np.int64]

ROWS_PER_FILTER = 30  # under 10 the solver fits noise; with 60, VGG-16 lost 5 % less in 1.3 times the time
MIN_LAYER_ROWS = 15_000
ROWS_PER_TAP = 80  # of a depthwise convolution, whose channels are solved one by one
MAX_PATCH_BYTES = 2**30  # of a layer's sampled input patches, which are kept while it is solved


def layer_positions(
    layers: Iterable[Layer], images: int, count: int | None, seed: int, *, thorough: bool = False
) -> dict[str, Ints]:
    """Draw the sampled positions of every image for every layer.

    Args:
        layers: the layers.
        images: number of calibration images N.
        count: positions per image; None for as many as give `ROWS_PER_FILTER` rows per filter (at least
            `MIN_LAYER_ROWS` in all) and keep the patches within `MAX_PATCH_BYTES`.
        seed: of the random numbers; each layer has its own stream.
        thorough: whether there are to be twice as many rows per filter.

    Returns:
        Flat positions among a sample's `Layer.rows` by layer name, shape (N, P).
    """
    positions = {}
    for number, layer in enumerate(layers):
        max_rows = MAX_PATCH_BYTES // (4 * layer.channels * prod(layer.kernel))
        wanted = max(MIN_LAYER_ROWS, (2 if thorough else 1) * ROWS_PER_FILTER * layer.filters)
        rows = min(ROWS_PER_TAP * prod(layer.kernel) if layer.depthwise else wanted, max_rows)
        generator = np.random.default_rng([seed, number])
        positions[layer.name] = draw_positions(generator, images, layer.rows, count or ceil(rows / images))
    return positions


def draw_positions(generator: np.random.Generator, images: int, size: int, count: int) -> Ints:
    """Draw positions for every image without replacement; all of them where there are at most ``count``.

    Args:
        generator: source of randomness.
        images: number of images N.
        size: positions an image has, height * width of all its maps.
        count: positions to draw per image.

    Returns:
        Flat positions, ascending within an image, shape (N, min(count, size)).
    """
    if count >= size:
        return np.tile(np.arange(size), (images, 1))
    drawn = [generator.choice(size, count, replace=False, shuffle=False) for _ in range(images)]
    return np.sort(np.array(drawn, dtype=np.int64).reshape(images, count), axis=1)
