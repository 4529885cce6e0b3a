"""The z step of the nonlinear solver: pre-activations near the prediction whose activation is near its target.

Element by element, with s the residual branch (0 where there is none)::

    z  =  argmin_z  (t - r(z + s))^2 + lambda (z - y')^2

In u = z + s and v = y' + s this is ``(t - r(u))^2 + lambda (u - v)^2``: on the graph of r, the point
(r(u), sqrt(lambda) u) that is nearest to (t, sqrt(lambda) v).

**Straight pieces.** On a piece ``r(u) = a u + c`` the minimizer is in closed form: one candidate per piece, the
cheapest wins. With e the residual at the prediction and w the minimizer on the whole line::

    e = t - c - a v;   w = v + a e / (lambda + a^2);   u = w clipped to the piece
    cost = lambda e^2 / (lambda + a^2) + (lambda + a^2) (u - w)^2

For ReLU these are the paper's two candidates, ``min(0, y')`` and ``max(0, (lambda y' + t) / (lambda + 1))``.

**Curved functions** (not in the paper). Several local minima compete. A grid over the plane of (t, v) knows
the nearest point of the graph for its corners; those of the cell into which an element falls bracket its
minimizer. Where the cost is safely convex in the bracket, Newton's method finishes from the middle::

    half slope  g = lambda (u - v) - (t - r) r';   half curvature  q = lambda + r'^2 - (t - r) r''
    u <- u - g / q   saves about  g^2 / q

Elsewhere (two basins in one cell, flat spots, kinks) a guarded descent starts at both ends, at v and on
either side of every kink, and the cheapest end wins.

Use `onnx_lowrank.solve.refine` instead to lower the true objective by its gradient: it needs no auxiliary z, but a
start that is good already.

==============  ======================  ========================================  =======
code            paper                   meaning                                   shape
==============  ======================  ========================================  =======
targets         r(y_i)                  original responses after the activation   (n, d)
predictions     y'_i = M y_i + b        what the factorized layer delivers        (n, d)
offset          (none: s)               residual added before the activation      (n, d)
penalty         lambda                  weight of staying near the predictions    number
returned array  z_i                     auxiliary responses                       (n, d)
v, u            (none)                  predictions and result with s added       (n, d)
==============  ======================  ========================================  =======

References:
    Zhang et al. 2015, arXiv:1505.06798, the nonlinear case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import Activation, PiecewiseLinear, Scaled, Smooth
from onnx_lowrank.linalg.arrays import Array, blocks, like, namespace, on_cpu, select

BLOCK_ELEMENTS = 32_768  # that a CPU works on at a time, so that temporaries stay in the cache
DEVICE_BLOCK_ELEMENTS = 4_194_304  # any other device: enough that starting its kernels costs little
TARGET_CELLS, PREDICTION_CELLS, GRAPH_NODES = 256, 512, 1_024  # of the grid, and points tried on the graph
MIN_CURVATURE_SHARE = 0.1  # of the Gauss-Newton curvature, lambda + r'^2: with less the cost is not safely convex
MAX_NEWTON_STEPS, MAX_DESCENT_STEPS = 6, 60
MIN_CONVERGED_SHARE = 0.995  # of a block, before the rest is left to the descents
MIN_SAVING, MIN_SAVING_RESOLUTIONS = 1e-7, 1e-4  # of a step, relative to the cost and to the float's resolution


def activation_step(
    activation: Activation, targets: Array, predictions: Array, penalty: float, *, offset: Array | None = None
) -> Array:
    """Minimize ``(targets - r(z + offset))^2 + penalty * (z - predictions)^2`` over z, element by element.

    Args:
        activation: r.
        targets: responses of the original network after the activation, shape (n, d), finite.
        predictions: responses of the factorized layer before the activation, shape (n, d), finite, float32 or
            float64.
        penalty: weight of the second term, above 0.
        offset: residual branch added before the activation, shape (n, d), finite.

    Returns:
        The global minimizer z, shape (n, d), in the dtype of ``predictions``.

    Raises:
        ValueError: shapes that differ, or a penalty that is not above 0.
    """
    shapes = [array.shape for array in (targets, predictions, offset) if array is not None]
    if len(set(shapes)) > 1 or predictions.ndim != 2:
        raise ValueError(f"targets, predictions and offset must have one shape (n, d), got {shapes}")
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")
    xp = namespace(predictions)
    targets = xp.asarray(targets, dtype=predictions.dtype)
    if offset is not None:
        offset = xp.asarray(offset, dtype=predictions.dtype)
    v = predictions if offset is None else predictions + offset
    u = _step(activation, targets, v, penalty)
    if offset is not None:
        u -= offset
    return u


def _step(activation: Activation, targets: Array, v: Array, penalty: float) -> Array:
    """Minimize ``(targets - r(u))^2 + penalty * (u - v)^2`` over u, element by element."""
    if isinstance(activation, Scaled):  # both terms are squares: they are smallest at the same place in any unit
        scale = like(activation.scale, v)
        return scale * _step(activation.base, targets / scale, v / scale, penalty)
    if isinstance(activation, PiecewiseLinear):
        u, pieces = namespace(v).empty_like(v), _pieces(activation, v)
        for rows in blocks(len(v), max(1, _block(v) // max(1, v.shape[1]))):
            u[rows] = _cheapest(_on_pieces(pieces, targets[rows], v[rows], penalty))
        return u
    return _nearest_on_curve(activation, targets.reshape(-1), v.reshape(-1), float(penalty)).reshape(v.shape)


def _block(array: Array) -> int:
    """Return the number of elements to work on at a time."""
    return BLOCK_ELEMENTS if on_cpu(array) else DEVICE_BLOCK_ELEMENTS


def _cheapest(candidates: Iterator[tuple[Array, Array]]) -> Array:
    """Return the cheapest of candidates and their costs, element by element; the first of those that cost the same.

    A candidate that overflows may be infinite and cost NaN; it loses against any that has a cost.
    """
    best, best_cost = next(candidates)
    xp = namespace(best)
    for u, cost in candidates:
        cheaper = (cost < best_cost) | xp.isnan(best_cost)
        best, best_cost = select(cheaper, u, best), select(cheaper, cost, best_cost)
    return best


def _pieces(activation: PiecewiseLinear, v: Array) -> list[tuple[Array, Array, tuple[float, float]]]:
    """Return slope, intercept and ends of every straight piece."""
    slopes = [like(slope, v) for slope in activation.slopes]
    intercepts = [like(intercept, v) for intercept in activation.intercepts]
    return list(zip(slopes, intercepts, pairwise((-inf, *activation.knots, inf)), strict=True))


def _on_pieces(
    pieces: Sequence[tuple[Array, Array, tuple[float, float]]], targets: Array, v: Array, penalty: float
) -> Iterator[tuple[Array, Array]]:
    """Yield the minimizer on each straight piece, with its cost."""
    for a, intercept, (low, high) in pieces:
        curvature = penalty + a * a
        residual = targets - intercept - a * v
        free = v + (a / curvature) * residual
        u = free.clip(low, high)
        yield u, (penalty / curvature) * residual**2 + curvature * (u - free) ** 2


def _nearest_on_curve(activation: Smooth, targets: Array, v: Array, penalty: float) -> Array:
    """Minimize by Newton's method, and by guarded descents where it does not converge; flat arrays in and out."""
    xp = namespace(v)
    grid = _grid(activation, penalty, xp, v.device)
    u, left_over = xp.empty_like(v), [xp.empty(0, dtype=xp.int64, device=v.device)]
    for block in blocks(len(v), _block(v)):
        u[block], converged = _newton(activation, targets[block], v[block], penalty, grid)
        left_over.append(xp.nonzero(~converged)[0] + block.start)
    hard = xp.concat(left_over)
    # A descent stays within its smooth piece, and the minimizer may lie just across a kink.
    kinks = like(activation.kinks, v)
    sides_of_kinks = [*kinks, *xp.nextafter(kinks, like(inf, v))]
    for block in blocks(len(hard), _block(v)):
        elements = hard[block]
        t, w = targets[elements], v[elements]
        cells = grid.cells(t, w)
        starts = (grid.low[cells], grid.high[cells], w, *(xp.full_like(w, float(side)) for side in sides_of_kinks))
        u[elements] = _cheapest(_descend(activation, t, w, penalty, start) for start in starts)
    return u


def _newton(activation: Smooth, targets: Array, v: Array, penalty: float, grid: _Grid) -> tuple[Array, Array]:
    """Take a few plain Newton steps; return where they lead, and for which elements that is the minimizer."""
    xp = namespace(v)
    cells = grid.cells(targets, v)
    low, high, mild = grid.low[cells], grid.high[cells], grid.mild[cells]
    u, step = xp.asarray(0.5 * (low + high), dtype=v.dtype), 0.0
    for _ in range(MAX_NEWTON_STEPS):
        u = u - step
        slope, curvature, cost = _expand(activation, targets, v, penalty, u)
        step = slope / curvature
        converged = _saves_nothing(slope * step, cost) & (u >= low) & (u <= high)
        if int(xp.count_nonzero(converged | ~mild)) / len(v) > MIN_CONVERGED_SHARE:
            break
    return u, converged & mild


def _descend(activation: Smooth, targets: Array, v: Array, penalty: float, start: Array) -> tuple[Array, Array]:
    """Take Newton steps within one smooth piece, halved where they would raise the cost; return ends and costs."""
    xp = namespace(v)
    edges, start = like((-inf, *activation.kinks, inf), v), xp.asarray(start, dtype=v.dtype)
    piece = xp.searchsorted(edges[1:-1], start)
    # A hair inside: at a kink itself the derivatives are those of one side only.
    low, high = xp.nextafter(edges[piece], edges[-1]), xp.nextafter(edges[piece + 1], edges[0])
    u = start.clip(low, high)
    slope, curvature, cost = _expand(activation, targets, v, penalty, u)
    step = u - (u - slope / curvature).clip(low, high)
    for _ in range(MAX_DESCENT_STEPS):
        moving = xp.nonzero(~_saves_nothing(curvature * step * step, cost))[0]
        if len(moving) == 0:
            break
        trial = u[moving] - step[moving]
        slope, trial_curvature, trial_cost = _expand(activation, targets[moving], v[moving], penalty, trial)
        newton = trial - (trial - slope / trial_curvature).clip(low[moving], high[moving])
        better = trial_cost <= cost[moving]
        step[moving] = xp.where(better, newton, 0.5 * step[moving])
        won = moving[better]
        u[won], cost[won], curvature[won] = trial[better], trial_cost[better], trial_curvature[better]
    return u, cost


def _expand(activation: Smooth, targets: Array, v: Array, penalty: float, u: Array) -> tuple[Array, Array, Array]:
    """Return half slope, half curvature (kept above 0, so that steps lead downhill) and cost at u."""
    value, first, second = activation.expansion(u)
    residual, move = targets - value, u - v
    gauss_newton = penalty + first * first
    curvature = namespace(u).maximum(gauss_newton - residual * second, MIN_CURVATURE_SHARE * gauss_newton)
    return penalty * move - residual * first, curvature, residual * residual + penalty * (move * move)


def _saves_nothing(saving: Array, cost: Array) -> Array:
    """Tell which steps are not worth taking any more."""
    return saving <= MIN_SAVING * cost + MIN_SAVING_RESOLUTIONS * namespace(cost).finfo(cost.dtype).eps


@dataclass(frozen=True, eq=False)
class _Grid:
    """Brackets of the minimizer over the plane of targets and predictions; one entry per cell, row by row.

    Attributes:
        low: left end of the bracket, float32.
        high: right end, float32.
        mild: whether the cost is smooth and safely convex in the bracket, for every element of the cell.
    """

    low: Array
    high: Array
    mild: Array

    def cells(self, targets: Array, v: Array) -> Array:
        """Return the cell of each element."""
        xp = namespace(v)
        rows, columns = (
            xp.asarray((x / (1 + 1.001 * xp.abs(x)) + 1) * (cells / 2), dtype=xp.int64)
            for x, cells in ((targets, TARGET_CELLS), (v, PREDICTION_CELLS))
        )
        return rows * PREDICTION_CELLS + columns


def _lines(cells: int) -> NDArray[np.float64]:
    """Return grid lines on the axis, dense around 0; the outermost, near 1000, stand for all beyond."""
    squashed = np.linspace(-1, 1, cells + 1).clip(-0.998, 0.998)
    return np.asarray(squashed / (1 - 1.001 * np.abs(squashed)))


@lru_cache(maxsize=8)
def _grid(activation: Smooth, penalty: float, xp: Any, device: Any) -> _Grid:
    """Try all nodes of the graph at every corner, then bracket every cell; takes a fifth of a second, once.

    Args:
        activation: r.
        penalty: lambda.
        xp: namespace of the arrays that it is made for.
        device: their device.
    """
    nodes = _lines(GRAPH_NODES)
    values, first, second = activation.expansion(nodes)
    targets = _lines(TARGET_CELLS)
    pull = np.outer(_lines(PREDICTION_CELLS), -2 * penalty * nodes)
    own = values * values + penalty * nodes * nodes
    nearest = np.array([np.argmin(pull + (own - 2 * target * values), axis=1) for target in targets])
    corners = np.stack([nearest[:-1, :-1], nearest[:-1, 1:], nearest[1:, :-1], nearest[1:, 1:]])
    low = np.maximum(corners.min(axis=0) - 1, 0)
    high = np.minimum(corners.max(axis=0) + 1, nodes.size - 1)
    gauss_newton = penalty + first * first
    bent = gauss_newton - (targets[:, np.newaxis] - values) * second < MIN_CURVATURE_SHARE * gauss_newton
    bent_before = np.cumsum(np.pad(bent[:-1] | bent[1:], ((0, 0), (1, 0))), axis=1)
    convex = np.take_along_axis(bent_before, high + 1, axis=1) == np.take_along_axis(bent_before, low, axis=1)
    pieces = np.searchsorted(activation.kinks, nodes)
    mild = convex & (pieces[low] == pieces[high])
    brackets = nodes[low].astype(np.float32), nodes[high].astype(np.float32), mild
    return _Grid(*(xp.asarray(entries.ravel(), device=device) for entries in brackets))
