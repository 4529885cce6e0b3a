"""Reduced-rank regression: the best linear map of a given rank. The paper solves it by what it calls GSVD.

With X, Y the centred inputs and targets, rows = samples, and a ridge that pulls M toward the identity (a response is
best predicted by itself unless the data say otherwise)::

    min_M  ||Y - X M^T||_F^2 + rho ||M - I||_F^2     subject to  rank(M) <= rank

    G = X^T X + rho I,  C = Y^T X + rho I
    Mhat = C G^-1,  U = leading eigenvectors of Mhat C^T,  M = U U^T Mhat = P Q,  P = U,  Q = U^T Mhat

| code  | paper         | meaning                         | shape     |
|-------|---------------|---------------------------------|-----------|
| gram  | Y Y^T         | X^T X                           | (p, p)    |
| cross | Z Y^T         | Y^T X                           | (q, p)    |
| P     | P             | orthonormal columns             | (q, rank) |
| Q     | Q^T           | rows that project the inputs    | (rank, p) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh

from onnx_lowrank.errors import RankError
from onnx_lowrank.solve.moments import Float64, Moments

_SMALLEST_RIDGE = 1e-10  # dead and duplicated channels make the Gram matrix singular


@dataclass(frozen=True, eq=False)
class RankFactors:
    """A map of low rank, ``y = P Q x + offset``.

    Attributes:
        P: shape (q, rank), orthonormal columns.
        Q: shape (rank, p).
        offset: shape (q,).
    """

    P: Float64
    Q: Float64
    offset: Float64


class ReducedRankSolver:
    """Solves for many targets with the same inputs: the Gram matrix is factored once.

    Args:
        gram: X^T X of the centred inputs, shape (p, p).
        ridge: pull toward the identity (toward zero where p != q), relative to the mean Gram diagonal.
    """

    def __init__(self, gram: Float64, ridge: float) -> None:
        size = len(gram)
        self._scale = float(np.trace(gram)) / size or 1.0
        self._rho = ridge * self._scale
        regularized = gram + (self._rho + _SMALLEST_RIDGE * self._scale) * np.eye(size)
        self._factor = cho_factor(regularized, lower=True)

    def solve(self, cross: Float64, rank: int) -> tuple[Float64, Float64]:
        """P of shape (q, rank) and Q of shape (rank, p) for the cross moments Y^T X, shape (q, p)."""
        targets, inputs = cross.shape
        if not 1 <= rank <= targets:
            raise RankError(f"rank must be 1..{targets}, got {rank}")
        if targets == inputs:
            cross = cross + (self._rho + _SMALLEST_RIDGE * self._scale) * np.eye(inputs)
        unrestricted = cho_solve(self._factor, cross.T).T
        explained = unrestricted @ cross.T
        _, directions = eigh((explained + explained.T) / 2, subset_by_index=[targets - rank, targets - 1])
        P = np.ascontiguousarray(directions[:, ::-1])
        return P, P.T @ unrestricted


def fit(moments: Moments, rank: int, *, ridge: float) -> RankFactors:
    """Reduced-rank regression from moments, the offset included.

    Args:
        moments: of inputs (n, p) and targets (n, q).
        rank: kept directions, ``1 <= rank <= q``.
        ridge: pull toward the identity, relative to the mean Gram diagonal.

    Raises:
        RankError: rank outside ``[1, q]``.
    """
    P, Q = ReducedRankSolver(moments.gram, ridge).solve(moments.cross, rank)
    return RankFactors(P, Q, moments.target_mean - P @ (Q @ moments.input_mean))


def reduced_rank_regression(inputs: NDArray[Any], targets: NDArray[Any], rank: int, *, ridge: float) -> RankFactors:
    """Best affine map of at most ``rank`` from one set of responses to another.

    Solves ``min_M ||Y - X M^T||_F^2 + rho ||M - I||_F^2`` subject to ``rank(M) <= rank``, X and Y centred.

    Args:
        inputs: X, shape (n, p).
        targets: Y, shape (n, q).
        rank: kept directions, ``1 <= rank <= q``.
        ridge: rho relative to the mean diagonal of ``X^T X``; toward zero instead of I where p != q.

    Returns:
        P of shape (q, rank) with orthonormal columns, Q of shape (rank, p), and the offset of shape (q,).

    Raises:
        RankError: rank outside ``[1, q]``.

    References:
        Izenman 1975; Zhang et al. 2015, arXiv:1505.06798, nonlinear case (there called GSVD).
    """
    return fit(Moments.of(inputs, targets), rank, ridge=ridge)
