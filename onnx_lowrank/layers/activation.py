"""The activation between a layer's response and the next layer, as ONNX defines it.

There are two kinds, because the solver treats them differently: functions made of straight pieces, whose step has one
closed-form candidate per piece, and smooth ones, which provide their derivatives for Newton's method.

To add an activation:

1. Write a factory below. Straight pieces are a `PiecewiseLinear`; for a curved function add its value and expansion to
   smooth.py and return a `Smooth`.
2. Recognize it in graph/activations.py: one ONNX operator in ``_single_operator``, several in ``_pattern``.
3. Compare it with onnxruntime in tests/graph/test_activations.py and tests/layers/test_activation.py, its slope with
   differences in tests/layers/test_activation_slopes.py.

The solver goes by the kind and needs no change; fine-tuning runs the network's own operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_lowrank.layers import smooth
from onnx_lowrank.linalg.arrays import Array, like, namespace

Coefficient: TypeAlias = float | NDArray[Any]


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """A continuous function of k straight pieces: ``slopes[j] * x + intercepts[j]`` between two knots.

    Attributes:
        name: short lowercase name for reports.
        knots: where one piece ends and the next begins, ascending, k - 1 numbers.
        slopes: one per piece, each a number, or an array of one per channel, shape (d,).
        intercepts: one per piece, each a number, or an array of one per channel, shape (d,).

    Raises:
        ValueError: the numbers of knots, slopes and intercepts do not fit together, or the knots are not ascending.
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
        """Return the value at ``x``, shape (n, d), in the dtype of ``x``."""
        bounds = self.bounds
        if bounds is not None:
            return x.clip(*bounds)
        xp = namespace(x)
        value = self._piece(0, x)
        for index, knot in enumerate(self.knots, start=1):
            value = xp.where(x > knot, self._piece(index, x), value)
        return value

    def with_slope(self, x: Array) -> tuple[Array, Array]:
        """Return value and derivative at ``x``, shape (n, d); at a knot the derivative of the piece before it."""
        xp, bounds = namespace(x), self.bounds
        if bounds is not None:
            return x.clip(*bounds), xp.asarray((x > bounds[0]) & (x <= bounds[1]), dtype=x.dtype)
        slope = xp.broadcast_to(like(self.slopes[0], x), x.shape)
        for index, knot in enumerate(self.knots, start=1):
            slope = xp.where(x > knot, like(self.slopes[index], x), slope)
        return self(x), slope

    def part(self, channels: slice) -> PiecewiseLinear:
        """Return the function of some of the channels."""

        def select(coefficient: Coefficient) -> Coefficient:
            return np.asarray(coefficient)[channels] if np.ndim(coefficient) else coefficient

        return replace(
            self,
            slopes=tuple(map(select, self.slopes)),
            intercepts=tuple(map(select, self.intercepts)),
        )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Bounds that values are clipped to, if the function does no more: clipping takes a tenth of the time."""
        ends = (-inf, *self.knots, inf)
        middle = [index for index, slope in enumerate(self.slopes) if np.ndim(slope) == 0 and slope == 1]
        flat = [slope for slope in self.slopes if np.ndim(slope) == 0 and slope == 0]
        if len(middle) != 1 or len(flat) != len(self.slopes) - 1 or np.any(self.intercepts[middle[0]]):
            return None
        return ends[middle[0]], ends[middle[0] + 1]

    def _piece(self, index: int, x: Array) -> Array:
        return like(self.slopes[index], x) * x + like(self.intercepts[index], x)


@dataclass(frozen=True)
class Smooth:
    """A curved function with two derivatives, the same for every channel.

    It must be close to a straight line far from zero, and curved on the scale of 1: the solver looks for nearest points
    on its graph with a grid of that resolution.

    Attributes:
        name: short lowercase name for reports.
        value: the function itself, elementwise.
        expansion: value, first and second derivative at once, elementwise.
        kinks: where the first derivative jumps, ascending; the derivatives hold strictly between them.
    """

    name: str
    value: Callable[[Array], Array]
    expansion: Callable[[Array], tuple[Array, Array, Array]]
    kinks: tuple[float, ...] = ()

    def __call__(self, x: Array) -> Array:
        """Return the value at ``x``, any shape, in the dtype of ``x``."""
        return namespace(x).asarray(self.value(x), dtype=x.dtype)

    def with_slope(self, x: Array) -> tuple[Array, Array]:
        """Return value and derivative at ``x``, any shape."""
        value, slope, _ = self.expansion(x)
        return value, slope

    def part(self, channels: slice) -> Smooth:  # noqa: ARG002  (as `PiecewiseLinear.part`)
        """Return the function of some of the channels: the same one."""
        return self


@dataclass(frozen=True, eq=False)
class Scaled:
    """``s r(x / s)``: a function whose argument and value are counted in another unit in every channel; see `scaled`.

    Attributes:
        base: r.
        scale: s, above 0, shape (d,).
    """

    base: PiecewiseLinear | Smooth
    scale: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Name of r."""
        return self.base.name

    def __call__(self, x: Array) -> Array:
        """Return the value at ``x``, shape (n, d), in the dtype of ``x``."""
        if self._bounds is not None:
            return x.clip(*(like(bound, x) for bound in self._bounds))
        scale = like(self.scale, x)
        return scale * self.base(x / scale)

    def with_slope(self, x: Array) -> tuple[Array, Array]:
        """Return value and derivative at ``x``, shape (n, d)."""
        if self._bounds is not None:
            low, high = (like(bound, x) for bound in self._bounds)
            return x.clip(low, high), namespace(x).asarray((x > low) & (x <= high), dtype=x.dtype)
        scale = like(self.scale, x)
        value, slope = self.base.with_slope(x / scale)
        return scale * value, slope

    def part(self, channels: slice) -> Scaled:
        """Return the function of some of the channels."""
        return Scaled(self.base.part(channels), self.scale[channels])

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Bounds that values are clipped to, each of shape (d,), if r does no more: divisions take most of the time."""
        bounds = self.base.bounds if isinstance(self.base, PiecewiseLinear) else None
        return None if bounds is None else (bounds[0] * self.scale, bounds[1] * self.scale)


Activation: TypeAlias = PiecewiseLinear | Smooth | Scaled


def scaled(activation: Activation, scale: NDArray[np.float64]) -> Activation:
    """Return ``s r(x / s)``: the activation itself where its pieces meet at zero, as those of ReLU do.

    Args:
        activation: r.
        scale: s, above 0, shape (d,).
    """
    if isinstance(activation, Scaled):
        return Scaled(activation.base, activation.scale * scale)
    if not isinstance(activation, PiecewiseLinear) or any(activation.knots) or any(map(np.any, activation.intercepts)):
        return Scaled(activation, scale)
    return activation


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
    """``min(max(x, low), high)``; infinite bounds do nothing, and with ``low > high`` every value becomes ``high``."""
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
    """``alpha * x + beta``, clipped to 0 and 1."""
    if alpha == 0.0:
        return PiecewiseLinear("hard_sigmoid", (), (0.0,), (min(max(beta, 0.0), 1.0),))
    ends = (0.0, 1.0) if alpha > 0 else (1.0, 0.0)
    knots = ((ends[0] - beta) / alpha, (ends[1] - beta) / alpha)
    return PiecewiseLinear("hard_sigmoid", knots, (0.0, alpha, 0.0), (ends[0], beta, ends[1]))


def sigmoid() -> Smooth:
    """``1 / (1 + exp(-x))``."""
    return Smooth("sigmoid", smooth.sigmoid, smooth.expand_sigmoid)


def tanh() -> Smooth:
    """Hyperbolic tangent."""
    return Smooth("tanh", smooth.tanh, smooth.expand_tanh)


def hard_swish() -> Smooth:
    """``x * min(max(x / 6 + 1/2, 0), 1)``."""
    return Smooth("hard_swish", smooth.hard_swish, smooth.expand_hard_swish, kinks=(-3.0, 3.0))


def silu() -> Smooth:
    """``x * sigmoid(x)``, also known as Swish."""
    return Smooth("silu", smooth.silu, smooth.expand_silu)


def gelu() -> Smooth:
    """``x * Phi(x)``, Phi the normal distribution function (ONNX Gelu, ``approximate="none"``)."""
    return Smooth("gelu", smooth.gelu, smooth.expand_gelu)


def gelu_tanh() -> Smooth:
    """GELU with a hyperbolic tangent in place of Phi (ONNX Gelu, ``approximate="tanh"``)."""
    return Smooth("gelu_tanh", smooth.gelu_tanh, smooth.expand_gelu_tanh)


def softplus() -> Smooth:
    """``log(1 + exp(x))``."""
    return Smooth("softplus", smooth.softplus, smooth.expand_softplus)
