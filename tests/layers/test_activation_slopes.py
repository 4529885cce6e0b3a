"""Slopes of activations against central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation, PiecewiseLinear

ACTIVATIONS: dict[str, Activation] = {
    "identity": act.identity(),
    "relu": act.relu(),
    "leaky_relu": act.leaky_relu(),
    "leaky_relu negative": act.leaky_relu(-0.5),
    "prelu": act.prelu([-0.5, 0.0, 0.25, 1.5]),
    "prelu scalar": act.prelu(0.3),
    "clip": act.clip(-1.0, 2.0),
    "clip below": act.clip(-1.0),
    "clip above": act.clip(high=2.0),
    "clip crossed": act.clip(2.0, -1.0),
    "relu6": act.clip(0.0, 6.0),
    "hard_sigmoid": act.hard_sigmoid(),
    "hard_sigmoid falling": act.hard_sigmoid(-0.5, 0.1),
    "hard_sigmoid flat": act.hard_sigmoid(0.0, 0.3),
    "sigmoid": act.sigmoid(),
    "tanh": act.tanh(),
    "hard_swish": act.hard_swish(),
    "silu": act.silu(),
    "gelu": act.gelu(),
    "gelu_tanh": act.gelu_tanh(),
    "softplus": act.softplus(),
}
STEP = 1e-5


def bends(activation: Activation) -> tuple[float, ...]:
    return activation.knots if isinstance(activation, PiecewiseLinear) else activation.kinks


def inputs(activation: Activation, dtype: Any = np.float64) -> NDArray[Any]:
    """Values from -12 to 12, four channels, none closer to a bend than the step of a difference."""
    x = np.linspace(-12, 12, 4802)
    for bend in bends(activation):
        x = x[np.abs(x - bend) > 2 * STEP]
    return np.repeat(x[:, np.newaxis], 4, axis=1).astype(dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_is_the_difference_quotient(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = inputs(activation)
    _, slope = activation.with_slope(x)
    assert slope.shape == x.shape
    quotient = (activation(x + STEP) - activation(x - STEP)) / (2 * STEP)
    np.testing.assert_allclose(slope, quotient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_is_that_of_the_activation_in_the_type_of_the_input(name: str, dtype: type[np.floating[Any]]) -> None:
    activation = ACTIVATIONS[name]
    bent = np.repeat(np.array(bends(activation) or (0.0,))[:, np.newaxis], 4, axis=1)
    x = np.concatenate([inputs(activation), bent]).astype(dtype)
    value, slope = activation.with_slope(x)
    assert value.dtype == slope.dtype == dtype
    limits = np.finfo(dtype)
    np.testing.assert_allclose(value, activation(x), rtol=4 * limits.eps, atol=4 * limits.smallest_subnormal)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_in_float32_is_that_in_float64(name: str) -> None:
    activation = ACTIVATIONS[name]
    x = inputs(activation, np.float32)
    _, slope = activation.with_slope(x)
    np.testing.assert_allclose(slope, activation.with_slope(x.astype(np.float64))[1], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_from_zero_the_slope_is_that_of_a_straight_line(name: str) -> None:
    activation = ACTIVATIONS[name]
    far = np.array([[-1e4] * 4, [-90] * 4, [90] * 4, [1e4] * 4], np.float32)
    _, slope = activation.with_slope(far)
    secant = (activation(np.float64(1.5) * far) - activation(far.astype(np.float64))) / (0.5 * far)
    np.testing.assert_allclose(slope, secant, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, each in ACTIVATIONS.items() if isinstance(each, PiecewiseLinear)])
def test_at_a_knot_the_slope_is_that_of_the_piece_before_it(name: str) -> None:
    activation = ACTIVATIONS[name]
    for knot in bends(activation):
        at, before = np.full((1, 4), knot), np.full((1, 4), knot - STEP)
        np.testing.assert_array_equal(activation.with_slope(at)[1], activation.with_slope(before)[1])
