"""L-BFGS against closed forms and against SciPy's, and how often it looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.linalg.lbfgs import minimize

Array = NDArray[Any]
Objective = Callable[[Array], tuple[float, Array]]


def bowl(seed: int, size: int, condition: float) -> tuple[Objective, Array]:
    """A quadratic function, and where it is lowest."""
    generator = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(generator.normal(size=(size, size)))
    hessian = (directions * np.geomspace(1, condition, size)) @ directions.T
    lowest = generator.normal(size=size)

    def objective(x: Array) -> tuple[float, Array]:
        slope = hessian @ (x - lowest)
        return float(0.5 * slope @ (x - lowest)), slope

    return objective, lowest


def rosenbrock(x: Array) -> tuple[float, Array]:
    return float(scipy.optimize.rosen(x)), scipy.optimize.rosen_der(x)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), size=st.integers(1, 30), curvature=st.sampled_from([0.01, 1.0, 100.0]))
def test_finds_where_a_bowl_is_lowest(seed: int, size: int, curvature: float) -> None:
    objective, lowest = bowl(seed, size, 100.0)
    found = minimize(objective, np.zeros(size), 300, curvature=curvature)
    np.testing.assert_allclose(found, lowest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [2, 10])
def test_gets_around_the_bend_of_a_valley(size: int) -> None:
    found = minimize(rosenbrock, np.full(size, -0.5), 1000, curvature=100.0)
    np.testing.assert_allclose(found, np.ones(size), atol=1e-5)


def test_as_good_as_scipy_in_as_many_looks() -> None:
    objective, _ = bowl(3, 200, 1e4)
    looks = []

    def counted(x: Array) -> tuple[float, Array]:
        looks.append(objective(x)[0])
        return objective(x)

    start = np.zeros(200)
    found = minimize(counted, start, 40, curvature=1e4)
    assert len(looks) <= 45
    options = {"maxfun": len(looks), "maxcor": 12}
    theirs = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    assert objective(found)[0] < 1.2 * theirs.fun
    assert objective(found)[0] == min(looks)


def test_first_step_is_the_gradient_over_the_curvature() -> None:
    objective, _ = bowl(0, 5, 3.0)
    start = np.ones(5)
    found = minimize(objective, start, 1, curvature=10.0)
    np.testing.assert_allclose(found, start - objective(start)[1] / 10, rtol=1e-12)


def test_a_step_that_is_too_long_is_shortened() -> None:
    objective, _ = bowl(0, 5, 3.0)
    start = np.ones(5)
    found = minimize(objective, start, 1, curvature=1e-3)
    assert objective(found)[0] < objective(start)[0]


def test_stays_where_no_step_leads_down() -> None:
    """The gradient lies."""
    start = np.ones(3)
    found = minimize(lambda x: (float(x @ x), -2 * x), start, 20)
    np.testing.assert_array_equal(found, start)


def test_is_over_when_an_iteration_gains_little() -> None:
    objective, _ = bowl(1, 50, 1e4)
    looks: dict[float, int] = {0.0: 0, 0.05: 0}
    for min_gain in looks:

        def counted(x: Array, min_gain: float = min_gain) -> tuple[float, Array]:
            looks[min_gain] += 1
            value, slope = objective(x)
            return value + 1.0, slope

        minimize(counted, np.zeros(50), 200, curvature=1e4, min_gain=min_gain)
    assert 3 < looks[0.05] < 0.7 * looks[0.0]


def test_keeps_to_the_type_of_the_gradient_and_leaves_the_start_alone() -> None:
    objective, lowest = bowl(2, 20, 10.0)

    def single(x: Array) -> tuple[float, Array]:
        assert x.dtype == np.float32
        value, slope = objective(x)
        return value, slope.astype(np.float32)

    start = np.zeros(20, np.float32)
    found = minimize(single, start, 50, curvature=10.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, lowest, atol=1e-3)
    np.testing.assert_array_equal(start, 0)


def test_a_start_that_is_lowest_already() -> None:
    objective, lowest = bowl(2, 20, 10.0)
    np.testing.assert_allclose(minimize(objective, lowest, 50), lowest, rtol=0, atol=1e-12)


def test_where_it_is_so_flat_that_products_underflow_the_curvature_known_so_far_stays() -> None:
    flat = np.float32(1e-23)

    def objective(x: Any) -> tuple[float, Any]:
        return float(flat) * float(x @ x) / 2, flat * x

    found = minimize(objective, np.ones(3, np.float32), 5, curvature=2e-23)
    np.testing.assert_allclose(found, 2.0**-5, rtol=1e-6)  # half of the way, five times
