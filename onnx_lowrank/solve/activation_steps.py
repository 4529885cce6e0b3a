"""The z step: pre-activations that stay near the prediction and bring the activation near its target.

Element by element, with s the residual branch (0 where there is none)::

    z  =  argmin_z  (t - r(z + s))^2 + lambda (z - y')^2

In u = z + s and v = y' + s this is ``(t - r(u))^2 + lambda (u - v)^2``: on the graph of r, the point
(r(u), sqrt(lambda) u) that is nearest to (t, sqrt(lambda) v).

**Straight pieces.** On a piece ``r(u) = a u + c`` the minimiser is closed-form: one candidate per piece, the
cheapest wins. With e the residual at the prediction and w the minimiser on the whole line::

    e = t - c - a v;   w = v + a e / (lambda + a^2);   u = w clipped to the piece
    cost = lambda e^2 / (lambda + a^2) + (lambda + a^2) (u - w)^2

For ReLU these are the paper's two candidates, ``min(0, y')`` and ``max(0, (lambda y' + t) / (lambda + 1))``.

**Curved functions** (not in the paper). Several local minima compete. A grid over the plane of (t, v) knows
the nearest point of the graph for its corners; those of the cell into which an element falls bracket its
minimiser. Where the cost is safely convex in the bracket, Newton's method finishes from the middle::

    half slope  g = lambda (u - v) - (t - r) r';   half curvature  q = lambda + r'^2 - (t - r) r''
    u <- u - g / q   saves about  g^2 / q

Elsewhere (two basins in one cell, flat spots, kinks) a guarded descent starts at both ends, at v and on
either side of every kink, and the cheapest end wins.

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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.activation import Activation, PiecewiseLinear, Smooth

Array: TypeAlias = NDArray[Any]

BLOCK = 32_768  # elements worked on at a time, so that temporaries stay in the cache
TARGET_CELLS, PREDICTION_CELLS, NODES = 256, 512, 1_024  # of the grid, and points tried on the graph
CONVEX = 0.1  # least share of the Gauss-Newton curvature, lambda + r'^2, that counts as safely convex
NEWTON_STEPS, DESCENT_STEPS = 6, 60
ENOUGH = 0.995  # share of a block that has to arrive before the rest is left to the descents
RELATIVE, ABSOLUTE = 1e-7, 1e-4  # saving that counts as none: of the cost, and of the float's resolution


def activation_step(
    activation: Activation, targets: Array, predictions: Array, penalty: float, *, offset: Array | None = None
) -> Array:
    """Minimise ``(targets - r(z + offset))^2 + penalty * (z - predictions)^2`` over z, element by element.

    Args:
        activation: r.
        targets: responses of the original network after the activation, shape (n, d), finite.
        predictions: responses of the factorized layer before the activation, shape (n, d), finite, float32 or
            float64.
        penalty: weight of the second term, above 0.
        offset: residual branch added before the activation, shape (n, d), finite.

    Returns:
        The global minimiser z, shape (n, d), in the dtype of ``predictions``.

    Raises:
        ValueError: shapes that differ, or a penalty that is not above 0.
    """
    shapes = [array.shape for array in (targets, predictions, offset) if array is not None]
    if len(set(shapes)) > 1 or predictions.ndim != 2:
        raise ValueError(f"targets, predictions and offset must have one shape (n, d), got {shapes}")
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")
    targets = targets.astype(predictions.dtype, copy=False)
    v = predictions if offset is None else np.add(predictions, offset, dtype=predictions.dtype)
    if isinstance(activation, PiecewiseLinear):
        u = np.empty_like(v)
        for rows in _blocks(len(v), max(1, BLOCK // max(1, v.shape[1]))):
            u[rows] = _nearest_on_pieces(activation, targets[rows], v[rows], penalty)
    else:
        u = _nearest_on_curve(activation, targets.ravel(), v.ravel(), float(penalty)).reshape(v.shape)
    if offset is not None:
        u -= offset.astype(u.dtype, copy=False)
    return u


def _blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _nearest_on_pieces(activation: PiecewiseLinear, targets: Array, v: Array, penalty: float) -> Array:
    candidates = _candidates(activation, targets, v, penalty)
    best, best_cost = next(candidates)
    for u, cost in candidates:
        best = np.where(cost < best_cost, u, best)
        best_cost = np.minimum(cost, best_cost)
    return best


def _candidates(activation: PiecewiseLinear, targets: Array, v: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    """The minimiser on each straight piece, with its cost."""
    ends = pairwise((-inf, *activation.knots, inf))
    for slope, intercept, (low, high) in zip(activation.slopes, activation.intercepts, ends, strict=True):
        a = np.asarray(slope, v.dtype)
        curvature = penalty + a * a
        residual = targets - np.asarray(intercept, v.dtype) - a * v
        free = v + (a / curvature) * residual
        u = np.clip(free, low, high)
        yield u, (penalty / curvature) * residual**2 + curvature * (u - free) ** 2


def _nearest_on_curve(activation: Smooth, targets: Array, v: Array, penalty: float) -> Array:
    """Newton's method for the many, guarded descents for the few it leaves over; flat arrays in and out."""
    grid = _grid(activation, penalty)
    u, left_over = np.empty_like(v), [np.empty(0, np.intp)]
    for block in _blocks(v.size, BLOCK):
        u[block], arrived = _newton(activation, targets[block], v[block], penalty, grid)
        left_over.append(np.flatnonzero(~arrived) + block.start)
    hard = np.concatenate(left_over)
    # A descent stays within its smooth piece, and the minimiser may lie just across a kink.
    kinks = np.array(activation.kinks, v.dtype)
    beside_kinks = [*kinks, *np.nextafter(kinks, v.dtype.type(inf))]
    for block in _blocks(hard.size, BLOCK):
        some = hard[block]
        t, w = targets[some], v[some]
        cells = grid.cells(t, w)
        starts = (grid.low[cells], grid.high[cells], w, *(np.full_like(w, side) for side in beside_kinks))
        ends = [_descend(activation, t, w, penalty, start) for start in starts]
        u[some] = np.choose(np.argmin([cost for _, cost in ends], axis=0), [end for end, _ in ends])
    return u


def _newton(activation: Smooth, targets: Array, v: Array, penalty: float, grid: _Grid) -> tuple[Array, Array]:
    """Where a few plain Newton steps lead, and for which elements that is the minimiser."""
    cells = grid.cells(targets, v)
    low, high, mild = grid.low[cells], grid.high[cells], grid.mild[cells]
    u, step = (0.5 * (low + high)).astype(v.dtype, copy=False), np.zeros((), v.dtype)
    for _ in range(NEWTON_STEPS):
        u = u - step
        slope, curvature, cost = _expand(activation, targets, v, penalty, u)
        step = slope / curvature
        arrived = _settled(slope * step, cost) & (u >= low) & (u <= high)
        if np.mean(arrived | ~mild) > ENOUGH:
            break
    return u, arrived & mild


def _descend(activation: Smooth, targets: Array, v: Array, penalty: float, start: Array) -> tuple[Array, Array]:
    """Newton steps within one smooth piece, halved where they would raise the cost: ends, their costs."""
    edges = np.array([-inf, *activation.kinks, inf], v.dtype)
    piece = np.searchsorted(edges[1:-1], start)
    # A hair inside: at a kink itself the derivatives are those of one side only.
    low, high = np.nextafter(edges[piece], edges[-1]), np.nextafter(edges[piece + 1], edges[0])
    u = np.clip(start.astype(v.dtype, copy=False), low, high)
    slope, curvature, cost = _expand(activation, targets, v, penalty, u)
    step = u - np.clip(u - slope / curvature, low, high)
    for _ in range(DESCENT_STEPS):
        moving = np.flatnonzero(~_settled(curvature * step * step, cost))
        if moving.size == 0:
            break
        trial = u[moving] - step[moving]
        slope, trial_curvature, trial_cost = _expand(activation, targets[moving], v[moving], penalty, trial)
        newton = trial - np.clip(trial - slope / trial_curvature, low[moving], high[moving])
        better = trial_cost <= cost[moving]
        step[moving] = np.where(better, newton, 0.5 * step[moving])
        won = moving[better]
        u[won], cost[won], curvature[won] = trial[better], trial_cost[better], trial_curvature[better]
    return u, cost


def _expand(activation: Smooth, targets: Array, v: Array, penalty: float, u: Array) -> tuple[Array, Array, Array]:
    """Half slope, half curvature (kept above 0, so that steps lead downhill) and cost at u."""
    value, first, second = activation.expansion(u)
    residual, move = targets - value, u - v
    gauss_newton = penalty + first * first
    curvature = np.maximum(gauss_newton - residual * second, CONVEX * gauss_newton)
    return penalty * move - residual * first, curvature, residual * residual + penalty * (move * move)


def _settled(saving: Array, cost: Array) -> Array:
    return np.asarray(saving <= RELATIVE * cost + ABSOLUTE * np.finfo(cost.dtype).eps)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Brackets of the minimiser over the plane of targets and predictions; one entry per cell, row by row.

    Attributes:
        low: left end of the bracket, float32.
        high: right end, float32.
        mild: whether the cost is smooth and safely convex in the bracket, for every element of the cell.
    """

    low: Array
    high: Array
    mild: Array

    def cells(self, targets: Array, v: Array) -> Array:
        """The cell of each element."""
        rows, columns = (
            ((x / (1 + 1.001 * np.abs(x)) + 1) * (cells / 2)).astype(np.intp)
            for x, cells in ((targets, TARGET_CELLS), (v, PREDICTION_CELLS))
        )
        return np.asarray(rows * PREDICTION_CELLS + columns)


def _lines(cells: int) -> Array:
    """Grid lines on the axis, close around 0; the outermost, near 1000, stand for all beyond."""
    squashed = np.linspace(-1, 1, cells + 1).clip(-0.998, 0.998)
    return np.asarray(squashed / (1 - 1.001 * np.abs(squashed)))


@lru_cache(maxsize=8)
def _grid(activation: Smooth, penalty: float) -> _Grid:
    """Try all nodes of the graph at every corner, then bracket every cell. A fifth of a second, once."""
    nodes = _lines(NODES)
    values, first, second = activation.expansion(nodes)
    targets = _lines(TARGET_CELLS)
    pull = np.outer(_lines(PREDICTION_CELLS), -2 * penalty * nodes)
    own = values * values + penalty * nodes * nodes
    nearest = np.array([np.argmin(pull + (own - 2 * target * values), axis=1) for target in targets])
    corners = np.stack([nearest[:-1, :-1], nearest[:-1, 1:], nearest[1:, :-1], nearest[1:, 1:]])
    low = np.maximum(corners.min(axis=0) - 1, 0)
    high = np.minimum(corners.max(axis=0) + 1, nodes.size - 1)
    gauss_newton = penalty + first * first
    bent = gauss_newton - (targets[:, np.newaxis] - values) * second < CONVEX * gauss_newton
    bent_before = np.cumsum(np.pad(bent[:-1] | bent[1:], ((0, 0), (1, 0))), axis=1)
    convex = np.take_along_axis(bent_before, high + 1, axis=1) == np.take_along_axis(bent_before, low, axis=1)
    pieces = np.searchsorted(activation.kinks, nodes)
    mild = convex & (pieces[low] == pieces[high])
    return _Grid(nodes[low].astype(np.float32).ravel(), nodes[high].astype(np.float32).ravel(), mild.ravel())
