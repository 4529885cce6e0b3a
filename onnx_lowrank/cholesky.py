"""Positive definite matrices: their Cholesky factors, and what is divided by them. Arrays of NumPy or of PyTorch."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from onnx_lowrank.array_api import Array, namespace
from onnx_lowrank.threads import one_thread


def with_ridge(matrix: Array, ridge: float) -> Array:
    """A square matrix with ``ridge`` added along its diagonal."""
    xp = namespace(matrix)
    return matrix + ridge * xp.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def cholesky(matrix: Array) -> Array:
    """L, lower, of ``matrix = L L^T``.

    Raises:
        numpy.linalg.LinAlgError: an array of NumPy is not positive definite.
    """
    if not isinstance(matrix, np.ndarray):
        return namespace(matrix).linalg.cholesky(matrix)
    with one_thread():
        return scipy.linalg.cholesky(matrix, lower=True)


def divided_by_root(root: Array, right: Array, *, transposed: bool = False) -> Array:
    """``L^-1 B``, or ``L^-T B``.

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
    """``(L L^T)^-1 B``, as `divided_by_root`."""
    return divided_by_root(root, divided_by_root(root, right), transposed=True)
