"""Reconstruct responses after the activation: the paper's alternating solver.

    min_{M, b}  sum_i || r(y_i + s_i) - r(M x_i + b + s_i) ||^2      rank(M) <= rank

is relaxed with an auxiliary z per element and a penalty that grows, and solved by turns: the z step element by element
(`activation_steps`), the (M, b) step by reduced-rank regression of z on x. The Gram matrix never changes, so a turn
costs one pass over the rows. The best iterate by the true objective is kept; the linear solution is the first.

Use `onnx_lowrank.solve.reduced_rank` where nothing bends behind the layer, and `onnx_lowrank.solve.refine` where the
map is a product of more than two factors, or a few iterations from a good start are enough.

| code      | paper   | meaning                                            | shape  |
|-----------|---------|----------------------------------------------------|--------|
| inputs    | yhat_i  | what the response is made from: yhat_i,            | (n, p) |
|           |         | or features of the patch                           |        |
| responses | y_i     | responses of the original network                  | (n, d) |
| targets   | r(y_i)  | the same after the activation, residual added      | (n, d) |
| offset    |         | residual added before the activation, s_i          | (n, d) |
| penalty   | lambda  | weight of the relaxation                           | scalar |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from onnx_lowrank.layers.activation import Activation
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.arrays import Array, like, namespace, squares, zeros
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.linalg.row_blocks import over_row_blocks
from onnx_lowrank.solve.activation_steps import activation_step
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver

Result = TypeVar("Result")

PENALTIES = (0.01, 1.0)  # the paper's schedule: a warm-up, then the real one
MAX_TURNS = 25  # per penalty
_MIN_GAIN = 1e-3  # relative, of a turn; with less it counts as idle
_MAX_IDLE_TURNS = 2  # per penalty, one after the other


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows a layer is solved on.

    Attributes:
        inputs: what the response is made from, shape (n, p), float32.
        responses: of the original network before the activation, shape (n, d), float32.
        targets: the same after the activation, shape (n, d).
        offset: residual added before the activation, shape (n, d); None where nothing is.
        activation: r.
    """

    inputs: Array
    responses: Array
    targets: Array
    offset: Array | None
    activation: Activation

    @staticmethod
    def of(targets: TargetResponses, inputs: Array, activation: Activation) -> Rows:
        """Take the rows of a layer, and apply its activation to the responses once."""
        original, offset = targets.responses, targets.residual
        activated = activation(original if offset is None else original + offset)
        return Rows(inputs, original, activated, offset, activation)

    def of_inputs(self, inputs: Array) -> Rows:
        """Return the same targets with other inputs, shape (n, any)."""
        return replace(self, inputs=inputs)

    def __len__(self) -> int:
        """Return the number of rows n."""
        return len(self.inputs)

    def part(self, rows: slice) -> Rows:
        """Return some of the rows."""
        offset = None if self.offset is None else self.offset[rows]
        return Rows(self.inputs[rows], self.responses[rows], self.targets[rows], offset, self.activation)

    def spread(self, count: int) -> Rows:
        """Return at most so many rows, evenly from all images."""
        step = -(-len(self) // count)
        return self if step <= 1 else self.part(slice(None, None, step))

    def over_blocks(self, work: Callable[[Rows], Result]) -> Iterator[Result]:
        """Yield ``work`` of all rows, a block at a time, in order."""
        return over_row_blocks(lambda rows: work(self.part(rows)), self.inputs)


def activated_error(rows: Rows, factors: RankFactors) -> float:
    """Return the relative error after the activation, ``||r(Y + S) - r(Y' + S)||_F / ||r(Y + S)||_F``."""
    predict = prediction(factors, rows.inputs)

    def of_block(block: Rows) -> tuple[float, float]:
        return _lost(block, predict(block.inputs)), float(squares(block.targets))

    lost = size = 0.0
    for part_lost, part_size in rows.over_blocks(of_block):
        lost += part_lost
        size += part_size
    return relative_error(lost, size)


def prediction(factors: RankFactors, template: Array) -> Callable[[Array], Array]:
    """Return ``x -> M x + b`` for rows on the device and in the float type of ``template``, in the fewest steps."""
    P, Q, offset = (like(part, template) for part in (factors.P, factors.Q, factors.offset))
    merged = len(Q) * (len(P) + Q.shape[1]) >= len(P) * Q.shape[1]
    steps = [(P @ Q).T] if merged else [Q.T, P.T]

    def predict(inputs: Array) -> Array:
        response = inputs
        for step in steps:
            response = response @ step
        response += offset
        return response

    return predict


@dataclass(frozen=True, eq=False)
class Solution:
    """The best iterate of the alternation.

    Attributes:
        factors: the best iterate.
        error: its relative error after the activation on the rows it was judged by.
        turns: number of turns of each penalty that led there.
    """

    factors: RankFactors
    error: float
    turns: tuple[int, ...]


def solve_nonlinear(
    rows: Rows,
    moments: Moments,
    start: RankFactors,
    solver: ReducedRankSolver,
    *,
    turns: tuple[int, ...] = (MAX_TURNS,) * len(PENALTIES),
    judge: Rows | None = None,
) -> Solution:
    """Alternate between z and (M, b), from the linear solution.

    Args:
        rows: inputs, responses and activation.
        moments: of ``rows``; the moments of its targets are not used.
        start: the linear solution; its rank is kept.
        solver: of the (M, b) step, for the same moments.
        turns: at most, of each penalty in `PENALTIES`.
        judge: rows to choose the best iterate by, and to stop by; ``rows`` themselves if not given.

    Returns:
        The best iterate, ``start`` included.

    References:
        Zhang et al. 2015, arXiv:1505.06798, nonlinear case.
    """
    rank = start.P.shape[1]
    best = Solution(start, activated_error(judge or rows, start), (0,) * len(PENALTIES))
    taken: list[int] = []
    for penalty, max_turns in zip(PENALTIES, turns, strict=True):
        current, reference, idle = best.factors, best.error, 0
        taken.append(0)
        for turn in range(1, max_turns + 1):
            cross, mean = _auxiliary_moments(rows, current, moments, penalty)
            P, Q = solver.solve(cross, rank)
            current = RankFactors(P, Q, mean - P @ (Q @ moments.input_mean))
            error = activated_error(judge or rows, current)
            if error < best.error:
                best = Solution(current, error, (*taken[:-1], turn, *(0,) * (len(PENALTIES) - len(taken))))
            idle = idle + 1 if error > reference * (1 - _MIN_GAIN) else 0
            reference = min(reference, error)
            if idle >= _MAX_IDLE_TURNS:
                break
        taken[-1] = best.turns[len(taken) - 1]
    return best


def _auxiliary_moments(rows: Rows, factors: RankFactors, moments: Moments, penalty: float) -> tuple[Array, Array]:
    """Take the z step; return cross moments of z with the inputs (d, p), and the mean of z (d,)."""
    xp, predict = namespace(rows.inputs), prediction(factors, rows.inputs)
    centre = like(moments.input_mean, rows.inputs)

    def of_block(block: Rows) -> tuple[Array, Array]:
        z = activation_step(block.activation, block.targets, predict(block.inputs), penalty, offset=block.offset)
        return z.T @ (block.inputs - centre), xp.sum(z, axis=0, dtype=xp.float64)

    cross, total = zeros(moments.cross.shape, rows.inputs), zeros(moments.target_mean.shape, rows.inputs)
    for part_cross, part_total in rows.over_blocks(of_block):
        cross += part_cross
        total += part_total
    return cross, total / len(rows)


def _lost(block: Rows, predictions: Array) -> float:
    """Return the squared error after the activation."""
    shifted = predictions if block.offset is None else predictions + block.offset
    return float(squares(block.activation(shifted) - block.targets))
