"""Reconstruct responses after the activation: the paper's alternating solver.

    min_{M, b}  sum_i || r(y_i + s_i) - r(M x_i + b + s_i) ||^2      rank(M) <= rank

is relaxed with an auxiliary z per element and a penalty that grows, and solved by turns: the z step element by element
(`activation_steps`), the (M, b) step by reduced-rank regression of z on x. The Gram matrix never changes, so a turn
costs one pass over the rows and two (d, d) products. The best iterate by the true objective is kept; the linear
solution is the first.

| code      | paper   | meaning                                            | shape  |
|-----------|---------|----------------------------------------------------|--------|
| inputs    | yhat_i  | responses as the converted prefix delivers them    | (n, d) |
| responses | y_i     | responses of the original network                  | (n, d) |
| targets   | r(y_i)  | the same after the activation, residual added      | (n, d) |
| offset    |         | residual added before the activation, s_i          | (n, d) |
| penalty   | lambda  | weight of the relaxation                           | scalar |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.activation import Activation
from onnx_lowrank.responses import Responses
from onnx_lowrank.solve.activation_steps import activation_step
from onnx_lowrank.solve.moments import Moments, blocks
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver

PENALTIES = (0.01, 1.0)  # the paper's schedule: a warm-up, then the real one
TURNS = 25  # per penalty
_ENOUGH = 1e-4  # stop where a turn lowers the objective by less than this share
_PATIENCE = 3


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows a layer is solved on.

    Attributes:
        inputs: what the converted prefix delivers, shape (n, d), float32.
        responses: what the original network delivers before the activation, shape (n, d), float32.
        targets: the same after the activation, shape (n, d).
        offset: residual added before the activation, shape (n, d); None where nothing is.
        activation: r.
    """

    inputs: NDArray[Any]
    responses: NDArray[Any]
    targets: NDArray[Any]
    offset: NDArray[Any] | None
    activation: Activation

    @staticmethod
    def of(responses: Responses, activation: Activation) -> Rows:
        """The rows of a layer, targets worked out once."""
        original, offset = responses.targets.responses, responses.targets.residual
        targets = activation(original if offset is None else original + offset)
        return Rows(responses.inputs, original, targets, offset, activation)

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.inputs)

    def part(self, rows: slice) -> Rows:
        """Some of the rows."""
        offset = None if self.offset is None else self.offset[rows]
        return Rows(self.inputs[rows], self.responses[rows], self.targets[rows], offset, self.activation)

    def blocks(self) -> Iterator[Rows]:
        """All rows, a block at a time."""
        for rows in blocks(len(self)):
            yield self.part(rows)


def activated_error(rows: Rows, factors: RankFactors) -> float:
    """Relative error after the activation, ``||r(Y + S) - r(Y' + S)||_F / ||r(Y + S)||_F``."""
    lost = size = 0.0
    for block in rows.blocks():
        lost += _lost(block, predict(block.inputs, factors))
        size += float(np.vdot(block.targets, block.targets))
    if size == 0:
        return 0.0 if lost == 0 else float("inf")
    return float(np.sqrt(lost / size))


def predict(inputs: NDArray[Any], factors: RankFactors) -> NDArray[Any]:
    """``M x + b`` row by row, in the inputs' float type."""
    P, Q, offset = (part.astype(inputs.dtype) for part in (factors.P, factors.Q, factors.offset))
    return inputs @ Q.T @ P.T + offset  # type: ignore[no-any-return]


def solve_nonlinear(rows: Rows, moments: Moments, start: RankFactors, *, ridge: float) -> tuple[RankFactors, float]:
    """Alternate between z and (M, b), from the linear solution.

    Args:
        rows: inputs, responses and activation.
        moments: of ``rows.inputs``; its targets are not looked at.
        start: the linear solution; its rank is kept.
        ridge: pull toward the identity, relative to the mean Gram diagonal.

    Returns:
        The best factors seen, and their relative error after the activation on these rows.

    References:
        Zhang et al. 2015, arXiv:1505.06798, nonlinear case.
    """
    solver = ReducedRankSolver(moments.gram, ridge)
    rank = start.P.shape[1]
    best, best_error, current = start, np.inf, start
    for penalty in PENALTIES:
        previous, idle = np.inf, 0
        for _ in range(TURNS):
            cross, mean, error = _auxiliary_moments(rows, current, moments, penalty)
            if error < best_error:
                best, best_error = current, error
            idle = idle + 1 if error > previous * (1 - _ENOUGH) else 0
            if idle >= _PATIENCE or error == 0:
                break
            previous = error
            P, Q = solver.solve(cross, rank)
            current = RankFactors(P, Q, mean - P @ (Q @ moments.input_mean))
    error = activated_error(rows, current)
    return (current, error) if error < best_error else (best, float(best_error))


def _auxiliary_moments(
    rows: Rows, factors: RankFactors, moments: Moments, penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The z step: cross moments of z with the inputs (d, d), mean of z (d,), and the error of ``factors``."""
    size = len(factors.offset)
    cross, total = np.zeros((size, size)), np.zeros(size)
    lost = norm = 0.0
    for block in rows.blocks():
        predictions = predict(block.inputs, factors)
        lost += _lost(block, predictions)
        norm += float(np.vdot(block.targets, block.targets))
        z = activation_step(block.activation, block.targets, predictions, penalty, offset=block.offset)
        cross += z.T @ (block.inputs - moments.input_mean.astype(z.dtype))
        total += z.sum(axis=0, dtype=np.float64)
    return cross, total / len(rows), float(np.sqrt(lost / norm)) if norm else 0.0


def _lost(block: Rows, predictions: NDArray[Any]) -> float:
    """Squared error after the activation."""
    moved = predictions if block.offset is None else predictions + block.offset
    difference = block.activation(moved) - block.targets
    return float(np.vdot(difference, difference))
