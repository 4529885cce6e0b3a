"""Vertical filters for a layer: the spatial decomposition, weighed by the second moments of its input.

A patch is kw columns of kh * c numbers, and ``y = sum_j W_j x_j + b0``. A kh x 1 convolution with k filters V sees each
column alone; behind it a 1 x kw convolution adds the columns up: ``y' = sum_j H_j V x_j``. Best for columns that all
have the second moments S is::

    min_{H, V}  sum_j  || (W_j - H_j V) S^(1/2) ||_F^2

    S = L L^T;   U = leading left singular vectors of L^T [W_1^T ... W_kw^T];   V = U^T L^-1;   H_j = W_j S V^T

With S = I this is the usual spatial SVD of the weights. The features V x have second moments I, and the leading k
filters of a larger basis are the basis of rank k.

Use it without moments for a decomposition that knows the weights only.

| code      | meaning                                    | shape                |
|-----------|--------------------------------------------|----------------------|
| columns   | weight, a row per filter and kernel column | (kw, d, kh * c)      |
| moments   | S, shrunk toward a multiple of I           | (kh * c, kh * c)     |
| basis     | V                                          | (k, kh * c)          |
| map       | H                                          | (d, kw, k)           |

References:
    Jaderberg, Vedaldi, Zisserman 2014, arXiv:1405.3866 (the decomposition); the weighing is ours.
"""

from __future__ import annotations

import numpy as np

from onnx_lowrank.linalg.arrays import Array, blocks, in_float64, like, namespace, zeros
from onnx_lowrank.linalg.row_blocks import over_blocks, product
from onnx_lowrank.linalg.symmetric import cholesky, divided_by_root, leading_directions, with_ridge

SHRINK = 1e-3  # toward a multiple of the identity: columns may be fewer than their numbers, channels dead
_BLOCK_ROWS = 2048
_LARGE = 500  # numbers of a column with which moments take time
_COLUMNS_PER_NUMBER = 8  # that moments are taken of then, where there are as many
_HOST = np.empty(0, np.float32)  # template where the caller names none


def vertical_moments(patches: Array, template: Array = _HOST) -> Array:
    """Return the second moments of the columns of patches, shrunk.

    Of long columns that are far more than their numbers, those of evenly spread patches stand for all of them.

    Args:
        patches: shape (n, c, kh, kw); read a block of rows at a time, so any object whose slices are arrays will do.
        template: an array in the library, on the device and of the float type to work in.

    Returns:
        S, shape (kh * c, kh * c), in float64 on that device.
    """
    size, width = patches.shape[1] * patches.shape[2], patches.shape[3]
    step = max(1, len(patches) * width // (_COLUMNS_PER_NUMBER * size)) if size >= _LARGE else 1

    def of_block(rows: slice) -> Array:
        columns = _columns(patches[rows][-rows.start % step :: step], template)
        return columns.T @ columns

    parts = blocks(len(patches), _BLOCK_ROWS)
    total = sum(over_blocks(of_block, parts, template), zeros((size, size), template))
    moments = total / max(1, -(-len(patches) // step) * width)
    return with_ridge(moments, SHRINK * float(namespace(moments).linalg.trace(moments)) / size or 1.0)


def vertical_basis(weight: Array, rank: int, moments: Array | None = None) -> Array:
    """Return the best kh x 1 filters, V of shape (rank, kh * c), by descending weight.

    Args:
        weight: W, shape (d, c, kh, kw).
        rank: number of filters k, at most ``min(kh * c, d * kw)``.
        moments: S, positive definite, on the device to work on; the identity, in NumPy, if not given.

    Raises:
        numpy.linalg.LinAlgError: S is not positive definite.
    """
    if moments is None:
        columns = _weight_columns(weight, _HOST)
        stacked = columns.reshape(-1, columns.shape[-1]).T
        return leading_directions(stacked @ stacked.T, rank).T
    root, _, directions = _weighed_directions(_weight_columns(weight, moments), rank, moments)
    return divided_by_root(root, directions, transposed=True).T


def vertical_factors(weight: Array, rank: int, moments: Array) -> tuple[Array, Array]:
    """Return the best kh x 1 filters, as `vertical_basis` does, and the 1 x kw filters that go best with them.

    Where both are for the same weight, ``H_j = W_j S V^T = (L^T W_j^T)^T U`` takes one product; `horizontal_map` takes
    two, and serves filters that were chosen for another weight.

    Args:
        weight: W, shape (d, c, kh, kw).
        rank: number of filters k, at most ``min(kh * c, d * kw)``.
        moments: S, positive definite, on the device to work on.

    Returns:
        V, shape (rank, kh * c), and H, shape (d, kw, rank).

    Raises:
        numpy.linalg.LinAlgError: S is not positive definite.
    """
    columns = _weight_columns(weight, moments)
    root, weighed, directions = _weighed_directions(columns, rank, moments)
    horizontal = product(weighed.T, directions).reshape(*columns.shape[:2], rank)
    basis = divided_by_root(root, directions, transposed=True).T
    return basis, namespace(basis).permute_dims(horizontal, (1, 0, 2))


def _weighed_directions(columns: Array, rank: int, moments: Array) -> tuple[Array, Array, Array]:
    """Return L, ``L^T [W_1^T ... W_kw^T]``, and U, the leading left singular vectors of that."""
    root = cholesky(moments)
    weighed = product(root.T, columns.reshape(-1, columns.shape[-1]).T)
    return root, weighed, leading_directions(weighed @ weighed.T, rank)


def horizontal_map(weight: Array, basis: Array, moments: Array | None = None) -> Array:
    """Return the 1 x kw filters H that go best with a basis.

    Args:
        weight: W, shape (d, c, kh, kw).
        basis: V of `vertical_basis`, shape (k, kh * c).
        moments: those that the basis was made with.

    Returns:
        H, shape (d, kw, k).
    """
    weighed, columns = basis if moments is None else product(basis, moments), _weight_columns(weight, basis)
    horizontal = product(columns.reshape(-1, columns.shape[2]), weighed.T).reshape(*columns.shape[:2], len(basis))
    return namespace(basis).permute_dims(horizontal, (1, 0, 2))


def column_features(patches: Array, basis: Array, template: Array = _HOST, first: int = 0) -> Array:
    """Apply V to every column of patches.

    Args:
        patches: shape (m, c, kh, kw), as for `vertical_moments`.
        basis: V, shape (k, kh * c).
        template: an array in the library, on the device and of the float type of the result.
        first: row to begin at.

    Returns:
        Shape (m - first, kw, k).
    """
    filters, width = like(basis, template).T, patches.shape[3]
    shape = (len(patches) - first, width, len(basis))
    features = namespace(template).empty(shape, dtype=template.dtype, device=template.device)

    def fill(rows: slice) -> None:
        columns = _columns(patches[first + rows.start : first + rows.stop], template)
        features[rows] = (columns @ filters).reshape(-1, width, len(basis))

    list(over_blocks(fill, blocks(len(features), _BLOCK_ROWS), template))
    return features


def _columns(patches: Array, template: Array) -> Array:
    """Return columns of patches as rows of kh * c numbers."""
    columns = like(patches, template).swapaxes(1, -1)
    return columns.reshape(-1, columns.shape[2] * columns.shape[3])


def _weight_columns(weight: Array, template: Array) -> Array:
    """Return the weight as rows of kh * c numbers per filter and kernel column, (kw, d, kh * c)."""
    columns = namespace(template).permute_dims(in_float64(weight, template), (3, 0, 2, 1))
    return columns.reshape(*columns.shape[:2], -1)
