"""Second moments of two sets of rows, accumulated block by block in float64.

| code        | paper    | meaning                               | shape  |
|-------------|----------|---------------------------------------|--------|
| gram        | Y Y^T    | centred inputs with themselves        | (p, p) |
| cross       | Z Y^T    | centred targets with centred inputs   | (q, p) |
| input_mean  | ybar     | mean input row                        | (p,)   |
| target_mean | zbar     | mean target row                       | (q,)   |

Two sets A and B of rows together, with ``d`` the difference of their means (Chan, Golub, LeVeque 1983)::

    G = G_A + G_B + n_A n_B / (n_A + n_B) d d^T
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_lowrank.linalg.arrays import Array, blocks, namespace, on_cpu, outer, zeros

BLOCK_ROWS = 2048  # rows that a CPU handles at a time: large enough for fast products, small enough for the cache
DEVICE_BLOCK_ROWS = 65_536  # any other device: large enough that starting its kernels costs little


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of paired rows, in float64 on the device of the rows.

    Attributes:
        count: number of rows.
        input_mean: shape (p,).
        target_mean: shape (q,).
        gram: centred, shape (p, p).
        cross: centred, shape (q, p).
    """

    count: int
    input_mean: Array
    target_mean: Array
    gram: Array
    cross: Array

    @staticmethod
    def of(inputs: Array, targets: Array) -> Moments:
        """Compute the moments of rows ``inputs`` (n, p) and ``targets`` (n, q), any float type."""
        xp = namespace(inputs)
        input_mean, target_mean = (xp.sum(rows, axis=0, dtype=xp.float64) / len(rows) for rows in (inputs, targets))
        gram = zeros((inputs.shape[1], inputs.shape[1]), inputs)
        cross = zeros((targets.shape[1], inputs.shape[1]), inputs)
        for rows in row_blocks(inputs):
            x, y = inputs[rows] - input_mean, targets[rows] - target_mean
            gram += x.T @ x
            cross += y.T @ x
        return Moments(len(inputs), input_mean, target_mean, gram, cross)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        weight = self.count * other.count / count
        inputs, targets = other.input_mean - self.input_mean, other.target_mean - self.target_mean
        return Moments(
            count,
            self.input_mean + inputs * (other.count / count),
            self.target_mean + targets * (other.count / count),
            self.gram + other.gram + weight * outer(inputs, inputs),
            self.cross + other.cross + weight * outer(targets, inputs),
        )


def row_blocks(rows: Array) -> Iterator[slice]:
    """Yield slices that cover ``rows``, as many at a time as suit their device."""
    return blocks(len(rows), BLOCK_ROWS if on_cpu(rows) else DEVICE_BLOCK_ROWS)
