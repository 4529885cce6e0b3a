from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.linalg.arrays import on_host
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.reduced_rank import ReducedRankSolver, fit_with


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


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_leading_one_comes_first(library: str, dtype: Any, tensor: Callable[[Any], Any]) -> None:
    matrix = np.diag([1.0, 5.0, 3.0]).astype(dtype)
    found = leading_directions(matrix if library == "numpy" else tensor(matrix), 2)
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
