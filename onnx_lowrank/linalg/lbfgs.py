"""L-BFGS for a smooth function of very many numbers whose every value costs a pass over all rows.

SciPy's keeps to bounds, works in float64 and searches a line until the slope along it has changed enough: work beside
the passes, and more of them. This one takes the first step that lowers the value enough.

==============  ==========================================================  ========
code            meaning                                                     shape
==============  ==========================================================  ========
x, gradient     where it is, and the gradient there                         (p,)
pairs           the last steps and what they changed of the gradient        2 x (p,)
curvature       about what the second derivative along any axis is          scalar
==============  ==========================================================  ========

References:
    Liu, Nocedal 1989 (L-BFGS); Nocedal, Wright 2006, algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from onnx_lowrank.linalg.arrays import Array, namespace

_MEMORY = 12  # pairs that are remembered
_SHARE = 1e-4  # of what the slope promises, that a step has to bring (Armijo)
_SHORTER = (0.1, 0.5)  # least and most of a step that is left where it did not
_TRIES = 10  # lengths of one step
_NOTHING = 1e-30  # products of what has changed that are smaller have lost their digits in float32


def minimize(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    iterations: int,
    *,
    curvature: float = 1.0,
    enough: float = 0.0,
) -> Array:
    """Where L-BFGS gets to.

    Args:
        objective: value and gradient at a vector; the gradient in the vector's type.
        start: the first vector, shape (p,).
        iterations: at most.
        curvature: of the first step; later ones know it from those before.
        enough: it is over when an iteration lowers the value by less than this share.

    Returns:
        The last vector, whose value is the lowest seen.
    """
    x, (value, gradient) = start, objective(start)
    pairs: deque[tuple[Array, Array, float]] = deque(maxlen=_MEMORY)
    for _ in range(iterations):
        step = -_divided_by_hessian(gradient, pairs, curvature)
        slope = float(step @ gradient)
        length, tries = 1.0, 0
        while True:
            trial = x + length * step
            trial_value, trial_gradient = objective(trial)
            if trial_value <= value + _SHARE * length * slope:
                break
            tries += 1
            if tries == _TRIES:
                return x
            # The lowest point of the parabola through what is known.
            lowest = -0.5 * slope * length**2 / (trial_value - value - slope * length)
            length *= min(max(lowest / length, _SHORTER[0]), _SHORTER[1])
        moved, changed = trial - x, trial_gradient - gradient
        along, steepened = float(moved @ changed), float(changed @ changed)
        if min(along, steepened) > _NOTHING:
            curvature = steepened / along
            pairs.append((moved, changed, along))
        gain = value - trial_value
        x, value, gradient = trial, trial_value, trial_gradient
        if gain <= enough * abs(value):
            break
    return x


def _divided_by_hessian(gradient: Array, pairs: deque[tuple[Array, Array, float]], curvature: float) -> Array:
    """The two loops over what is remembered."""
    direction, shares = namespace(gradient).asarray(gradient, copy=True), []
    for moved, changed, along in reversed(pairs):
        share = float(moved @ direction) / along
        direction -= share * changed
        shares.append(share)
    direction /= curvature
    for (moved, changed, along), share in zip(pairs, reversed(shares), strict=True):
        direction += (share - float(changed @ direction) / along) * moved
    return direction
