"""Rows a block at a time: blocks that fit into a cache, and work on them that is shared out among threads.

Results come in the order of the blocks, so that a sum over them does not depend on the number of threads. For the same
reason blocks are of the same size on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from onnx_lowrank.linalg.arrays import Array, blocks, on_cpu
from onnx_lowrank.linalg.threads import side_by_side

Result = TypeVar("Result")

BLOCK_ROWS = 2048  # rows that a CPU handles at a time: large enough for fast products, small enough for the cache
_PRODUCT_ROWS = 256  # of a product of matrices
_MIN_PRODUCTS = 50_000_000  # multiply-adds that are worth sharing out: a millisecond
DEVICE_BLOCK_ROWS = 65_536  # any other device: large enough that starting its kernels costs little


def row_blocks(rows: Array) -> Iterator[slice]:
    """Yield slices that cover ``rows``, as many at a time as suit their device."""
    return blocks(len(rows), BLOCK_ROWS if on_cpu(rows) else DEVICE_BLOCK_ROWS)


def over_row_blocks(work: Callable[[slice], Result], rows: Array) -> Iterator[Result]:
    """Yield ``work(slice)`` of every block of ``rows``, in order.

    Args:
        work: what to do with the rows of a slice; on a CPU several blocks are worked on at a time.
        rows: an array of as many rows, on the device that ``work`` uses.
    """
    return over_blocks(work, row_blocks(rows), rows)


def over_blocks(work: Callable[[slice], Result], parts: Iterable[slice], template: Array) -> Iterator[Result]:
    """Yield ``work(slice)`` of every slice, in order; several at a time where ``template`` is on a CPU."""
    parts = list(parts)
    return side_by_side(work, parts) if on_cpu(template) and len(parts) > 1 else map(work, parts)


def product(left: Array, right: Array) -> Array:
    """Return ``A B`` of matrices, (n, any) and (any, m); large ones of NumPy on several threads."""
    if not isinstance(left, np.ndarray) or left.size * right.shape[1] < _MIN_PRODUCTS:
        return left @ right
    result = np.empty((len(left), right.shape[1]), np.result_type(left, right))

    def fill(rows: slice) -> None:
        np.matmul(left[rows], right, out=result[rows])

    list(over_blocks(fill, blocks(len(left), _PRODUCT_ROWS), left))
    return result
