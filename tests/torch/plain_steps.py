"""What the optimizer does, written out with singular value decompositions in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def alike_in_all_directions(matrix: Float64) -> Float64:
    """A matrix of norm 1 with five rounds of 3.4445 s - 4.7750 s^3 + 2.0315 s^5 over its singular values."""
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
    return (left * sizes) @ right


def matrix_step(weight: Float64, slope: Float64, momentum: Float64) -> tuple[Float64, Float64]:
    """Step of a weight at rate 1, and the momentum after it."""
    momentum = 0.9 * momentum + 0.1 * slope
    ahead = (0.1 * slope + 0.9 * momentum).reshape(len(weight), -1)
    step = alike_in_all_directions(ahead / np.linalg.norm(ahead)) / np.sqrt(min(ahead.shape))
    return (step * np.linalg.norm(weight)).reshape(weight.shape), momentum


def vector_step(slope: Float64, momentum: Float64) -> tuple[Float64, Float64]:
    """The same of a vector."""
    momentum = 0.9 * momentum + slope
    return slope + 0.9 * momentum, momentum
