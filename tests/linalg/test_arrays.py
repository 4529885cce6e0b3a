"""Helpers for rows, on arrays of NumPy and on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.linalg.arrays import blocks, like, namespace, on_cpu, on_host, select, special, squares, zeros

Make = Callable[[Any], Any]


@pytest.fixture(params=["numpy", "torch"])
def make(request: pytest.FixtureRequest) -> Make:
    """What makes arrays of a library."""
    found: Make = np.asarray if request.param == "numpy" else request.getfixturevalue("tensor")
    return found


def test_the_namespace_is_that_of_the_array(make: Make) -> None:
    x = make(np.array([-1.0, 2.0]))
    assert type(namespace(x).abs(x)) is type(x)
    assert type(special(x).expit(x)) is type(x)
    np.testing.assert_allclose(on_host(special(x).expit(x)), scipy.special.expit([-1.0, 2.0]), rtol=1e-14)
    np.testing.assert_allclose(on_host(special(x).ndtr(x)), scipy.special.ndtr([-1.0, 2.0]), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [0.5, (0.5, 1.5), (), np.arange(6, dtype=np.float16).reshape(2, 3)[:, ::2]])
def test_numbers_of_the_host_become_like_an_array(make: Make, values: Any, dtype: Any) -> None:
    x = make(np.ones((4, 2), dtype))
    found = like(values, x)
    assert type(found) is type(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(on_host(found), np.asarray(values, np.float64), strict=True)


def test_zeros_are_wide_and_can_be_added_to(make: Make) -> None:
    x = make(np.full((2, 3), 0.1, np.float32))
    total = zeros((2, 3), x)
    assert type(total) is type(x)
    total += x
    total += x
    np.testing.assert_array_equal(on_host(total), np.full((2, 3), 2 * np.float64(np.float32(0.1))), strict=True)


def test_what_is_on_the_host_in_float64_is_not_copied() -> None:
    x = np.ones(3)
    assert on_host(x) is x


def test_squares(make: Make) -> None:
    x = np.random.default_rng(0).normal(size=(50, 7))
    found = squares(make(x)[:, 1:5])
    assert found.shape == ()
    np.testing.assert_allclose(float(found), np.square(x[:, 1:5]).sum(), rtol=1e-13)


def test_whether_a_cpu_works_on_it(make: Make) -> None:
    assert on_cpu(make(np.ones(2)))
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert not on_cpu(torch.empty(2, device="meta"))


@given(count=st.integers(0, 100), size=st.integers(1, 120))
def test_blocks_cover_all_in_order(count: int, size: int) -> None:
    parts = list(blocks(count, size))
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    assert all(1 <= part.stop - part.start <= size for part in parts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selects_as_where_does_whatever_the_values(make: Make, dtype: Any) -> None:
    numbers = np.array(
        [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal]
    )
    one, other = (grid.astype(dtype) for grid in np.meshgrid(numbers, numbers))
    condition = np.random.default_rng(0).random(one.shape) < 0.5
    for left, right in ((one, other), (one.T, other[::-1])):  # in any layout
        found = on_host(select(make(condition), make(left), make(right.copy())))
        np.testing.assert_array_equal(found, np.where(condition, left, right).astype(np.float64), strict=True)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(np.where(condition, left, right)))
