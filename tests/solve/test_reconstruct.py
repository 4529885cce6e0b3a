from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import Activation, hard_swish, identity, prelu, relu, silu
from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.layer import Geometry, Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.solve.layer import _of_all
from onnx_lowrank.solve.nonlinear import PENALTIES, Rows, activated_error, solve_nonlinear
from onnx_lowrank.solve.reconstruct import reconstruct
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver, fit_with
from onnx_lowrank.solve.truncated_svd import truncated_svd
from tests.example_layers import conv_layer
from tests.helpers import normal

Array = NDArray[np.float32]
FILTERS, PATCH = 12, 27


def problem(
    activation: Activation, count: int, seed: int = 0, *, residual: bool = False
) -> tuple[Rows, NDArray[np.float64], NDArray[np.float64]]:
    """Responses of a random layer whose inputs arrive slightly wrong, and the layer's filters and bias."""
    generator = np.random.default_rng(seed)
    weight, bias = generator.normal(size=(FILTERS, PATCH)), generator.normal(size=FILTERS)
    basis = generator.normal(size=(PATCH, PATCH)) * np.geomspace(3, 0.1, PATCH)
    patches = generator.normal(size=(count, PATCH)) @ basis.T
    arrived = patches + 0.1 * generator.normal(size=patches.shape)
    original, inputs = patches @ weight.T + bias, arrived @ weight.T + bias
    branch = generator.normal(size=original.shape).astype(np.float32) if residual else None
    targets = TargetResponses(original.astype(np.float32), branch)
    return Rows.of(targets, inputs.astype(np.float32), activation), weight, bias


@pytest.mark.parametrize(
    "activation", [relu(), prelu(np.full(FILTERS, 0.05)), silu(), hard_swish()], ids=lambda a: a.name
)
@pytest.mark.parametrize("residual", [False, True])
def test_nonlinear_beats_linear_after_the_activation(activation: Activation, residual: bool) -> None:
    rows, _, _ = problem(activation, 4000, residual=residual)
    moments = Moments.of(rows.inputs, rows.responses)
    solver = ReducedRankSolver(moments.gram, 0.001, np.eye(FILTERS))
    linear = fit_with(solver, moments, 5)
    solution = solve_nonlinear(rows, moments, linear, solver)
    assert solution.error < 0.995 * activated_error(rows, linear)
    assert solution.factors.P.shape == (FILTERS, 5)
    # The error it states is the error it has, computed here in plain numpy.
    offset = 0 if rows.offset is None else rows.offset
    predicted = rows.inputs @ (solution.factors.P @ solution.factors.Q).T + solution.factors.offset + offset
    wanted = activation(rows.responses + offset)
    plain = np.linalg.norm(activation(predicted) - wanted) / np.linalg.norm(wanted)
    np.testing.assert_allclose(solution.error, plain, rtol=1e-4)


def test_a_constant_residual_is_the_same_problem_as_responses_moved_by_it() -> None:
    rows, _, _ = problem(relu(), 2000)
    constant = np.full_like(rows.responses, -6)
    errors = []
    for targets in (TargetResponses(rows.responses, constant), TargetResponses(rows.responses + constant)):
        moved = Rows.of(targets, rows.inputs, relu())
        moments = Moments.of(moved.inputs, moved.responses)
        solver = ReducedRankSolver(moments.gram, 0.001, np.eye(FILTERS))
        linear = fit_with(solver, moments, 4)
        solution = solve_nonlinear(moved, moments, linear, solver)
        assert solution.error < 0.99 * activated_error(moved, linear)
        errors.append(solution.error)
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4)


@pytest.mark.parametrize("residual", [False, True])
def test_relu_solution_is_near_a_local_optimum_of_the_true_objective(residual: bool) -> None:
    """Gradient descent on the unrelaxed objective, an independent method, finds little left to gain."""
    rows, _, _ = problem(relu(), 3000)
    if residual:  # as large as the responses, so that it decides which elements are active
        branch = (8 * np.random.default_rng(5).normal(size=rows.inputs.shape)).astype(np.float32)
        rows = Rows.of(TargetResponses(rows.responses, branch), rows.inputs, relu())
    moments = Moments.of(rows.inputs, rows.responses)
    solver = ReducedRankSolver(moments.gram, 0.0, np.eye(FILTERS))
    linear = fit_with(solver, moments, 4)
    found = solve_nonlinear(rows, moments, linear, solver).factors
    x, target = rows.inputs.astype(np.float64), rows.targets.astype(np.float64)
    shift = 0 if rows.offset is None else rows.offset.astype(np.float64)
    p, q, offset = found.P.copy(), found.Q.copy(), found.offset.copy()
    start = np.square(np.maximum(x @ (p @ q).T + offset + shift, 0) - target).sum()
    step = 0.1 / np.linalg.eigvalsh(x.T @ x)[-1]
    for _ in range(300):
        hidden = x @ q.T
        response = hidden @ p.T + offset + shift
        error = np.where(response > 0, response - target, 0)
        gradient_p, gradient_q = error.T @ hidden, (error @ p).T @ x
        p, q, offset = p - step * gradient_p, q - step * gradient_q, offset - step * error.sum(0)
    end = np.square(np.maximum(x @ (p @ q).T + offset + shift, 0) - target).sum()
    assert end > 0.97 * start


def test_data_free_factors_are_taken_where_the_rows_are_too_few(caplog: pytest.LogCaptureFixture) -> None:
    # Filters of rank 4 lose nothing without data; twelve noisy rows can only mislead.
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(FILTERS, 4)) @ generator.normal(size=(4, PATCH)), np.zeros(FILTERS)
    original = generator.normal(size=(12, PATCH)) @ weight.T
    inputs = original + 4 * generator.normal(size=original.shape)
    rows = Rows.of(TargetResponses(original.astype(np.float32)), inputs.astype(np.float32), relu())
    data_free = truncated_svd(weight, bias, 4)
    solved = reconstruct(rows, np.eye(FILTERS), data_free)
    assert solved.factors is data_free
    assert solved.errors.linear == solved.errors.solved
    assert solved.reason is not None
    assert solved.reason.startswith("data-free won on held-out rows: relative error 0.1853, 0.2812 when")
    assert "too few samples" in caplog.text


def test_at_full_rank_the_samples_are_not_to_blame(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(FILTERS, PATCH))
    original = generator.normal(size=(12, PATCH)) @ weight.T
    inputs = original + 4 * generator.normal(size=original.shape)
    inputs[-2:] = original[-2:]  # only the rows that are held out are right
    rows = Rows.of(TargetResponses(original.astype(np.float32)), inputs.astype(np.float32), relu())
    solved = reconstruct(rows, np.eye(FILTERS), truncated_svd(weight, np.zeros(FILTERS), FILTERS))
    assert solved.reason is not None
    assert solved.reason.startswith("full rank: the layer's own weights did better on held-out rows: relative error ")
    assert caplog.text == ""


def test_never_worse_than_linear_on_the_calibration_rows() -> None:
    for seed in range(5):
        rows, weight, bias = problem(relu(), 60, seed)
        data_free = truncated_svd(weight, bias, 4)
        for solver in ("auto", "nonlinear"):
            errors = reconstruct(rows, np.eye(FILTERS), data_free, solver=solver).errors
            assert errors.solved <= errors.linear


def test_few_rows_never_lose_to_the_data_free_factors_on_held_out_rows() -> None:
    unseen, weight, bias = problem(relu(), 4000, seed=100)
    for count in (4, 15, 40):
        rows, _, _ = problem(relu(), count, seed=100)
        data_free = truncated_svd(weight, bias, 6)
        solved = reconstruct(rows, np.eye(FILTERS), data_free)
        assert activated_error(unseen, solved.factors) <= 1.05 * activated_error(unseen, data_free)


def test_solvers_by_name() -> None:
    rows, weight, bias = problem(relu(), 3000)
    data_free = truncated_svd(weight, bias, 5)
    errors = {
        name: reconstruct(rows, np.eye(FILTERS), data_free, solver=name).errors.solved
        for name in ("weights", "linear", "nonlinear", "auto")
    }
    assert errors["weights"] > errors["linear"] > errors["nonlinear"]
    np.testing.assert_allclose(errors["auto"], errors["nonlinear"], rtol=0.02)


def test_without_activation_the_linear_solution_is_final() -> None:
    rows, weight, bias = problem(identity(), 2000)
    solved = reconstruct(rows, np.eye(FILTERS), truncated_svd(weight, bias, 5))
    assert solved.errors.linear == solved.errors.solved
    assert solved.reason is None


def test_full_rank_chain_is_the_layer() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(8, 3, 3, 3)), generator.normal(size=8)
    layer = Layer(
        name="conv",
        op="Conv",
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        geometry=Geometry((1, 1), (1, 1), (1, 1, 1, 1)),
        activation=relu(),
        input="x",
        response="y",
        residual=None,
        nodes=("y",),
        positions=(4, 4),
        input_size=(4, 4),
    )
    patches = generator.normal(size=(500, 27))
    rows = (patches @ weight.reshape(8, 27).T + bias).astype(np.float32)
    responses = LayerSamples(TargetResponses(rows), patches.reshape(-1, 3, 3, 3).astype(np.float32))
    factors = solve_layer(layer, responses, LayerPlan("conv", "channel", 8))
    first, second = factors.convolutions
    product = second.weight[:, :, 0, 0] @ first.weight.reshape(8, 27)
    np.testing.assert_allclose(product, layer.weight.reshape(8, 27), atol=1e-5)
    assert first.bias is None
    assert second.bias is not None
    np.testing.assert_allclose(second.bias, layer.bias, atol=1e-5)
    assert first.geometry == layer.geometry
    assert second.geometry.pads == (0, 0, 0, 0)


def test_a_silent_group_does_not_spoil_the_error_of_all() -> None:
    """Its relative error is infinite where its factors respond to anything, but it has no size."""
    errors = [SolveErrors(0.3, 0.1), SolveErrors(inf, inf)]
    assert _of_all(errors, [2.0, 0.0]) == SolveErrors(0.3, 0.1)
    assert _of_all(errors[1:], [0.0]) == SolveErrors(0.0, 0.0)


def test_groups_that_fall_back_to_the_weights_say_why() -> None:
    layer = replace(conv_layer(6, 2, (3, 3), (8, 8)), groups=2)
    responses = LayerSamples(TargetResponses(normal(0, 7, 6)), normal(1, 7, 4, 3, 3))
    reason = "too few rows: 7, at least 10 are needed"
    for plan in (LayerPlan("conv", "channel", 2), LayerPlan("conv", "spatial", spatial=2)):
        assert solve_layer(layer, responses, plan).reason == f"group 0: {reason}; group 1: {reason}"
        assert solve_layer(layer, responses, plan, "weights").reason is None


def test_the_error_of_targets_that_are_all_zero() -> None:
    rows, _, _ = problem(relu(), 50)
    silent = Rows.of(TargetResponses(np.full((50, FILTERS), -1, np.float32)), rows.inputs, relu())
    zero, unit = np.zeros((FILTERS, 1)), np.ones((FILTERS, 1))
    assert activated_error(silent, RankFactors(zero, zero.T, np.zeros(FILTERS))) == 0
    assert activated_error(silent, RankFactors(unit, zero.T, np.ones(FILTERS))) == float("inf")


@pytest.mark.parametrize("turns", [(1, 0), (2, 0), (1, 1)])
def test_as_many_turns_are_taken_as_asked_for(turns: tuple[int, int]) -> None:
    """Every turn of this problem lowers the error: one less would be seen."""
    rows, _, _ = problem(relu(), 2000)
    moments = Moments.of(rows.inputs, rows.responses)
    solver = ReducedRankSolver(moments.gram, 0.001, np.eye(FILTERS))
    linear = fit_with(solver, moments, 3)
    wanted = (*turns, *(0,) * (len(PENALTIES) - 2))
    assert solve_nonlinear(rows, moments, linear, solver, turns=wanted).turns == wanted
