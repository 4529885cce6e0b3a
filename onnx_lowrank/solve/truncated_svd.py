"""Weight reconstruction: the data-free baselines that every solution on data has to beat.

    min_P  ||W - P P^T W||_F     P = leading left singular vectors of W

For the spatial decompositions the filters that P keeps, ``P^T W``, are split by the spatial SVD (`vertical_basis`).

| code   | meaning                        | shape             |
|--------|--------------------------------|-------------------|
| weight | filters as rows, W             | (d, c * kh * kw)  |
| P      | orthonormal columns            | (d, rank)         |

Use `onnx_lowrank.solve.reconstruct` wherever there are rows: these know neither the inputs nor the activation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.linalg.spatial_basis import horizontal_map, vertical_basis
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.reduced_rank import RankFactors


def truncated_svd(weight: NDArray[Any], bias: NDArray[Any], rank: int) -> RankFactors:
    """Return the map of responses that keeps the filters' leading directions.

    Args:
        weight: W, shape (d, anything).
        bias: shape (d,); kept exactly.
        rank: kept directions.

    Returns:
        ``P P^T (y - bias) + bias`` as factors: P of shape (d, rank), Q its transpose.

    References:
        Eckart and Young 1936.
    """
    filters = np.asarray(weight, np.float64).reshape(len(weight), -1)
    P = leading_directions(filters @ filters.T, rank)
    b0 = np.asarray(bias, np.float64)
    return RankFactors(P, np.ascontiguousarray(P.T), b0 - P @ (P.T @ b0))


def truncated_spatial_svd(layer: Layer, spatial: int, channel: int | None) -> FactorMap:
    """Return the chain of a spatial or spatial-channel decomposition that is made from the weights alone.

    Args:
        layer: the original layer; its bias is kept exactly.
        spatial: spatial rank d''.
        channel: channel rank d'; None without a 1 x 1.

    Returns:
        The factors; T reads whole kernel columns, shape (d'', kh c).

    References:
        Jaderberg, Vedaldi, Zisserman 2014, arXiv:1405.3866 (scheme 2).
    """
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    P = None
    if channel is not None:
        P = truncated_svd(weight, bias, channel).P
        weight = np.einsum("dr,dchw->rchw", P, weight, optimize=True)
    basis = vertical_basis(weight, spatial)
    return FactorMap(basis, horizontal_map(weight, basis).reshape(len(weight), -1), P, bias)
