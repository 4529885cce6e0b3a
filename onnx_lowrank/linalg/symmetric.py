"""Symmetric matrices: leading eigenvectors and Cholesky factors. Arrays of NumPy or of PyTorch.

Use `divided` for positive definite systems, ridges added; use the eigenvectors where the matrix may be singular.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from onnx_lowrank.linalg.arrays import Array, eye, namespace
from onnx_lowrank.linalg.blas_threads import one_thread


def with_ridge(matrix: Array, ridge: float) -> Array:
    """Return a square matrix, shape (n, n), with ``ridge`` added along its diagonal."""
    return matrix + ridge * eye(len(matrix), len(matrix), matrix)


def mean_diagonal(matrix: Array) -> float:
    """Return the mean along the diagonal of a square matrix, which ridges are relative to; 1 where it is 0."""
    return float(namespace(matrix).linalg.trace(matrix)) / len(matrix) or 1.0


def cholesky(matrix: Array) -> Array:
    """Return L, lower triangular, of ``matrix = L L^T``, shape (n, n).

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite; for a tensor ``torch.linalg.LinAlgError``.
    """
    if not isinstance(matrix, np.ndarray):
        return namespace(matrix).linalg.cholesky(matrix)
    with one_thread():
        return scipy.linalg.cholesky(matrix, lower=True)


def divided_by_root(root: Array, right: Array, *, transposed: bool = False) -> Array:
    """Return ``L^-1 B``, or ``L^-T B``.

    Args:
        root: L of `cholesky`, shape (n, n).
        right: B, shape (n, any).
        transposed: whether L^T divides.
    """
    if not isinstance(root, np.ndarray):
        factor = root.T if transposed else root
        return namespace(root).linalg.solve_triangular(factor, right, upper=transposed)
    with one_thread():
        return scipy.linalg.solve_triangular(root, right, lower=True, trans="T" if transposed else "N")


def divided(root: Array, right: Array) -> Array:
    """Return ``(L L^T)^-1 B``; see `divided_by_root`."""
    return divided_by_root(root, divided_by_root(root, right), transposed=True)


def leading_directions(matrix: Array, count: int) -> Array:
    """Return the eigenvectors of the largest eigenvalues, leading one first.

    All are computed, by divide and conquer. For a subset LAPACK uses another algorithm (syevr), which is no faster, and
    which fails or returns too few where the last of the subset is one of many with the same eigenvalue.

    Args:
        matrix: symmetric, shape (n, n), of NumPy or of PyTorch.
        count: of eigenvectors, at most n.

    Returns:
        Orthonormal columns in float64 on the device of the matrix, shape (n, count).
    """
    xp, size = namespace(matrix), len(matrix)
    with one_thread():
        _, directions = xp.linalg.eigh(xp.asarray(matrix, dtype=xp.float64))
    descending = xp.arange(size - 1, size - 1 - count, -1, device=directions.device)
    return xp.take(directions, descending, axis=1)
