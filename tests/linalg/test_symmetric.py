"""Cholesky factors and leading eigenvectors, on arrays of NumPy and on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.linalg.arrays import eye, in_float64, on_host, outer
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.symmetric import (
    cholesky,
    divided,
    divided_by_root,
    leading_directions,
    mean_diagonal,
    with_ridge,
)
from onnx_lowrank.solve.reduced_rank import ReducedRankSolver, fit_with

Make = Callable[[Any], Any]


@pytest.fixture(scope="session", params=["numpy", "torch"])
def make(request: pytest.FixtureRequest) -> Make:
    """Arrays of NumPy, or tensors."""
    return np.asarray if request.param == "numpy" else request.getfixturevalue("tensor")


# Cholesky factors


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


# Eigenvectors


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.data())
def test_directions_are_those_of_the_singular_values(size: int, rows: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size))
    factor = np.random.default_rng(seed).normal(size=(rows, size))
    found = leading_directions(factor.T @ factor, count)
    assert found.shape == (size, count)
    np.testing.assert_allclose(found.T @ found, np.eye(count), atol=1e-12)
    # What they keep is what the largest singular values make, whichever of equal ones are taken.
    singular = np.linalg.svd(factor, compute_uv=False)
    np.testing.assert_allclose(np.square(factor @ found).sum(), np.square(singular[:count]).sum(), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_leading_one_comes_first(make: Make, dtype: Any) -> None:
    found = leading_directions(make(np.diag([1.0, 5.0, 3.0]).astype(dtype)), 2)
    assert str(found.dtype).endswith("float64")
    np.testing.assert_allclose(np.abs(on_host(found)), [[0, 0], [1, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("seed", [263, *range(40)])
def test_a_rank_that_cuts_through_equal_eigenvalues(seed: int) -> None:
    """With fewer rows than the rank, all directions that no row has have the eigenvalue of the prior."""
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((26, 120))
    targets = np.tanh(inputs + 0.3 * generator.standard_normal(inputs.shape))
    moments = Moments.of(inputs.astype(np.float32), targets.astype(np.float32))
    factors = fit_with(ReducedRankSolver(moments.gram, 0.3, np.eye(120)), moments, 48)
    assert factors.P.shape == (120, 48)
    np.testing.assert_allclose(factors.P.T @ factors.P, np.eye(48), atol=1e-10)
