"""The cells of a detector's head: squares of an image, of one size for each stride, row by row."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (16, 32))  # that heads have, the most usual ones first
_LARGEST_LOGARITHM = 20.0  # of a size in strides; a larger one is no box


def cells(size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Return the number of cells of a head.

    >>> cells((640, 640), (8, 16, 32))
    8400
    """
    return sum(ceil(size[0] / stride) * ceil(size[1] / stride) for stride in strides)


def strides_of(count: int, size: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the strides of a head with a number of cells; None where no usual ones make that many."""
    return next((strides for strides in STRIDES if cells(size, strides) == count), None)


def from_grid(boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return centres, widths and heights of boxes that a raw head gives relative to its cells.

    Args:
        boxes: offsets from a cell in strides, and logarithms of sizes in strides, shape (..., cells, 4).
        size: height and width of the network's input.

    Raises:
        ModelError: there are other numbers of cells.

    References:
        Ge, Liu, Wang, Li, Sun 2021, YOLOX: exceeding YOLO series in 2021, arXiv 2107.08430.
    """
    strides = strides_of(boxes.shape[-2], size)
    if strides is None:
        raise ModelError(f"output: {boxes.shape[-2]} rows are no cells of strides 8, 16, 32 for {size}: see `layout`")
    grids = []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.divmod(np.arange(rows * columns), columns)
        grids.append(np.stack([x, y, np.full(len(x), stride)], axis=1))
    grid = np.concatenate(grids)
    sizes = np.exp(np.minimum(boxes[..., 2:], _LARGEST_LOGARITHM))
    return np.asarray(np.concatenate([boxes[..., :2] + grid[:, :2], sizes], axis=-1) * grid[:, 2:])
