"""Refine all factors of a chain together, on the error after the activation: L-BFGS from the closed form.

    min_{T, Q, P, b}  sum_i || r(y_i + s_i) - r(sum_j M_j g_ij + b + s_i) ||^2 + rho || M - A ||^2,    M_j = P Q_j T

The closed form fits Q and P to vertical filters that were chosen without looking at the responses. Here the filters
move too: the features g are those of a larger basis of vertical filters, and T says which mixtures of them are taken,
at first the leading ones. The pull toward the prior A, the map that is right if the converted prefix delivers what the
original does, keeps it from fitting noise. A few iterations are enough, since they are taken in variables that weigh
about the same (`Whitening`) and start with a step of the right length.

Use `onnx_lowrank.solve.nonlinear` for one map of low rank without a good start: its closed-form steps get further.

| code     | meaning                                                | shape         |
|----------|--------------------------------------------------------|---------------|
| features | g, vertical features of every kernel column            | (n, kw, k)    |
| map      | M, see `FactorMap`                                     | (d, kw k)     |
| prior    | A                                                      | (d, kw k)     |
| weight   | rho, of all rows                                       | scalar        |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.linalg.arrays import Array, in_float64, like, namespace, outer, squares, zeros
from onnx_lowrank.linalg.lbfgs import minimize
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.linalg.row_blocks import over_row_blocks
from onnx_lowrank.linalg.symmetric import with_ridge
from onnx_lowrank.solve.factor_map import FactorMap, Whitening
from onnx_lowrank.solve.nonlinear import Rows

_FIRST_CURVATURE = 4.0  # that the first step assumes, per mean squared response: too much only shortens the step


@dataclass(frozen=True)
class RefinementEffort:
    """How long factors are refined.

    Attributes:
        iterations: at most, of L-BFGS.
        min_gain: relative to the error, squared; an iteration that gains less is the last.
    """

    iterations: int
    min_gain: float = 1e-4


@dataclass(frozen=True, eq=False)
class RidgePenalty:
    """The penalty ``rho ||M - A||_F^2`` on a map.

    Attributes:
        prior: A, shape (d, kw k).
        weight: rho, of one row.
    """

    prior: Array
    weight: float


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined chain.

    Attributes:
        chain: of the same shapes as the one it comes from.
        errors: relative errors after the activation, on the rows it is refined on: ``linear`` where it started, and
            ``solved``.
    """

    chain: FactorMap
    errors: SolveErrors


def chain_error(chain: FactorMap, features: Array, rows: Rows) -> float:
    """Return the relative error after the activation of a chain on features of shape (n, kw, k)."""
    lost, _, _ = map_loss(chain.map, chain.offset, features, rows, gradient=False)
    return relative_error(lost, float(squares(rows.targets)))


def refine(
    chain: FactorMap,
    features: Array,
    rows: Rows,
    effort: RefinementEffort,
    *,
    ridge: RidgePenalty,
    inner: Array | None = None,
) -> Refined:
    """Lower the error after the activation by moving all factors.

    Args:
        chain: where to start.
        features: shape (n, kw, k).
        rows: the targets that belong to them.
        effort: when to stop.
        ridge: penalty that keeps the map near the prior.
        inner: centred second moments of the features that T mixes, per row, shape (kw d'', kw d''); computed if not
            given.

    Returns:
        The chain and its errors; ``chain`` itself where there is no error to lower.

    References:
        Liu, Nocedal 1989 (L-BFGS).
    """
    size = float(squares(rows.targets))
    if effort.iterations == 0 or size == 0:
        error = chain_error(chain, features, rows)
        return Refined(chain, SolveErrors(error, error))
    xp, dtype = namespace(features), features.dtype
    mean = in_float64(xp.mean(features.reshape(len(features), -1), axis=0), features)
    inner = _inner(chain, features, mean) if inner is None else inner
    whitening = Whitening.of(chain, with_ridge(inner, ridge.weight), dtype)
    start = replace(chain, offset=chain.offset + chain.map @ mean).astype(dtype)
    centre, prior, weight = like(mean, features), like(ridge.prior, features), ridge.weight * len(features)
    seen: list[tuple[float, float]] = []  # values, and squared errors without the penalty

    def objective(vector: Any) -> tuple[float, Any]:
        """Return value and gradient by changes of the variables; the mean response takes the place of the offset."""
        current = start + whitening.change(start.like(vector))
        map_ = current.map
        lost, gradient, offset = map_loss(map_, current.offset - map_ @ centre, features, rows)
        gap = map_ - prior
        gradient += (2 * weight) * gap - outer(offset, centre)
        value = (lost + weight * float(squares(gap))) / size
        seen.append((value, lost))
        return value, whitening.gradient(current.pulled_back(gradient, offset)).vector() / size

    curvature = _FIRST_CURVATURE * len(features) / size
    no_change = xp.zeros_like(start.vector())
    variables = minimize(objective, no_change, effort.iterations, curvature=curvature, min_gain=effort.min_gain)
    change = whitening.change(start.like(variables)).astype(xp.float64)
    refined = replace(chain, offset=chain.offset + chain.map @ mean) + change
    errors = SolveErrors(*(relative_error(lost, size) for _, lost in (seen[0], min(seen))))
    return Refined(replace(refined, offset=refined.offset - refined.map @ mean), errors)


def _inner(chain: FactorMap, features: Array, mean: Array) -> Array:
    """Return centred second moments of the features that T mixes, per row; ``mean`` is that of the features."""
    _, columns, size = features.shape
    T = like(chain.T, features)

    def of_block(part: slice) -> Array:
        vertical = (features[part].reshape(-1, size) @ T.T).reshape(-1, columns * len(T))
        return vertical.T @ vertical

    total = sum(over_row_blocks(of_block, features), zeros((columns * len(T),) * 2, features))
    centre = (mean.reshape(columns, size) @ chain.T.T).reshape(-1)
    return total / len(features) - outer(centre, centre)


def map_loss(
    map_: Any, offset: Any, features: Array, rows: Rows, *, gradient: bool = True
) -> tuple[float, Array, Array]:
    """Return the squared error after the activation of a map of features, and its gradient.

    Args:
        map_: M, shape (d, kw k).
        offset: b, shape (d,).
        features: shape (n, kw, k).
        rows: the targets that belong to them.
        gradient: whether to compute the gradients; else they are zeros.

    Returns:
        The error, its gradient by the map, (d, kw k), and by the offset, (d,), in the features' type.
    """
    xp = namespace(features)
    weight, bias = like(map_, features).T, like(offset, features)

    def of_block(part: slice) -> tuple[float, Array | None, Array | None]:
        block, x = rows.part(part), features[part].reshape(-1, len(weight))
        response = x @ weight
        response += bias
        if block.offset is not None:
            response += block.offset
        if not gradient:
            return float(squares(block.activation(response) - block.targets)), None, None
        difference, slope = block.activation.with_slope(response)
        difference -= block.targets
        lost = float(squares(difference))
        difference *= slope
        ones = xp.ones(len(difference), dtype=difference.dtype, device=difference.device)
        return lost, difference.T @ x, ones @ difference

    by_map, by_offset, lost = xp.zeros_like(weight.T), zeros(offset.shape, features), 0.0
    for part_lost, part_by_map, part_by_offset in over_row_blocks(of_block, features):
        lost += part_lost
        if gradient:
            by_map += part_by_map
            by_offset += part_by_offset
    return lost, 2 * by_map, 2 * like(by_offset, features)
