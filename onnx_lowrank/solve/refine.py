"""All factors of a chain together, on the error after the activation: L-BFGS from the closed form.

    min_{T, Q, P, b}  sum_i || r(y_i + s_i) - r(sum_j M_j g_ij + b + s_i) ||^2 + rho || M - A ||^2,    M_j = P Q_j T

The closed form fits Q and P to vertical filters that were chosen without looking at the responses. Here the filters
move too: the features g are those of a larger basis of vertical filters, and T says which mixtures of them are taken,
at first the leading ones. The pull toward the prior A, the map that is right if the converted prefix delivers what the
original does, keeps it from fitting noise. A few iterations are enough, since they are taken in variables that weigh
about the same (`Whitening`) and start with a step of the right length.

| code     | meaning                                                | shape         |
|----------|--------------------------------------------------------|---------------|
| features | g, vertical features of every kernel column            | (n, kw, k)    |
| map      | M, see `FactorMap`                                         | (d, kw k)     |
| prior    | A                                                      | (d, kw k)     |
| weight   | rho, of all rows                                       | scalar        |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnx_lowrank.linalg.arrays import Array, in_float64, like, namespace, outer, squares, zeros
from onnx_lowrank.linalg.lbfgs import minimize
from onnx_lowrank.linalg.moments import row_blocks
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.linalg.symmetric import with_ridge
from onnx_lowrank.solve.factor_map import FactorMap, Whitening
from onnx_lowrank.solve.nonlinear import Rows

_CURVATURE = 4.0  # that the first step expects, of a mean squared response: too much of it only makes the step short
_MIN_GAIN = 1e-4  # relative, of an iteration; with less it is the last


@dataclass(frozen=True, eq=False)
class Pull:
    """What a map is drawn to, and how strongly.

    Attributes:
        prior: A, shape (d, kw k).
        weight: rho, of one row.
    """

    prior: Array
    weight: float


def chain_error(chain: FactorMap, features: Array, rows: Rows) -> float:
    """Relative error after the activation of a chain on features of shape (n, kw, k); infinite where targets are 0."""
    lost, _, _ = map_loss(chain.map, chain.offset, features, rows, gradient=False)
    return relative_error(lost, float(squares(rows.targets)))


def refine(
    chain: FactorMap, features: Array, rows: Rows, iterations: int, *, pull: Pull, inner: Array | None = None
) -> FactorMap:
    """Lower the error after the activation by moving all factors.

    Args:
        chain: where to start.
        features: shape (n, kw, k).
        rows: the targets that belong to them.
        iterations: at most, of L-BFGS.
        pull: toward the prior.
        inner: centred second moments of what T makes of the features, per row, shape (kw d'', kw d''); worked out if
            not given.

    Returns:
        A chain of the same shapes; ``chain`` itself where there is nothing to lower.

    References:
        Liu, Nocedal 1989 (L-BFGS).
    """
    size = float(squares(rows.targets))
    if iterations == 0 or size == 0:
        return chain
    xp, dtype = namespace(features), features.dtype
    mean = in_float64(xp.mean(features.reshape(len(features), -1), axis=0), features)
    inner = _inner(chain, features, mean) if inner is None else inner
    whitening = Whitening.of(chain, with_ridge(inner, pull.weight), dtype)
    start = replace(chain, offset=chain.offset + chain.map @ mean).astype(dtype)
    centre, prior, weight = like(mean, features), like(pull.prior, features), pull.weight * len(features)

    def objective(vector: Any) -> tuple[float, Any]:
        """The error and its gradient by changes of the variables, the mean response in the place of the offset."""
        now = start + whitening.change(start.like(vector))
        map_ = now.map
        lost, gradient, offset = map_loss(map_, now.offset - map_ @ centre, features, rows)
        gap = map_ - prior
        gradient += (2 * weight) * gap - outer(offset, centre)
        lost += weight * float(squares(gap))
        return lost / size, whitening.gradient(now.pulled_back(gradient, offset)).vector() / size

    curvature = _CURVATURE * len(features) / size
    nothing = xp.zeros_like(start.vector())
    found: Any = minimize(objective, nothing, iterations, curvature=curvature, min_gain=_MIN_GAIN)
    change = whitening.change(start.like(found)).astype(xp.float64)
    refined = replace(chain, offset=chain.offset + chain.map @ mean) + change
    return replace(refined, offset=refined.offset - refined.map @ mean)


def _inner(chain: FactorMap, features: Array, mean: Array) -> Array:
    """Centred second moments of what T makes of the features, per row; ``mean`` is that of the features."""
    _, columns, size = features.shape
    T, total = like(chain.T, features), zeros((columns * len(chain.T),) * 2, features)
    for part in row_blocks(features):
        vertical = (features[part].reshape(-1, size) @ T.T).reshape(-1, columns * len(T))
        total += vertical.T @ vertical
    centre = (mean.reshape(columns, size) @ chain.T.T).reshape(-1)
    return total / len(features) - outer(centre, centre)


def map_loss(
    map_: Any, offset: Any, features: Array, rows: Rows, *, gradient: bool = True
) -> tuple[float, Array, Array]:
    """Squared error after the activation of a map of features, and its gradient.

    Args:
        map_: M, shape (d, kw k).
        offset: b, shape (d,).
        features: shape (n, kw, k).
        rows: the targets that belong to them.
        gradient: without it only the error is worked out, and the gradients are zeros.

    Returns:
        The error, its gradient by the map, (d, kw k), and by the offset, (d,), in the features' type.
    """
    xp = namespace(features)
    weight, bias = like(map_, features).T, like(offset, features)
    by_map, by_offset, lost = xp.zeros_like(weight.T), zeros(offset.shape, features), 0.0
    for part in row_blocks(features):
        block, looked_at = rows.part(part), features[part].reshape(-1, len(weight))
        response = looked_at @ weight
        response += bias
        if block.offset is not None:
            response += block.offset
        if not gradient:
            lost += float(squares(block.activation(response) - block.targets))
            continue
        difference, slope = block.activation.with_slope(response)
        difference -= block.targets
        lost += float(squares(difference))
        difference *= slope
        by_map += difference.T @ looked_at
        by_offset += xp.ones(len(difference), dtype=difference.dtype, device=difference.device) @ difference
    return lost, 2 * by_map, 2 * like(by_offset, features)
