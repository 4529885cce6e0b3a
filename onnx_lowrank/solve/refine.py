"""All factors of a chain together, on the error after the activation: L-BFGS from the closed form.

    min_{T, Q, P, b}  sum_i || r(y_i + s_i) - r(P Q [T g_i1; ...; T g_ikw] + b + s_i) ||^2

The closed form fits Q and P to vertical filters that were chosen without looking at the responses. Here the filters
move too: the features g are those of a larger basis of vertical filters, and T says which mixtures of them are taken,
at first the leading ones. Without held-out rows it would overfit: the caller takes as many iterations as those allow.

| code     | meaning                                                    | shape         |
|----------|------------------------------------------------------------|---------------|
| features | g, vertical features of every kernel column                | (n, kw, k)    |
| T        | mixtures of vertical features                              | (d'', k)      |
| Q        | horizontal filters, kernel column by kernel column         | (d', kw d'')  |
| P        | the last 1 x 1; None where d' is d and Q goes to responses | (d, d')       |
| offset   | b                                                          | (d,)          |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from onnx_lowrank.array_api import Array, like, namespace, on_host, squares
from onnx_lowrank.solve.moments import Float64, row_blocks
from onnx_lowrank.solve.nonlinear import Rows

_MEMORY = 12  # pairs of steps and gradients that L-BFGS remembers
_PATIENCE = 3  # looks at the held-out rows without a gain before it is over
_LOOK = 2  # iterations from one look to the next
_ENOUGH = 1e-4  # relative gain that counts


@dataclass(frozen=True, eq=False)
class Chain:
    """A kh x 1, a 1 x kw and perhaps a 1 x 1 convolution, on vertical features; see the table above."""

    T: Float64
    Q: Float64
    P: Float64 | None
    offset: Float64

    def vector(self) -> Float64:
        """All numbers in a row."""
        return np.concatenate([part.ravel() for part in self._parts()])

    def like(self, vector: Float64) -> Chain:
        """A chain of the same shapes with the numbers of ``vector``."""
        parts, first = [], 0
        for part in self._parts():
            parts.append(vector[first : first + part.size].reshape(part.shape))
            first += part.size
        return Chain(parts[0], parts[1], None if self.P is None else parts[2], parts[-1])

    def map(self, change: Callable[[Float64], Array]) -> Chain:
        """The chain with every array changed."""
        P = None if self.P is None else change(self.P)
        return Chain(change(self.T), change(self.Q), P, change(self.offset))

    def _parts(self) -> list[Float64]:
        return [self.T, self.Q, *([] if self.P is None else [self.P]), self.offset]


def balanced(chain: Chain, features: Array) -> Chain:
    """The same chain with what goes into P scaled to size 1: L-BFGS starts as if all numbers were alike."""
    if chain.P is None:
        return chain
    xp = namespace(features)
    vertical = xp.asarray(_vertical(chain, features[:4096]), dtype=xp.float64)
    inner = vertical @ like(chain.Q, vertical).T
    size = np.sqrt(on_host(xp.mean(inner**2, axis=0)))
    size[size == 0] = 1.0
    return Chain(chain.T, chain.Q / size[:, None], chain.P * size, chain.offset)


def chain_error(chain: Chain, features: Array, rows: Rows) -> float:
    """Relative error after the activation."""
    lost, _ = _loss(chain, features, rows, gradient=False)
    size = float(squares(rows.targets))
    return float(np.sqrt(lost / size)) if size else (0.0 if lost == 0 else float("inf"))


def refine(
    chain: Chain, features: Array, rows: Rows, iterations: int, judge: tuple[Array, Rows] | None = None
) -> tuple[Chain, int]:
    """Lower the error after the activation by moving all factors.

    Args:
        chain: where to start.
        features: shape (n, kw, k).
        rows: the targets that belong to them.
        iterations: at most, of L-BFGS.
        judge: features and rows to choose the iterate by, and to stop by; the last iterate if not given.

    Returns:
        The chain and the iterations that led to it; ``chain`` and 0 where nothing is gained.

    References:
        Liu, Nocedal 1989 (L-BFGS).
    """
    size = float(squares(rows.targets))
    if iterations == 0 or size == 0:
        return chain, 0
    start = balanced(chain, features)
    best, best_error, done, idle = chain, chain_error(chain, *judge) if judge else np.inf, 0, 0
    taken = 0

    def objective(vector: Any) -> tuple[float, Float64]:
        lost, gradient = _loss(start.like(vector), features, rows)
        return lost / size, gradient / size

    def look(intermediate_result: OptimizeResult) -> None:
        nonlocal best, best_error, done, idle, taken
        taken += 1
        if judge is None or (taken % _LOOK and taken < iterations):
            return
        now = start.like(intermediate_result.x.copy())
        error = chain_error(now, *judge)
        idle = 0 if error < best_error * (1 - _ENOUGH) else idle + 1
        if error < best_error:
            best, best_error, done = now, error, taken
        if idle >= _PATIENCE:
            raise StopIteration

    options: Any = {"maxiter": iterations, "maxcor": _MEMORY, "ftol": 0.0, "gtol": 0.0}
    found = minimize(objective, start.vector(), jac=True, method="L-BFGS-B", callback=look, options=options)
    return (best, done) if judge else (start.like(found.x), taken)


def _vertical(chain: Chain, features: Array) -> Array:
    """T g for every column, side by side: shape (n, kw d'')."""
    count, columns, size = features.shape
    mixed = features.reshape(-1, size) @ like(chain.T, features).T
    return mixed.reshape(count, columns * len(chain.T))


def _loss(chain: Chain, features: Array, rows: Rows, *, gradient: bool = True) -> tuple[float, Float64]:
    """Squared error after the activation, and its gradient as a vector like the chain's."""
    xp = namespace(features)
    here = chain.map(lambda part: like(part, features))
    total, lost = here.map(lambda part: xp.zeros_like(part, dtype=xp.float64)), 0.0
    for part in row_blocks(features):
        block, looked_at = rows.part(part), features[part]
        vertical = _vertical(here, looked_at)
        horizontal = vertical @ here.Q.T
        response = (horizontal if here.P is None else horizontal @ here.P.T) + here.offset
        if block.offset is not None:
            response += block.offset
        if not gradient:
            lost += float(squares(block.activation(response) - block.targets))
            continue
        value, slope = block.activation.with_slope(response)
        difference = value - block.targets
        lost += float(squares(difference))
        back = (2 * difference) * slope
        total.offset[:] += xp.sum(back, axis=0)
        if here.P is not None and total.P is not None:
            total.P[:] += back.T @ horizontal
            back = back @ here.P
        total.Q[:] += back.T @ vertical
        back = (back @ here.Q).reshape(-1, len(here.T))
        total.T[:] += back.T @ looked_at.reshape(-1, looked_at.shape[2])
    return lost, total.map(on_host).vector()
