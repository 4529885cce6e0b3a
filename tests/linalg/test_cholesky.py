from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.linalg.arrays import eye, in_float64, on_host, outer
from onnx_lowrank.linalg.symmetric import cholesky, divided, divided_by_root, mean_diagonal, with_ridge

Make = Callable[[Any], Any]


@pytest.fixture(scope="session", params=["numpy", "torch"])
def make(request: pytest.FixtureRequest) -> Make:
    """Arrays of NumPy, or tensors."""
    return np.asarray if request.param == "numpy" else request.getfixturevalue("tensor")


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 50))
def test_factors_and_what_they_divide(make: Make, size: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    factor, right = generator.normal(size=(size + 3, size)), generator.normal(size=(size, columns))
    matrix = factor.T @ factor + np.eye(size)
    root = cholesky(make(matrix))
    found = on_host(root)
    np.testing.assert_array_equal(found, np.tril(found))
    np.testing.assert_allclose(found @ found.T, matrix, atol=1e-12 * np.abs(matrix).max())
    for way, wanted in (
        (divided(root, make(right)), np.linalg.solve(matrix, right)),
        (divided_by_root(root, make(right)), np.linalg.solve(found, right)),
        (divided_by_root(root, make(right), transposed=True), np.linalg.solve(found.T, right)),
    ):
        np.testing.assert_allclose(on_host(way), wanted, atol=1e-10)


def test_a_matrix_that_is_not_definite_is_an_error(make: Make) -> None:
    with pytest.raises((np.linalg.LinAlgError, RuntimeError)):
        cholesky(make(np.diag([1.0, -1.0])))


def test_a_ridge_leaves_the_matrix_alone(make: Make) -> None:
    matrix = make(np.ones((2, 2)))
    np.testing.assert_array_equal(on_host(with_ridge(matrix, 0.5)), [[1.5, 1], [1, 1.5]])
    np.testing.assert_array_equal(on_host(matrix), np.ones((2, 2)))


def test_the_mean_of_the_diagonal_is_what_ridges_can_be_relative_to(make: Make) -> None:
    assert mean_diagonal(make(np.array([[1.0, 9.0], [9.0, 3.0]]))) == 2.0
    assert mean_diagonal(make(np.zeros((3, 3)))) == 1.0


def test_outer_products_and_wide_numbers(make: Make) -> None:
    beside = make(np.ones(1, np.float32))
    left, right = np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    wide = in_float64(left.astype(np.float32), beside)
    assert str(wide.dtype).endswith("float64")
    assert type(wide) is type(beside)
    np.testing.assert_array_equal(on_host(outer(wide, in_float64(right, beside))), np.outer(left, right))
    identity = eye(2, 3, beside)
    assert type(identity) is type(beside)
    np.testing.assert_array_equal(on_host(identity), np.eye(2, 3), strict=True)
