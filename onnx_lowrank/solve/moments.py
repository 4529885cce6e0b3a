"""Second moments of two sets of rows, gathered block by block in float64.

| code        | paper    | meaning                               | shape  |
|-------------|----------|---------------------------------------|--------|
| gram        | Y Y^T    | centred inputs with themselves        | (p, p) |
| cross       | Z Y^T    | centred targets with centred inputs   | (q, p) |
| input_mean  | ybar     | mean input row                        | (p,)   |
| target_mean | zbar     | mean target row                       | (q,)   |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4096  # rows handled at a time: large enough for fast products, small enough for the cache

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of paired rows.

    Attributes:
        count: number of rows.
        input_mean: shape (p,).
        target_mean: shape (q,).
        gram: centred, shape (p, p).
        cross: centred, shape (q, p).
    """

    count: int
    input_mean: Float64
    target_mean: Float64
    gram: Float64
    cross: Float64

    @staticmethod
    def of(inputs: NDArray[Any], targets: NDArray[Any]) -> Moments:
        """Moments of rows ``inputs`` (n, p) and ``targets`` (n, q), any float type."""
        input_mean = inputs.mean(axis=0, dtype=np.float64)
        target_mean = targets.mean(axis=0, dtype=np.float64)
        gram = np.zeros((inputs.shape[1], inputs.shape[1]))
        cross = np.zeros((targets.shape[1], inputs.shape[1]))
        for rows in blocks(len(inputs)):
            x, y = inputs[rows] - input_mean, targets[rows] - target_mean
            gram += x.T @ x
            cross += y.T @ x
        return Moments(len(inputs), input_mean, target_mean, gram, cross)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows together."""
        count = self.count + other.count
        weight = self.count * other.count / count
        inputs, targets = other.input_mean - self.input_mean, other.target_mean - self.target_mean
        return Moments(
            count,
            self.input_mean + inputs * (other.count / count),
            self.target_mean + targets * (other.count / count),
            self.gram + other.gram + weight * np.outer(inputs, inputs),
            self.cross + other.cross + weight * np.outer(targets, inputs),
        )


def blocks(rows: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows, `BLOCK_ROWS` at a time."""
    for first in range(0, rows, BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, rows))
