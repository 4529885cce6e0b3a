"""The solver on tensors of PyTorch does what it does on arrays of NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.arrays import on_host
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.row_blocks import BLOCK_ROWS
from onnx_lowrank.linalg.spatial_basis import column_features, horizontal_map, vertical_basis, vertical_moments
from onnx_lowrank.solve import activation_steps, solve_layer
from onnx_lowrank.solve.activation_steps import activation_step
from onnx_lowrank.solve.channel import input_responses
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows, activated_error, prediction
from onnx_lowrank.solve.reduced_rank import RankFactors
from onnx_lowrank.solve.refine import RefinementEffort, RidgePenalty, chain_error, refine
from tests.conftest import examples
from tests.solve.test_activation_steps import ALL, Matrix, cost, matrices
from tests.solve.test_refine import ACTIVATIONS, loss, random_chain, random_rows
from tests.solve.test_spatial_channel import CHANNEL, SPATIAL, problem

Array = NDArray[Any]
Tensor = Callable[[Any], Any]

PLANS = {
    "channel": LayerPlan("conv", "channel", channel=CHANNEL),
    "spatial": LayerPlan("conv", "spatial", spatial=SPATIAL),
    "spatial-channel": LayerPlan("conv", "spatial-channel", channel=CHANNEL, spatial=SPATIAL),
    "input": LayerPlan("conv", "input", input=3),
    "tucker": LayerPlan("conv", "tucker", channel=CHANNEL, input=3),
}


@pytest.fixture(autouse=True, scope="module")
def _small_products(tensor: Tensor) -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


def as_tensors(targets: TargetResponses, tensor: Tensor) -> TargetResponses:
    return TargetResponses(tensor(targets.responses), None if targets.residual is None else tensor(targets.residual))


def rows_as_tensors(rows: Rows, tensor: Tensor) -> Rows:
    offset = None if rows.offset is None else tensor(rows.offset)
    return Rows(tensor(rows.inputs), tensor(rows.responses), tensor(rows.targets), offset, rows.activation)


def chain_as_tensors(chain: FactorMap, tensor: Tensor) -> FactorMap:
    return FactorMap(
        tensor(chain.T), tensor(chain.Q), None if chain.P is None else tensor(chain.P), tensor(chain.offset)
    )


# The z step


@pytest.mark.parametrize("case", ALL)
@given(penalty=st.sampled_from([0.01, 1.0]), responses=matrices, predictions=matrices, offset=matrices)
@settings(max_examples=examples(10), deadline=None)
def test_the_z_step_costs_no_more(
    tensor: Tensor, case: str, penalty: float, responses: Matrix, predictions: Matrix, offset: Matrix
) -> None:
    activation = ALL[case]
    targets = activation(responses + offset)
    wanted = activation_step(activation, targets, predictions, penalty, offset=offset)
    found = activation_step(activation, tensor(targets), tensor(predictions), penalty, offset=tensor(offset))
    costs = [cost(activation, targets, predictions, penalty, offset, z) for z in (on_host(found), wanted)]
    assert (costs[0] <= costs[1] * (1 + 1e-6) + 1e-12).all()  # what the z step on arrays is allowed itself


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("penalty", [0.01, 1.0])
@pytest.mark.parametrize(("dtype", "tiny"), [(np.float64, 1e-12), (np.float32, 1e-8)])
def test_the_z_step_of_many_elements(
    tensor: Tensor, case: str, penalty: float, dtype: Any, tiny: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a block; some lie where two basins cost nearly the same, or are left to the descents."""
    monkeypatch.setattr(activation_steps, "BLOCK_ELEMENTS", 8192)
    activation, rng = ALL[case], np.random.default_rng(1)
    responses = rng.normal(scale=2, size=(2_500, 4))
    predictions = (responses + rng.normal(scale=2, size=responses.shape)).astype(dtype)
    targets = activation(responses)
    wanted = activation_step(activation, targets, predictions, penalty)
    found = activation_step(activation, tensor(targets), tensor(predictions), penalty)
    assert str(found.dtype) == f"torch.{np.dtype(dtype).name}"
    exact, none = predictions.astype(np.float64), np.zeros_like(responses)
    costs = [cost(activation, targets, exact, penalty, none, z) for z in (on_host(found), wanted)]
    assert (costs[0] <= costs[1] * (1 + 1e-6) + tiny).all()


@pytest.mark.parametrize("factory", [act.relu, act.silu])
def test_the_z_step_leaves_tensors_alone_and_takes_none(tensor: Tensor, factory: Callable[[], Activation]) -> None:
    given = [tensor(each) for each in np.random.default_rng(3).normal(size=(3, 30, 8))]
    kept = [each.clone() for each in given]
    activation_step(factory(), given[0], given[1], 0.1, offset=given[2])
    assert all((each == before).all() for each, before in zip(given, kept, strict=True))
    none = tensor(np.empty((0, 4), np.float32))
    assert tuple(activation_step(factory(), none, none, 1.0).shape) == (0, 4)


# Products of rows


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 2, 77, BLOCK_ROWS, BLOCK_ROWS + 5]),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_moments(tensor: Tensor, seed: int, count: int, sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(seed)
    x, y = (generator.normal(loc=3, size=(count, size)).astype(np.float32) for size in sizes)
    wanted, found = Moments.of(x, y), Moments.of(tensor(x), tensor(y))
    assert found.count == wanted.count
    for name in ("input_mean", "target_mean", "gram", "cross"):
        part: Any = getattr(found, name)
        assert str(part.dtype) == "torch.float64"
        np.testing.assert_allclose(on_host(part), getattr(wanted, name), rtol=1e-10, atol=1e-10 * count)


@pytest.mark.parametrize("rank", [1, 5])
def test_predictions_and_their_error(tensor: Tensor, rank: int) -> None:
    """A product in two steps, and in one where that takes less."""
    generator = np.random.default_rng(0)
    rows = random_rows(0, BLOCK_ROWS + 9, 6, act.silu(), residual=True, dtype=np.float32)
    rows = rows.of_inputs(generator.normal(size=(len(rows), 7)).astype(np.float32))
    factors = RankFactors(generator.normal(size=(6, rank)), generator.normal(size=(rank, 7)), generator.normal(size=6))
    wanted, found = (prediction(factors, inputs)(inputs) for inputs in (rows.inputs, tensor(rows.inputs)))
    np.testing.assert_allclose(on_host(found), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    error = activated_error(rows_as_tensors(rows, tensor), factors)
    np.testing.assert_allclose(error, activated_error(rows, factors), rtol=1e-6)


def test_what_is_made_of_patches(tensor: Tensor) -> None:
    """Patches stay arrays of the host; what is made of them is beside the targets, in their type."""
    layer, responses = problem(act.relu(), count=5000)
    there = LayerSamples(as_tensors(responses.targets, tensor), responses.patches.astype(np.float16))
    here = replace(responses, patches=there.patches)
    wanted, found = input_responses(layer, here), input_responses(layer, there)
    assert str(found.dtype) == "torch.float32"
    np.testing.assert_allclose(on_host(found), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    moments = vertical_moments(here.patches)
    beside = there.targets.responses
    moved = vertical_moments(there.patches, beside)
    np.testing.assert_allclose(on_host(moved), moments, rtol=0, atol=1e-6 * np.trace(moments))
    basis = vertical_basis(layer.weight, SPATIAL, moments)
    for weight in (layer.weight, tensor(layer.weight)):
        found = vertical_basis(weight, SPATIAL, tensor(moments))
        assert str(found.dtype) == "torch.float64"
        # Directions have no sign.
        np.testing.assert_allclose(np.abs(on_host(found)), np.abs(basis), rtol=0, atol=1e-6 * np.abs(basis).max())
        horizontal = horizontal_map(layer.weight, tensor(basis), tensor(moments))
        wanted = horizontal_map(layer.weight, basis, moments)
        np.testing.assert_allclose(on_host(horizontal), wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    for first in (0, 1, 4000):
        features = column_features(here.patches[first:], basis)
        assert features.dtype == np.float32
        moved = column_features(there.patches, basis, beside, first)
        assert str(moved.dtype) == "torch.float32"
        np.testing.assert_allclose(on_host(moved), features, rtol=0, atol=2e-6 * np.abs(features).max())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_loss_and_gradient(tensor: Tensor, activation: Activation, channel: int | None, residual: bool) -> None:
    chain = random_chain(0, 5, 4, 3, 2, channel)
    rows = random_rows(1, BLOCK_ROWS + 77, 5, activation, residual=residual, dtype=np.float32)
    features = np.random.default_rng(2).normal(size=(len(rows), 3, 4)).astype(np.float32)
    there, moved = rows_as_tensors(rows, tensor), tensor(features)
    lost, gradient = loss(chain, features, rows)
    found, slope = loss(chain_as_tensors(chain.astype(np.float32), tensor), moved, there)
    np.testing.assert_allclose(found, lost, rtol=1e-5)
    np.testing.assert_allclose(on_host(slope), gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())
    np.testing.assert_allclose(chain_error(chain, moved, there), chain_error(chain, features, rows), rtol=1e-5)


@pytest.mark.parametrize("channel", [None, 3])
def test_refinement(tensor: Tensor, channel: int | None) -> None:
    chain = random_chain(0, 5, 4, 3, 2, channel)
    rows = random_rows(1, 500, 5, act.relu(), residual=False, dtype=np.float32)
    features = np.random.default_rng(2).normal(size=(500, 3, 4)).astype(np.float32)
    penalty = RidgePenalty(np.zeros_like(chain.map), 0.01)
    wanted = refine(chain, features, rows, RefinementEffort(10), ridge=penalty).chain
    there = RidgePenalty(tensor(penalty.prior), penalty.weight)
    moved = chain_as_tensors(chain, tensor)
    found = refine(moved, tensor(features), rows_as_tensors(rows, tensor), RefinementEffort(10), ridge=there)
    found = found.chain.on_host()
    assert chain_error(wanted, features, rows) < 0.95 * chain_error(chain, features, rows)
    np.testing.assert_allclose(chain_error(found, features, rows), chain_error(wanted, features, rows), rtol=1e-3)


# Layers


def assert_solved_alike(
    tensor: Tensor, activation: Activation, plan: LayerPlan, solver: str = "auto", *, residual: bool = False
) -> None:
    """As good on the same rows: rounding sends the solver another way, but not far."""
    layer, responses = problem(activation, count=1000, residual=residual)
    wanted = solve_layer(layer, responses, plan, solver)
    there = LayerSamples(as_tensors(responses.targets, tensor), responses.patches)
    found = solve_layer(layer, there, plan, solver)
    np.testing.assert_allclose(found.errors.linear, wanted.errors.linear, rtol=1e-4)
    np.testing.assert_allclose(found.errors.solved, wanted.errors.solved, rtol=2e-3)
    for part, like in zip(found.convolutions, wanted.convolutions, strict=True):
        assert part.weight.dtype == np.float64
        assert part.weight.shape == like.weight.shape
        assert part.geometry == like.geometry
        assert (part.bias is None) == (like.bias is None)


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("case", ["identity", "relu", "relu6", "leaky_relu", "silu", "gelu", "hard_swish", "tanh"])
def test_layers_are_solved_as_well(tensor: Tensor, case: str, method: str) -> None:
    assert_solved_alike(tensor, ALL[case], PLANS[method])


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("solver", ["linear", "nonlinear", "weights", "paper"])
def test_by_every_solver(tensor: Tensor, solver: str, method: str) -> None:
    assert_solved_alike(tensor, act.relu(), PLANS[method], solver, residual=True)
