"""The z step against brute force: no point of a dense grid may be cheaper than what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation, PiecewiseLinear
from onnx_lowrank.linalg.arrays import on_host
from onnx_lowrank.solve.activation_steps import _cheapest, activation_step
from tests.conftest import examples

Matrix = NDArray[np.float64]

SHAPE = (3, 4)
STRAIGHT: dict[str, Activation] = {
    "identity": act.identity(),
    "relu": act.relu(),
    "leaky_relu": act.leaky_relu(0.1),
    "leaky_relu steep": act.leaky_relu(2.0),
    "prelu per channel": act.prelu(np.array([-0.7, 0.0, 0.3, 1.6])),
    "clip": act.clip(-1.0, 2.0),
    "relu6": act.clip(0.0, 6.0),
    "hard_sigmoid": act.hard_sigmoid(),
    "hard_sigmoid falling": act.hard_sigmoid(-0.5, 0.2),
}
CURVED: dict[str, Activation] = {
    factory().name: factory()
    for factory in (act.sigmoid, act.tanh, act.hard_swish, act.silu, act.gelu, act.gelu_tanh, act.softplus)
}
SCALE = np.array([0.2, 1.0, 3.0, 7.0])
SCALED = {f"{name} in other units": act.scaled(each, SCALE) for name, each in (STRAIGHT | CURVED).items()}
ALL = STRAIGHT | CURVED | {name: each for name, each in SCALED.items() if isinstance(each, act.Scaled)}
KINKS = (-3.0, -1.0, 0.0, 2.0, 3.0, 6.0)

numbers = st.one_of(st.floats(-4, 4), st.floats(-40, 40), st.sampled_from(KINKS))
matrices = arrays(np.float64, SHAPE, elements=numbers)


def cost(
    activation: Activation,
    targets: Matrix,
    predictions: Matrix,
    penalty: float,
    offset: Matrix,
    z: NDArray[Any],
) -> Matrix:
    """The relaxed cost of each element, written as in the paper; z may have more axes in front."""
    exact = z.astype(np.float64)
    result: Matrix = (targets - activation(exact + offset)) ** 2 + penalty * (exact - predictions) ** 2
    return result


def cheapest_on_a_grid(
    activation: Activation, targets: Matrix, predictions: Matrix, penalty: float, offset: Matrix
) -> Matrix:
    """Smallest cost among thousands of z: around the prediction, around the bends, and at every kink."""
    fixed = np.concatenate([np.linspace(-60, 60, 601), np.linspace(-6, 6, 1201), KINKS])[:, None, None]
    around = np.linspace(-1, 1, 401)[:, None, None]
    tries = np.concatenate([fixed - offset, predictions + around])
    result: Matrix = cost(activation, targets, predictions, penalty, offset, tries).min(axis=0)
    return result


@pytest.mark.parametrize("case", ALL)
@given(penalty=st.sampled_from([0.01, 1.0, 100.0]), responses=matrices, predictions=matrices, offset=matrices)
@example(penalty=0.01, responses=np.full(SHAPE, 0.125), predictions=np.full(SHAPE, -29.0), offset=np.full(SHAPE, 3.0))
@example(penalty=1.0, responses=np.full(SHAPE, 0.125), predictions=np.full(SHAPE, -29.0), offset=np.full(SHAPE, 3.0))
@example(penalty=100.0, responses=np.full(SHAPE, 0.125), predictions=np.full(SHAPE, -29.0), offset=np.full(SHAPE, 3.0))
@settings(max_examples=examples(20), deadline=None)
def test_nothing_on_a_dense_grid_is_cheaper(
    case: str, penalty: float, responses: Matrix, predictions: Matrix, offset: Matrix
) -> None:
    activation = ALL[case]
    targets = activation(responses + offset)
    z = activation_step(activation, targets, predictions, penalty, offset=offset)
    found = cost(activation, targets, predictions, penalty, offset, z)
    grid = cheapest_on_a_grid(activation, targets, predictions, penalty, offset)
    at_responses = cost(activation, targets, predictions, penalty, offset, responses)
    assert (found <= np.minimum(grid, at_responses) * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("penalty", [0.01, 1.0])
@pytest.mark.parametrize(("dtype", "tiny"), [(np.float64, 1e-12), (np.float32, 1e-8)])
def test_many_elements_as_they_come_from_a_network(
    case: str, penalty: float, dtype: type[np.floating[Any]], tiny: float
) -> None:
    """Tens of thousands of elements: here some lie where two basins cost nearly the same."""
    activation = ALL[case]
    rng = np.random.default_rng(1)
    responses = rng.normal(scale=2, size=(5_000, 4))
    predictions = (responses + rng.normal(scale=2, size=responses.shape)).astype(dtype)
    targets = activation(responses)
    z = activation_step(activation, targets, predictions, penalty)
    assert z.dtype == dtype
    v, none = predictions.astype(np.float64), np.zeros_like(responses)
    found = cost(activation, targets, v, penalty, none, z)
    smallest = cost(activation, targets, v, penalty, none, v)
    for u in np.linspace(-9, 9, 91):
        smallest = np.minimum(smallest, cost(activation, targets, v, penalty, none, np.full_like(v, u)))
    assert (found <= smallest * (1 + 1e-6) + tiny).all()


@given(responses=matrices, predictions=matrices, penalty=st.floats(0.001, 1000))
def test_relu_takes_the_cheaper_of_the_papers_two_candidates(
    responses: Matrix, predictions: Matrix, penalty: float
) -> None:
    targets = np.maximum(responses, 0)
    below = np.minimum(0, predictions)
    above = np.maximum(0, (penalty * predictions + targets) / (penalty + 1))
    cost_below = targets**2 + penalty * (below - predictions) ** 2
    cost_above = (above - targets) ** 2 + penalty * (above - predictions) ** 2
    z = activation_step(act.relu(), targets, predictions, penalty)
    clear = ~np.isclose(cost_below, cost_above, rtol=1e-9, atol=1e-12)
    expected = np.where(cost_below < cost_above, below, above)
    np.testing.assert_allclose(z[clear], expected[clear], rtol=1e-12, atol=1e-12)
    # Where both cost the same, either will do.
    assert (np.isclose(z, below, rtol=1e-9, atol=1e-9) | np.isclose(z, above, rtol=1e-9, atol=1e-9)).all()


@given(targets=matrices, predictions=matrices, penalty=st.floats(0.001, 1000))
def test_identity_is_the_weighted_mean(targets: Matrix, predictions: Matrix, penalty: float) -> None:
    z = activation_step(act.identity(), targets, predictions, penalty)
    np.testing.assert_allclose(z, (targets + penalty * predictions) / (1 + penalty), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", ALL)
@given(responses=matrices, predictions=matrices)
@settings(max_examples=10, deadline=None)
def test_a_huge_penalty_keeps_the_predictions(case: str, responses: Matrix, predictions: Matrix) -> None:
    targets = ALL[case](responses)
    z = activation_step(ALL[case], targets, predictions, 1e9)
    np.testing.assert_allclose(
        z, predictions, rtol=0, atol=2.5e-7
    )  # |t - r| r' / penalty is at most (40 + 2 * 40) * 2 / 1e9


@pytest.mark.parametrize("case", CURVED)
def test_far_values_and_a_tiny_penalty(case: str) -> None:
    """Beyond the grid of brackets as well as within."""
    activation = CURVED[case]
    responses, predictions = np.meshgrid([-5e4, -30.0, -1.0, 2.0, 30.0, 5e4], [-8e4, -300.0, 0.5, 300.0, 8e4])
    targets, none = activation(responses), np.zeros_like(responses)
    z = activation_step(activation, targets, predictions, 1e-4)
    found = cost(activation, targets, predictions, 1e-4, none, z)
    for other in (predictions, responses, none, (1e-4 * predictions + targets) / (1 + 1e-4)):
        assert (found <= cost(activation, targets, predictions, 1e-4, none, other) * (1 + 1e-6) + 1e-12).all()


@pytest.mark.parametrize("case", ALL)
def test_what_is_already_right_stays(case: str) -> None:
    responses = np.random.default_rng(2).normal(scale=2, size=(50, 4))
    z = activation_step(ALL[case], ALL[case](responses), responses, 0.01)
    np.testing.assert_allclose(z, responses, rtol=0, atol=1e-8)


@pytest.mark.parametrize("falls_first", [False, True])
def test_a_piece_whose_minimizer_overflows_loses(falls_first: bool) -> None:
    """The slope of the one piece takes the largest numbers beyond those of float32; the other is exact there."""
    slopes, sign = ((2.0, 1.0), 1) if falls_first else ((1.0, 2.0), -1)
    activation = PiecewiseLinear("steep", (0.0,), slopes, (0.0, 0.0))
    right = np.full((2, 3), sign * 3e38, np.float32)
    with np.errstate(all="ignore"):
        z = activation_step(activation, right, right, 1.0)
    np.testing.assert_array_equal(z, right)


def test_a_candidate_that_is_not_finite_takes_nothing_from_the_others(tensor: Callable[[Any], Any]) -> None:
    values = [np.array([[np.inf, 1.0, -np.inf, np.nan, 2.0]]), np.array([[3.0, np.inf, 4.0, 5.0, -np.inf]])]
    costs = [np.array([[np.inf, 1.0, np.nan, np.nan, 1.0]]), np.array([[2.0, np.inf, 1.0, 7.0, np.nan]])]
    for make in (np.asarray, tensor):
        for dtype in (np.float32, np.float64):
            candidates = [[make(array.astype(dtype)) for array in pair] for pair in zip(values, costs, strict=True)]
            for order in (candidates, candidates[::-1]):
                found = on_host(_cheapest(iter(order)))
                np.testing.assert_array_equal(found, [[3.0, 1.0, 4.0, 5.0, 2.0]])


@pytest.mark.parametrize("factory", [act.relu, act.silu])
def test_inputs_are_left_alone_and_rows_do_not_mix(factory: Callable[[], Activation]) -> None:
    rng = np.random.default_rng(3)
    responses, predictions, offset = rng.normal(size=(3, 300, 256))  # more than one block of rows
    targets = factory()(responses + offset)
    kept = [array.copy() for array in (targets, predictions, offset)]
    together = activation_step(factory(), targets, predictions, 0.1, offset=offset)
    for array, before in zip((targets, predictions, offset), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    for row in (0, 150, 299):
        one = slice(row, row + 1)
        alone = activation_step(factory(), targets[one], predictions[one], 0.1, offset=offset[one])
        np.testing.assert_allclose(together[one], alone, rtol=0, atol=1e-3 if factory is act.silu else 0)


@pytest.mark.parametrize("factory", [act.relu, act.silu])
def test_no_rows_give_no_rows(factory: Callable[[], Activation]) -> None:
    none = np.empty((0, 4), np.float32)
    assert activation_step(factory(), none, none, 1.0).shape == (0, 4)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one shape \(n, d\), got \[\(3, 4\), \(3, 5\)\]"):
        activation_step(act.relu(), np.zeros((3, 4)), np.zeros((3, 5)), 1.0)
    with pytest.raises(ValueError, match=r"one shape \(n, d\), got \[\(3, 4\), \(3, 4\), \(4,\)\]"):
        activation_step(act.relu(), np.zeros((3, 4)), np.zeros((3, 4)), 1.0, offset=np.zeros(4))


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_the_penalty_must_be_positive(penalty: float) -> None:
    with pytest.raises(ValueError, match="penalty must be above 0, got"):
        activation_step(act.relu(), np.zeros((3, 4)), np.zeros((3, 4)), penalty)
