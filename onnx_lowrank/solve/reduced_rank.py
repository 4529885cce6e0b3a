"""Reduced-rank regression: the best linear map of a given rank. The paper solves it by what it calls GSVD.

With X, Y the centred inputs and targets, rows = samples, and a ridge that pulls M toward a prior map A: the one that is
right if the inputs are what they would be in the original network (the identity, where inputs are responses)::

    min_M  ||Y - X M^T||_F^2 + rho ||M - A||_F^2     subject to  rank(M) <= rank

    G = X^T X + rho I,  C = Y^T X + rho A
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

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnx_lowrank.array_api import Array
from onnx_lowrank.eigen import leading_directions
from onnx_lowrank.errors import RankError
from onnx_lowrank.solve.moments import Float64, Moments
from onnx_lowrank.threads import one_thread

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
        ridge: pull toward the prior, relative to the mean Gram diagonal.
        prior: A, shape (q, p).
    """

    def __init__(self, gram: Float64, ridge: float, prior: Float64) -> None:
        size = len(gram)
        self._rho = (ridge + _SMALLEST_RIDGE) * (float(np.trace(gram)) / size or 1.0)
        self._pull = self._rho * prior
        with one_thread():
            self._factor = cho_factor(gram + self._rho * np.eye(size), lower=True)

    def solve(self, cross: Float64, rank: int) -> tuple[Float64, Float64]:
        """P of shape (q, rank) and Q of shape (rank, p) for the cross moments Y^T X, shape (q, p)."""
        targets = len(cross)
        if not 1 <= rank <= targets:
            raise RankError(f"rank must be 1..{targets}, got {rank}")
        cross = cross + self._pull
        with one_thread():
            unrestricted = cho_solve(self._factor, cross.T).T
            if rank == targets:
                return np.eye(targets), unrestricted
            explained = unrestricted @ cross.T
        P = leading_directions((explained + explained.T) / 2, rank)
        return P, P.T @ unrestricted


def fit_with(solver: ReducedRankSolver, moments: Moments, rank: int) -> RankFactors:
    """Reduced-rank regression of the targets in ``moments``, the offset included.

    Args:
        solver: made from ``moments.gram``.
        moments: of inputs (n, p) and targets (n, q).
        rank: kept directions, ``1 <= rank <= q``.

    Raises:
        RankError: rank outside ``[1, q]``.
    """
    P, Q = solver.solve(moments.cross, rank)
    return RankFactors(P, Q, moments.target_mean - P @ (Q @ moments.input_mean))


def reduced_rank_regression(
    inputs: Array, targets: Array, rank: int, *, ridge: float, prior: Float64 | None = None
) -> RankFactors:
    """Best affine map of at most ``rank`` from one set of responses to another.

    Solves ``min_M ||Y - X M^T||_F^2 + rho ||M - A||_F^2`` subject to ``rank(M) <= rank``, X and Y centred.

    Args:
        inputs: X, shape (n, p).
        targets: Y, shape (n, q).
        rank: kept directions, ``1 <= rank <= q``.
        ridge: rho relative to the mean diagonal of ``X^T X``.
        prior: A, shape (q, p); the identity if not given, with zeros where p != q.

    Returns:
        P of shape (q, rank) with orthonormal columns, Q of shape (rank, p), and the offset of shape (q,).

    Raises:
        RankError: rank outside ``[1, q]``.

    References:
        Izenman 1975; Zhang et al. 2015, arXiv:1505.06798, nonlinear case (there called GSVD).
    """
    pull = np.eye(targets.shape[1], inputs.shape[1]) if prior is None else prior
    moments = Moments.of(inputs, targets)
    return fit_with(ReducedRankSolver(moments.gram, ridge, pull), moments, rank)
