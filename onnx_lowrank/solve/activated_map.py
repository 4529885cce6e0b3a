"""Refine one linear map on the error after the activation: gains and shifts, then L-BFGS in whitened variables.

    min over W, b   sum_i || r(y_i + s_i) - r(W x_i + b + s_i) ||^2 + rho || W - W0 ||^2,    W = W0 + D^-1 V L^-1

Least squares on responses takes pains over what the activation cuts off, and where inputs are noisy the means that it
delivers are not what is left behind the activation. A gain and a shift of every output mend most of that; a few
iterations move all of W after it, as in `onnx_lowrank.solve.refine`, which moves all factors of a chain.

| code     | meaning                                              | shape    |
|----------|------------------------------------------------------|----------|
| inputs   | x                                                    | (n, m)   |
| weight   | W, and W0, the linear solution with its gains        | (m, d)   |
| root     | L, with L L^T = G + rho I, G centred second moments  | (m, m)   |
| slopes   | D, root of the mean squared slope r' of each output  | (d,)     |
| change   | V^T                                                  | (m, d)   |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from onnx_lowrank.linalg.arrays import Array, squares
from onnx_lowrank.linalg.lbfgs import minimize
from onnx_lowrank.linalg.row_blocks import over_row_blocks
from onnx_lowrank.linalg.symmetric import mean_diagonal, with_ridge
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.reconstruct import ROWS_PER_HELD_OUT_ROW
from onnx_lowrank.solve.refine import map_loss

Floats = NDArray[np.float64]

_ITERATIONS = 4  # of L-BFGS
_MIN_RIDGE = 1e-6  # of the mean diagonal of G: inputs may be silent or duplicates
_RESCALING_STEPS = 4
_SCALE_DAMPING = 1e-3  # of the mean square of a response, for a gain
_MAX_ROWS = 12_000  # it pays to look at; the linear solution has seen all of them
_MIN_SLOPE = 0.2  # of an output that the activation cuts off nearly everywhere, or one step would move it too far
_CURVATURE = 2.0  # along every variable, by what they are scaled with, per mean squared response
_MIN_GAIN = 1e-4  # relative, of an iteration; with less it is the last


@dataclass(frozen=True, eq=False)
class AffineMap:
    """A map ``x -> W^T x + b`` with weight W (m, d) and bias (d,)."""

    weight: Floats
    bias: Floats

    def error(self, rows: Rows) -> float:
        """Return the squared error after the activation."""
        lost, _, _ = map_loss(self.weight.T, self.bias, rows.inputs[:, None, :], rows, gradient=False)
        return lost


def refined_map(start: AffineMap, rows: Rows, gram: Floats, ridge: float) -> AffineMap:
    """Lower the error of a map after the activation, where rows that are held out confirm it.

    Args:
        start: the linear solution.
        rows: inputs and targets, ordered by image.
        gram: centred second moments of the inputs, of all rows together, shape (m, m).
        ridge: pull toward the linear solution, relative to the mean diagonal of ``gram``.

    Returns:
        The refined map, or ``start``.
    """
    if rows.activation.name == "identity":
        return start
    some = rows.spread(_MAX_ROWS)
    cut = len(some) - len(some) // ROWS_PER_HELD_OUT_ROW
    train, held_out = some.part(slice(0, cut)), some.part(slice(cut, None))
    refined = _refined(_rescaled(start, train), train, gram / len(rows), ridge)
    return refined if refined.error(held_out) < start.error(held_out) else start


def _rescaled(start: AffineMap, rows: Rows) -> AffineMap:
    """Scale and shift every output for the least error after the activation, by Gauss-Newton steps.

    Two numbers an output mend most of what least squares in front of an activation loses, without a product with the
    rows in each step.
    """
    responses, weight = np.empty_like(rows.targets), start.weight.astype(np.float32)

    def of_block(part: slice) -> Floats:
        responses[part] = rows.inputs[part] @ weight
        return np.asarray(responses[part].sum(axis=0), np.float64)

    mean = np.sum(list(over_row_blocks(of_block, responses)), axis=0) / len(rows)
    responses -= mean.astype(np.float32)
    numbers = np.stack([np.ones_like(mean), mean + start.bias])  # gain, shift
    best, least = numbers, np.full(len(mean), np.inf)
    damping = _SCALE_DAMPING * np.stack([_squared(responses), np.full(len(mean), float(len(rows)))])
    for _ in range(1 + _RESCALING_STEPS):
        error, step = _step_of_scales(numbers, responses, rows, damping + np.finfo(np.float32).tiny)
        best, least = np.where(error < least, numbers, best), np.minimum(error, least)
        numbers = numbers + step
    gain, shift = best
    return AffineMap(start.weight * gain, shift - gain * mean)


def _step_of_scales(
    numbers: Floats, responses: NDArray[np.float32], rows: Rows, damping: Floats
) -> tuple[Floats, Floats]:
    """Return the squared error of every output (d,), and the Gauss-Newton step of its gain and its shift (2, d).

    Args:
        numbers: gain and shift of every output, shape (2, d).
        responses: without their means, shape (n, d).
        rows: targets and activation.
        damping: added to the curvature of each number, shape (2, d); an output may be cut off everywhere.
    """
    gain, shift = numbers.astype(np.float32)

    def of_block(part: slice) -> Floats:
        block, current = rows.part(part), responses[part] * gain
        current += shift if block.offset is None else shift + block.offset
        value, slope = rows.activation.with_slope(current)
        missing, by_gain = block.targets - value, slope * responses[part]
        curvatures = [(by_gain, by_gain), (by_gain, slope), (slope, slope)]
        pairs = [(missing, missing), *curvatures, (by_gain, missing), (slope, missing)]
        return np.stack([_summed(one, other) for one, other in pairs])

    error, a, b, c, u, v = np.sum(list(over_row_blocks(of_block, responses)), axis=0)
    a, c = a + damping[0], c + damping[1]
    return error, np.stack([c * u - b * v, a * v - b * u]) / (a * c - b * b)


def _squared(array: NDArray[np.float32]) -> Floats:
    """Return the sums of squares over all rows, shape (d,)."""
    sums: Floats = np.sum(list(over_row_blocks(lambda part: _summed(array[part], array[part]), array)), axis=0)
    return sums


def _summed(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Return the sums of products over the rows of a block, shape (d,)."""
    sums: Floats = np.einsum("nd,nd->d", one, other).astype(np.float64)
    return sums


def _refined(start: AffineMap, rows: Rows, gram: Floats, ridge: float) -> AffineMap:
    """Take the iterations on these rows; ``gram`` is per row."""
    size, count = float(squares(rows.targets)), len(rows)
    if size == 0:
        return start
    pull = (ridge + _MIN_RIDGE) * float(mean_diagonal(gram))
    root = cholesky(with_ridge(gram, pull), lower=True)
    mean = rows.inputs.mean(axis=0, dtype=np.float64)
    features, shape = rows.inputs[:, None, :], start.weight.shape
    slopes = _slopes(start, rows)

    def moved(vector: Array) -> AffineMap:
        """Return the map of a vector of variables; its last part moves the mean response."""
        values = np.asarray(vector, np.float64)
        change = solve_triangular(root, values[: -shape[1]].reshape(shape) / slopes, lower=True, trans="T")
        return AffineMap(start.weight + change, start.bias + values[-shape[1] :] / slopes - mean @ change)

    def objective(vector: Array) -> tuple[float, Array]:
        current = moved(vector)
        lost, by_map, by_bias = map_loss(current.weight.T, current.bias, features, rows)
        change = current.weight - start.weight
        lost += pull * count * float(np.sum(change * change))
        by_weight = by_map.T.astype(np.float64) - np.outer(mean, by_bias) + 2 * pull * count * change
        by_change = solve_triangular(root, by_weight, lower=True) / slopes
        gradient = np.concatenate([by_change.ravel(), by_bias / slopes])
        return lost / size, gradient.astype(np.float32) / size

    nothing = np.zeros(start.weight.size + shape[1], np.float32)
    return moved(minimize(objective, nothing, _ITERATIONS, curvature=_CURVATURE * count / size, min_gain=_MIN_GAIN))


def _slopes(current: AffineMap, rows: Rows) -> Floats:
    """Return the root of the mean squared slope of every output, shape (d,)."""
    weight, bias = current.weight.astype(np.float32), current.bias.astype(np.float32)

    def of_block(block: Rows) -> Floats:
        responses = block.inputs @ weight + bias
        _, slope = block.activation.with_slope(responses if block.offset is None else responses + block.offset)
        return _summed(slope, slope)

    total: Floats = np.sum(list(rows.over_blocks(of_block)), axis=0)
    return np.maximum(np.sqrt(total / len(rows)), _MIN_SLOPE)
