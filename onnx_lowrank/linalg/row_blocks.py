"""Rows a block at a time: blocks that fit into a cache, and work on them that is shared out among threads.

Results come in the order of the blocks, so that a sum over them does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from onnx_lowrank.linalg.arrays import Array, blocks, on_cpu
from onnx_lowrank.linalg.threads import side_by_side

Result = TypeVar("Result")

BLOCK_ROWS = 2048  # rows that a CPU handles at a time: large enough for fast products, small enough for the cache
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
