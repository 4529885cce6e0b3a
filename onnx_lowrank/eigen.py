"""Leading eigenvectors of a symmetric matrix."""

from __future__ import annotations

from onnx_lowrank.array_api import Array, namespace
from onnx_lowrank.threads import one_thread


def leading_directions(matrix: Array, count: int) -> Array:
    """Eigenvectors of the largest eigenvalues, leading one first.

    All are computed, by divide and conquer. Asked for some of them LAPACK takes another way (syevr), which is no faster
    and which, where the last one wanted is one of many with the same eigenvalue, fails or finds too few.

    Args:
        matrix: symmetric, shape (n, n), of NumPy or of PyTorch.
        count: wanted, at most n.

    Returns:
        Orthonormal columns in float64 where the matrix is, shape (n, count).
    """
    xp, size = namespace(matrix), len(matrix)
    with one_thread():
        _, directions = xp.linalg.eigh(xp.asarray(matrix, dtype=xp.float64))
    falling = xp.arange(size - 1, size - 1 - count, -1, device=directions.device)
    return xp.take(directions, falling, axis=1)
