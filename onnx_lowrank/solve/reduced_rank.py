"""Reduced-rank regression: the best linear map of a given rank (the paper solves it by what it calls GSVD).

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

Use `onnx_lowrank.solve.nonlinear` where an activation follows, `onnx_lowrank.solve.reconstruct` where the ridge has to
be chosen, and `ReducedRankSolver` for several targets with the same inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.errors import RankError
from onnx_lowrank.linalg.arrays import Array, eye, in_float64, on_host
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.symmetric import cholesky, divided, leading_directions, mean_diagonal, with_ridge

_MIN_RIDGE = 1e-10  # dead and duplicated channels make the Gram matrix singular


@dataclass(frozen=True, eq=False)
class RankFactors:
    """A map of low rank, ``y = P Q x + offset``.

    Attributes:
        P: shape (q, rank), orthonormal columns.
        Q: shape (rank, p).
        offset: shape (q,).
    """

    P: Array
    Q: Array
    offset: Array

    def on_host(self) -> RankFactors:
        """Return the same in NumPy."""
        return RankFactors(on_host(self.P), on_host(self.Q), on_host(self.offset))


class ReducedRankSolver:
    """Solves for many targets with the same inputs: the Gram matrix is factored once.

    Args:
        gram: X^T X of the centred inputs, shape (p, p).
        ridge: pull toward the prior, relative to the mean Gram diagonal.
        prior: A, shape (q, p).
    """

    def __init__(self, gram: Array, ridge: float, prior: Array) -> None:
        rho = (ridge + _MIN_RIDGE) * mean_diagonal(gram)
        self._pull = rho * prior
        self._root = cholesky(with_ridge(gram, rho))

    def solve(self, cross: Array, rank: int) -> tuple[Array, Array]:
        """Return P, shape (q, rank), and Q, shape (rank, p), for the cross moments Y^T X, shape (q, p).

        Raises:
            RankError: rank outside ``[1, q]``.
        """
        targets = len(cross)
        if not 1 <= rank <= targets:
            raise RankError(f"rank must be 1..{targets}, got {rank}")
        cross = cross + self._pull
        unrestricted = divided(self._root, cross.T).T
        if rank == targets:
            return eye(targets, targets, cross), unrestricted
        explained = unrestricted @ cross.T
        P = leading_directions((explained + explained.T) / 2, rank)
        return P, P.T @ unrestricted


def fit_with(solver: ReducedRankSolver, moments: Moments, rank: int) -> RankFactors:
    """Solve reduced-rank regression of the targets in ``moments``, the offset included.

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
    inputs: Array, targets: Array, rank: int, *, ridge: float, prior: Array | None = None
) -> RankFactors:
    """Return the best affine map of at most ``rank`` from one set of responses to another.

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
    moments = Moments.of(inputs, targets)
    A = eye(targets.shape[1], inputs.shape[1], inputs) if prior is None else in_float64(prior, inputs)
    return fit_with(ReducedRankSolver(moments.gram, ridge, A), moments, rank)
