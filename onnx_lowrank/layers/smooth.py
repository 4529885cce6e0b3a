"""The curved activations and their first two derivatives, elementwise, on arrays of NumPy or PyTorch.

Each ``expand_`` function computes value and derivatives together, since they share their exponential.
"""

from __future__ import annotations

from math import pi, sqrt

from onnx_lowrank.linalg.arrays import Array, namespace, special


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``."""
    return special(x).expit(x)


def expand_sigmoid(x: Array) -> tuple[Array, Array, Array]:
    """Return `sigmoid` and its first two derivatives."""
    gate = sigmoid(x)
    first = gate * (1 - gate)
    return gate, first, first * (1 - 2 * gate)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return namespace(x).tanh(x)


def expand_tanh(x: Array) -> tuple[Array, Array, Array]:
    """Return `tanh` and its first two derivatives."""
    value = tanh(x)
    first = 1 - value * value
    return value, first, -2 * value * first


def hard_swish(x: Array) -> Array:
    """``x * min(max(x / 6 + 1/2, 0), 1)``."""
    return x * (x / 6 + 0.5).clip(0, 1)


def expand_hard_swish(x: Array) -> tuple[Array, Array, Array]:
    """Return `hard_swish` and its first two derivatives."""
    xp = namespace(x)
    gate = (x / 6 + 0.5).clip(0, 1)
    curvature = xp.asarray(xp.abs(x) < 3, dtype=x.dtype) / 3
    return x * gate, gate + x * curvature / 2, curvature


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def expand_silu(x: Array) -> tuple[Array, Array, Array]:
    """Return `silu` and its first two derivatives."""
    gate, gate_first, gate_second = expand_sigmoid(x)
    return _times_x(x, gate, gate_first, gate_second)


def gelu(x: Array) -> Array:
    """``x * Phi(x)``, Phi the normal distribution function."""
    return x * special(x).ndtr(x)


def expand_gelu(x: Array) -> tuple[Array, Array, Array]:
    """Return `gelu` and its first two derivatives."""
    density = namespace(x).exp(-0.5 * x * x) * (1 / sqrt(2 * pi))
    return _times_x(x, special(x).ndtr(x), density, -x * density)


def gelu_tanh(x: Array) -> Array:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``."""
    return 0.5 * x * (1 + tanh(_gelu_argument(x)))


def expand_gelu_tanh(x: Array) -> tuple[Array, Array, Array]:
    """Return `gelu_tanh` and its first two derivatives."""
    value, first, second = expand_tanh(_gelu_argument(x))
    inner_first = sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
    inner_second = sqrt(2 / pi) * 6 * 0.044715 * x
    gate_second = 0.5 * (first * inner_second + second * inner_first * inner_first)
    return _times_x(x, 0.5 * (1 + value), 0.5 * first * inner_first, gate_second)


def _gelu_argument(x: Array) -> Array:
    inside = x.clip(-10, 10)  # beyond, tanh is 1 to the last digit, and the cube may overflow
    return sqrt(2 / pi) * inside * (1 + 0.044715 * inside * inside)


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))``, without overflow."""
    xp = namespace(x)
    return x.clip(min=0) + xp.log1p(xp.exp(-xp.abs(x)))


def expand_softplus(x: Array) -> tuple[Array, Array, Array]:
    """Return `softplus` and its first two derivatives."""
    gate = sigmoid(x)
    return softplus(x), gate, gate * (1 - gate)


def _times_x(x: Array, gate: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Return ``x * gate(x)`` and its first two derivatives, from those of the gate."""
    return x * gate, gate + x * first, 2 * first + x * second
