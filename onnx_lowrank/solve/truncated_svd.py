"""Weight reconstruction: the data-free baseline that every solution on data has to beat.

    min_V  ||W - P P^T W||_F     P = leading left singular vectors of W

| code   | meaning                        | shape             |
|--------|--------------------------------|-------------------|
| weight | filters as rows, W             | (d, c * kh * kw)  |
| P      | orthonormal columns            | (d, rank)         |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.reduced_rank import RankFactors


def truncated_svd(weight: NDArray[Any], bias: NDArray[Any], rank: int) -> RankFactors:
    """The map of responses that keeps the filters' leading directions.

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
    known = np.asarray(bias, np.float64)
    return RankFactors(P, np.ascontiguousarray(P.T), known - P @ (P.T @ known))
