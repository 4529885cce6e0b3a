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

from dataclasses import dataclass

from onnx_lowrank.linalg.arrays import Array, namespace, outer, zeros
from onnx_lowrank.linalg.row_blocks import over_row_blocks


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
    def of(inputs: Array, targets: Array, *, single: bool = False) -> Moments:
        """Compute the moments of rows ``inputs`` (n, p) and ``targets`` (n, q), any float type.

        Args:
            inputs: rows.
            targets: as many rows.
            single: whether products within a block are float32, which is twice as fast, and enough where a ridge of
                1e-4 or more is added.
        """
        xp = namespace(inputs)
        kind = xp.float32 if single else xp.float64
        input_mean, target_mean = _mean(inputs), _mean(targets)
        input_centre, target_centre = (xp.astype(mean, kind) for mean in (input_mean, target_mean))

        def of_block(rows: slice) -> tuple[Array, Array]:
            x, y = inputs[rows] - input_centre, targets[rows] - target_centre
            return x.T @ x, y.T @ x

        gram, cross = (zeros((rows.shape[1], inputs.shape[1]), inputs) for rows in (inputs, targets))
        for part_gram, part_cross in over_row_blocks(of_block, inputs):
            gram += part_gram
            cross += part_cross
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


def _mean(rows: Array) -> Array:
    """Return the mean row in float64, shape (any,)."""
    xp = namespace(rows)
    total = zeros(rows.shape[1:], rows)
    for part in over_row_blocks(lambda block: xp.sum(rows[block], axis=0, dtype=xp.float64), rows):
        total += part
    return total / len(rows)
