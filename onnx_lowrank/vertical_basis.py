"""Vertical filters for a layer: the spatial decomposition, weighed by what its input looks like.

A patch is kw columns of c * kh numbers, and ``y = sum_j W_j x_j + b0``. A kh x 1 convolution with k filters V sees each
column alone; behind it a 1 x kw convolution adds the columns up: ``y' = sum_j H_j V x_j``. Best for columns that all
have the second moments S is::

    min_{H, V}  sum_j  || (W_j - H_j V) S^(1/2) ||_F^2

    S = L L^T;   U = leading left singular vectors of L^T [W_1^T ... W_kw^T];   V = U^T L^-1;   H_j = W_j S V^T

With S = I this is the usual spatial SVD of the weights. The features V x have second moments I, and the leading k
filters of a larger basis are the basis of rank k.

| code      | meaning                                    | shape                |
|-----------|--------------------------------------------|----------------------|
| columns   | weight, a row per filter and kernel column | (kw, d, c * kh)      |
| moments   | S, shrunk toward a multiple of I           | (c * kh, c * kh)     |
| basis     | V                                          | (k, c * kh)          |
| map       | H                                          | (d, kw, k)           |

References:
    Jaderberg, Vedaldi, Zisserman 2014, arXiv:1405.3866 (the decomposition); the weighing is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from onnx_lowrank.eigen import leading_directions
from onnx_lowrank.threads import one_thread

Float64 = NDArray[np.float64]

SHRINK = 1e-3  # toward a multiple of the identity: columns may be fewer than their numbers, channels dead
_BLOCK_ROWS = 2048


def vertical_moments(patches: NDArray[Any]) -> Float64:
    """Second moments of the columns of patches (n, c, kh, kw), shrunk: shape (c * kh, c * kh)."""
    size = patches.shape[1] * patches.shape[2]
    moments = np.zeros((size, size))
    for columns in _columns(patches):
        moments += columns.T @ columns
    moments /= max(1, len(patches) * patches.shape[3])
    return moments + (SHRINK * np.trace(moments) / size or 1.0) * np.eye(size)


def vertical_basis(weight: NDArray[Any], rank: int, moments: Float64 | None = None) -> Float64:
    """The best kh x 1 filters, V of shape (rank, c * kh), by falling weight.

    Args:
        weight: W, shape (d, c, kh, kw).
        rank: number of filters k, at most ``min(c * kh, d * kw)``.
        moments: S, positive definite; the identity if not given.

    Raises:
        numpy.linalg.LinAlgError: S is not positive definite.
    """
    columns = _weight_columns(weight)
    stacked = columns.reshape(-1, columns.shape[-1]).T
    with one_thread():
        root = np.eye(len(stacked)) if moments is None else cholesky(moments, lower=True)
        weighed = root.T @ stacked
        directions = leading_directions(weighed @ weighed.T, rank)
        return np.ascontiguousarray(solve_triangular(root, directions, lower=True, trans="T").T)


def horizontal_map(weight: NDArray[Any], basis: Float64, moments: Float64 | None = None) -> Float64:
    """The 1 x kw filters H that go best with a basis.

    Args:
        weight: W, shape (d, c, kh, kw).
        basis: V of `vertical_basis`, shape (k, c * kh).
        moments: those that the basis was made with.

    Returns:
        H, shape (d, kw, k).
    """
    weighed = basis if moments is None else basis @ moments
    return np.ascontiguousarray((_weight_columns(weight) @ weighed.T).transpose(1, 0, 2))


def column_features(patches: NDArray[Any], basis: Float64) -> NDArray[np.float32]:
    """V x for every column of patches (n, c, kh, kw): shape (n, kw, k), float32."""
    filters = basis.T.astype(np.float32)
    features = np.empty((len(patches) * patches.shape[3], len(basis)), np.float32)
    first = 0
    for columns in _columns(patches):
        features[first : first + len(columns)] = columns @ filters
        first += len(columns)
    return features.reshape(len(patches), patches.shape[3], len(basis))


def _columns(patches: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Columns of patches as rows of c * kh numbers, a block at a time."""
    for first in range(0, len(patches), _BLOCK_ROWS):
        block = patches[first : first + _BLOCK_ROWS].transpose(0, 3, 1, 2)
        yield np.ascontiguousarray(block, np.float32).reshape(-1, block.shape[2] * block.shape[3])


def _weight_columns(weight: NDArray[Any]) -> Float64:
    return np.asarray(weight, np.float64).transpose(3, 0, 1, 2).reshape(weight.shape[3], len(weight), -1)
