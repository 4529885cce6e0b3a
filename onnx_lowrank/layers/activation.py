"""The function between a layer's response and the next layer, as ONNX defines it.

Two kinds, because the solver treats them in two ways: functions made of straight pieces, whose step has one
closed-form candidate per piece, and curved ones, which bring their derivatives for Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, pi, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_lowrank.linalg.arrays import Array, like, namespace, special

Coefficient: TypeAlias = float | NDArray[Any]


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """A continuous function of straight pieces: ``slopes[j] * x + intercepts[j]`` between two knots.

    Attributes:
        name: short lowercase name for reports.
        knots: where one piece ends and the next begins, ascending, k - 1 numbers.
        slopes: one per piece, k of them, each a number or one per channel, shape (d,).
        intercepts: one per piece, k of them, each a number or one per channel, shape (d,).

    Raises:
        ValueError: the counts do not fit together, or the knots descend.
    """

    name: str
    knots: tuple[float, ...]
    slopes: tuple[Coefficient, ...]
    intercepts: tuple[Coefficient, ...]

    def __post_init__(self) -> None:
        """Check that pieces and knots fit together."""
        pieces = len(self.knots) + 1
        if len(self.slopes) != pieces or len(self.intercepts) != pieces:
            raise ValueError(
                f"{self.name}: {len(self.knots)} knots need {pieces} slopes and {pieces} intercepts, "
                f"got {len(self.slopes)} and {len(self.intercepts)}"
            )
        if list(self.knots) != sorted(self.knots):
            raise ValueError(f"{self.name}: knots must ascend, got {self.knots}")

    def __call__(self, x: Array) -> Array:
        """Value at ``x``, shape (n, d), in the dtype of ``x``."""
        bounds = self._bounds
        if bounds is not None:
            return x.clip(*bounds)
        xp = namespace(x)
        value = self._piece(0, x)
        for index, knot in enumerate(self.knots, start=1):
            value = xp.where(x > knot, self._piece(index, x), value)
        return value

    def with_slope(self, x: Array) -> tuple[Array, Array]:
        """Value and derivative at ``x``, shape (n, d); at a knot the derivative is that of the piece before it."""
        xp, bounds = namespace(x), self._bounds
        if bounds is not None:
            return x.clip(*bounds), xp.asarray((x > bounds[0]) & (x <= bounds[1]), dtype=x.dtype)
        slope = xp.broadcast_to(like(self.slopes[0], x), x.shape)
        for index, knot in enumerate(self.knots, start=1):
            slope = xp.where(x > knot, like(self.slopes[index], x), slope)
        return self(x), slope

    def part(self, channels: slice) -> PiecewiseLinear:
        """The function of some of the channels."""

        def of_part(coefficient: Coefficient) -> Coefficient:
            return np.asarray(coefficient)[channels] if np.ndim(coefficient) else coefficient

        return replace(
            self,
            slopes=tuple(map(of_part, self.slopes)),
            intercepts=tuple(map(of_part, self.intercepts)),
        )

    @property
    def _bounds(self) -> tuple[float, float] | None:
        """Where values are cut off, if that is all the function does: a tenth of the time of choosing among pieces."""
        ends = (-inf, *self.knots, inf)
        middle = [place for place, slope in enumerate(self.slopes) if np.ndim(slope) == 0 and slope == 1]
        flat = [slope for slope in self.slopes if np.ndim(slope) == 0 and slope == 0]
        if len(middle) != 1 or len(flat) != len(self.slopes) - 1 or np.any(self.intercepts[middle[0]]):
            return None
        return ends[middle[0]], ends[middle[0] + 1]

    def _piece(self, index: int, x: Array) -> Array:
        return like(self.slopes[index], x) * x + like(self.intercepts[index], x)


@dataclass(frozen=True)
class Smooth:
    """A curved function with two derivatives, the same for every channel.

    Far from zero it is close to a straight line, and whatever bends it does so on the scale of 1: the solver
    looks for nearest points on its graph with a grid of that resolution.

    Attributes:
        name: short lowercase name for reports.
        value: the function itself, elementwise.
        expansion: value, first and second derivative at once, since they share their exponential.
        kinks: where the first derivative jumps, ascending. The derivatives are right strictly between them.
    """

    name: str
    value: Callable[[Array], Array]
    expansion: Callable[[Array], tuple[Array, Array, Array]]
    kinks: tuple[float, ...] = ()

    def __call__(self, x: Array) -> Array:
        """Value at ``x``, any shape, in the dtype of ``x``."""
        return namespace(x).asarray(self.value(x), dtype=x.dtype)

    def with_slope(self, x: Array) -> tuple[Array, Array]:
        """Value and derivative at ``x``, any shape."""
        value, slope, _ = self.expansion(x)
        return value, slope

    def part(self, channels: slice) -> Smooth:  # noqa: ARG002  (as `PiecewiseLinear.part`)
        """The function of some of the channels: the same."""
        return self


Activation: TypeAlias = PiecewiseLinear | Smooth


def identity() -> PiecewiseLinear:
    """No activation."""
    return PiecewiseLinear("identity", (), (1.0,), (0.0,))


def relu() -> PiecewiseLinear:
    """``max(x, 0)``."""
    return PiecewiseLinear("relu", (0.0,), (0.0, 1.0), (0.0, 0.0))


def leaky_relu(alpha: float = 0.01) -> PiecewiseLinear:
    """``alpha * x`` below zero, ``x`` above; any ``alpha``."""
    return PiecewiseLinear("leaky_relu", (0.0,), (alpha, 1.0), (0.0, 0.0))


def prelu(slopes: ArrayLike) -> PiecewiseLinear:
    """``slopes * x`` below zero, ``x`` above.

    Args:
        slopes: a number, or one per channel, shape (d,).

    Raises:
        ValueError: slopes with more than one axis.
    """
    below = np.asarray(slopes, dtype=np.float64)
    if below.ndim > 1:
        raise ValueError(f"prelu: slopes must be a number or of shape (d,), got shape {below.shape}")
    return PiecewiseLinear("prelu", (0.0,), (below, 1.0), (0.0, 0.0))


def clip(low: float = -inf, high: float = inf) -> PiecewiseLinear:
    """``min(max(x, low), high)``; an infinite bound is none, and with ``low > high`` all becomes ``high``."""
    if low == -inf and high == inf:
        return identity()
    if (low, high) == (0.0, inf):
        return relu()
    knots, slopes, intercepts = [], [1.0], [0.0]
    if low > -inf:
        knots, slopes, intercepts = [min(low, high)], [0.0, *slopes], [min(low, high), *intercepts]
    if high < inf:
        knots, slopes, intercepts = [*knots, high], [*slopes, 0.0], [*intercepts, high]
    name = "relu6" if (low, high) == (0.0, 6.0) else "clip"
    return PiecewiseLinear(name, tuple(knots), tuple(slopes), tuple(intercepts))


def hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> PiecewiseLinear:
    """``alpha * x + beta``, kept within 0 and 1."""
    if alpha == 0.0:
        return PiecewiseLinear("hard_sigmoid", (), (0.0,), (min(max(beta, 0.0), 1.0),))
    ends = (0.0, 1.0) if alpha > 0 else (1.0, 0.0)
    knots = ((ends[0] - beta) / alpha, (ends[1] - beta) / alpha)
    return PiecewiseLinear("hard_sigmoid", knots, (0.0, alpha, 0.0), (ends[0], beta, ends[1]))


def sigmoid() -> Smooth:
    """``1 / (1 + exp(-x))``."""
    return Smooth("sigmoid", _sigmoid, _expand_sigmoid)


def tanh() -> Smooth:
    """Hyperbolic tangent."""
    return Smooth("tanh", _tanh, _expand_tanh)


def hard_swish() -> Smooth:
    """``x * min(max(x / 6 + 1/2, 0), 1)``."""
    return Smooth("hard_swish", _hard_swish, _expand_hard_swish, kinks=(-3.0, 3.0))


def silu() -> Smooth:
    """``x * sigmoid(x)``, also known as Swish."""
    return Smooth("silu", _silu, _expand_silu)


def gelu() -> Smooth:
    """``x * Phi(x)``, Phi the normal distribution function (ONNX Gelu, ``approximate="none"``)."""
    return Smooth("gelu", _gelu, _expand_gelu)


def gelu_tanh() -> Smooth:
    """GELU with a hyperbolic tangent in the place of Phi (ONNX Gelu, ``approximate="tanh"``)."""
    return Smooth("gelu_tanh", _gelu_tanh, _expand_gelu_tanh)


def softplus() -> Smooth:
    """``log(1 + exp(x))``."""
    return Smooth("softplus", _softplus, _expand_softplus)


def _sigmoid(x: Array) -> Array:
    return special(x).expit(x)


def _expand_sigmoid(x: Array) -> tuple[Array, Array, Array]:
    gate = _sigmoid(x)
    first = gate * (1 - gate)
    return gate, first, first * (1 - 2 * gate)


def _tanh(x: Array) -> Array:
    return namespace(x).tanh(x)


def _expand_tanh(x: Array) -> tuple[Array, Array, Array]:
    value = _tanh(x)
    first = 1 - value * value
    return value, first, -2 * value * first


def _hard_swish(x: Array) -> Array:
    return x * (x / 6 + 0.5).clip(0, 1)


def _expand_hard_swish(x: Array) -> tuple[Array, Array, Array]:
    xp = namespace(x)
    gate = (x / 6 + 0.5).clip(0, 1)
    curvature = xp.asarray(xp.abs(x) < 3, dtype=x.dtype) / 3
    return x * gate, gate + x * curvature / 2, curvature


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _expand_silu(x: Array) -> tuple[Array, Array, Array]:
    gate, gate_first, gate_second = _expand_sigmoid(x)
    return _times_x(x, gate, gate_first, gate_second)


def _gelu(x: Array) -> Array:
    return x * special(x).ndtr(x)


def _expand_gelu(x: Array) -> tuple[Array, Array, Array]:
    density = namespace(x).exp(-0.5 * x * x) * (1 / sqrt(2 * pi))
    return _times_x(x, special(x).ndtr(x), density, -x * density)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + _tanh(_gelu_argument(x)))


def _expand_gelu_tanh(x: Array) -> tuple[Array, Array, Array]:
    value, first, second = _expand_tanh(_gelu_argument(x))
    inner_first = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
    inner_second = sqrt(2 / pi) * 6 * 0.044715 * x
    gate_second = 0.5 * (first * inner_second + second * inner_first * inner_first)
    return _times_x(x, 0.5 * (1 + value), 0.5 * first * inner_first, gate_second)


def _gelu_argument(x: Array) -> Array:
    inside = x.clip(-10, 10)  # beyond, tanh is 1 to the last digit, and the cube may overflow
    return sqrt(2 / pi) * inside * (1 + 0.044715 * inside * inside)


def _softplus(x: Array) -> Array:
    xp = namespace(x)
    return x.clip(min=0) + xp.log1p(xp.exp(-xp.abs(x)))


def _expand_softplus(x: Array) -> tuple[Array, Array, Array]:
    gate = _sigmoid(x)
    return _softplus(x), gate, gate * (1 - gate)


def _times_x(x: Array, gate: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Value and derivatives of ``x * gate(x)`` from those of the gate."""
    return x * gate, gate + x * first, 2 * first + x * second
