"""L-BFGS for a smooth function of very many variables, every value of which costs a pass over all rows.

In the notation of Nocedal and Wright, the search direction is ``p = -H grad f``, with H the inverse Hessian that the
last m pairs and a multiple of the identity imply (two-loop recursion, algorithm 7.4)::

    s_k = x_{k+1} - x_k,   y_k = grad f_{k+1} - grad f_k,   rho_k = 1 / (y_k^T s_k),   H_0 = gamma I
    gamma = (s_k^T y_k) / (y_k^T y_k)

and backtracking takes the first step length that satisfies the Armijo condition (algorithm 3.1)::

    f(x + alpha p) <= f(x) + c_1 alpha p^T grad f(x)

Use SciPy's L-BFGS-B for bounds, or where a function value is cheap: it works in float64 and searches a line until the
slope has changed enough too (Wolfe), which takes more passes and more work beside them.

==============  =====================================================  ========
code            meaning                                                shape
==============  =====================================================  ========
x, gradient     current point, and the gradient there                  (n,)
p, alpha        search direction, and step length along it             (n,), ()
s, y            a step, and the change of the gradient over it         (n,)
sy, yy          s^T y, which is 1 / rho, and y^T y                     ()
curvature       1 / gamma, the second derivative along a typical axis  ()
==============  =====================================================  ========

References:
    Liu, Nocedal 1989 (L-BFGS); Nocedal, Wright 2006, Numerical Optimization, 2nd edition, algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from onnx_lowrank import interruption
from onnx_lowrank.linalg.arrays import Array, namespace

_MAX_PAIRS = 12  # m, the pairs (s, y) that are kept
_C1 = 1e-4  # least decrease, as a share of what the slope promises (Armijo)
_MIN_SHRINK, _MAX_SHRINK = 0.1, 0.5  # of a step length that did not decrease the value enough
_MAX_STEP_LENGTHS = 10  # tried along one direction
_MIN_PRODUCT = 1e-30  # of s^T y and y^T y: smaller ones have lost their digits in float32

Pairs: TypeAlias = deque[tuple[Array, Array, float]]  # s, y, s^T y; the latest last


def minimize(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    iterations: int,
    *,
    curvature: float = 1.0,
    min_gain: float = 0.0,
) -> Array:
    """Minimize a smooth function by L-BFGS.

    Args:
        objective: returns value and gradient at a vector; the gradient in the vector's type.
        start: the first vector, shape (n,).
        iterations: at most.
        curvature: second derivative that the first step assumes; later steps estimate it from the pairs.
        min_gain: stop when an iteration lowers the value by less than this share of it.

    Returns:
        The last vector, shape (n,), whose value is the lowest seen.
    """
    x, (value, gradient) = start, objective(start)
    pairs: Pairs = deque(maxlen=_MAX_PAIRS)
    for _ in range(iterations):
        interruption.check()
        p = -_times_inverse_hessian(gradient, pairs, curvature)
        step = _backtrack(objective, x, p, value, float(p @ gradient))
        if step is None:
            return x
        next_x, next_value, next_gradient = step
        s, y = next_x - x, next_gradient - gradient
        sy, yy = float(s @ y), float(y @ y)
        if min(sy, yy) > _MIN_PRODUCT:
            curvature = yy / sy
            pairs.append((s, y, sy))
        gain = value - next_value
        x, value, gradient = step
        if gain <= min_gain * abs(value):
            break
    return x


def _backtrack(
    objective: Callable[[Array], tuple[float, Array]], x: Array, p: Array, value: float, slope: float
) -> tuple[Array, float, Array] | None:
    """Return the first point along p that satisfies the Armijo condition, with value and gradient; None without one."""
    alpha = 1.0
    for _ in range(_MAX_STEP_LENGTHS):
        trial = x + alpha * p
        trial_value, trial_gradient = objective(trial)
        if trial_value <= value + _C1 * alpha * slope:
            return trial, trial_value, trial_gradient
        # The minimum of the parabola through both values and the slope.
        minimum = -0.5 * slope * alpha**2 / (trial_value - value - slope * alpha)
        alpha *= min(max(minimum / alpha, _MIN_SHRINK), _MAX_SHRINK)
    return None


def _times_inverse_hessian(gradient: Array, pairs: Pairs, curvature: float) -> Array:
    """Return ``H grad f`` by the two-loop recursion."""
    q, alphas = namespace(gradient).asarray(gradient, copy=True), []
    for s, y, sy in reversed(pairs):
        alpha = float(s @ q) / sy
        q -= alpha * y
        alphas.append(alpha)
    q /= curvature
    for (s, y, sy), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - float(y @ q) / sy) * s
    return q
