"""Activations on tensors of PyTorch are those on arrays of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import PiecewiseLinear, prelu
from onnx_lowrank.linalg.arrays import on_host
from tests.layers.test_activation_slopes import ACTIVATIONS

CURVED = [name for name, each in ACTIVATIONS.items() if not isinstance(each, PiecewiseLinear)]
KINKS = (-3.0, -1.0, 0.0, 1.0, 2.0, 2.5, 3.0, 6.0)
ULPS = 8  # of the larger of 1 and |x|: exponentials differ in the last digits, and gates are multiplied by x
SECOND_ULPS = 100  # for second derivatives: that of gelu_tanh is a small difference times a large square

numbers = st.one_of(st.floats(-12, 12, width=32), st.floats(-1e4, 1e4, width=32), st.sampled_from(KINKS))
matrices = arrays(np.float64, (5, 4), elements=numbers)


def assert_same(found: Any, wanted: NDArray[Any], x: NDArray[Any], ulps: int = ULPS) -> None:
    """A tensor of the type of the array, element by element as near as the type allows."""
    assert not isinstance(found, np.ndarray)
    assert str(found.dtype) == f"torch.{wanted.dtype.name}"
    assert tuple(found.shape) == wanted.shape
    tolerance = ulps * np.finfo(x.dtype).eps * np.maximum(1, np.abs(x.astype(np.float64)))
    assert (np.abs(on_host(found) - wanted) <= tolerance).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
@given(numbers=matrices)
@example(numbers=np.resize(np.array(KINKS), (5, 4)))
@settings(deadline=None, max_examples=30)
def test_value_and_slope(tensor: Callable[[Any], Any], name: str, dtype: Any, numbers: NDArray[np.float64]) -> None:
    activation, x = ACTIVATIONS[name], numbers.astype(dtype)
    assert_same(activation(tensor(x)), activation(x), x)
    for found, wanted in zip(activation.with_slope(tensor(x)), activation.with_slope(x), strict=True):
        assert_same(found, wanted, x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CURVED)
@given(numbers=matrices)
@settings(deadline=None, max_examples=30)
def test_expansion(tensor: Callable[[Any], Any], name: str, dtype: Any, numbers: NDArray[np.float64]) -> None:
    activation, x = ACTIVATIONS[name], numbers.astype(dtype)
    assert not isinstance(activation, PiecewiseLinear)
    limits = (ULPS, ULPS, SECOND_ULPS)
    for found, wanted, ulps in zip(activation.expansion(tensor(x)), activation.expansion(x), limits, strict=True):
        assert_same(found, wanted, x, ulps)


def test_some_of_the_channels(tensor: Callable[[Any], Any]) -> None:
    slopes, x = np.array([-0.5, 0.0, 0.25, 1.5]), np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    some = slice(1, 3)
    assert_same(prelu(slopes).part(some)(tensor(x[:, some])), prelu(slopes)(x)[:, some], x[:, some])
