"""Whole maps refined behind the activation: near the least error, accepted only where rows held out confirm it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from onnx_lowrank.layers.activation import identity, relu
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.solve.activated_map import AffineMap, refined_map
from onnx_lowrank.solve.nonlinear import Rows

Floats = NDArray[np.float32]
INPUTS, OUTPUTS = 6, 4


def drawn(count: int, seed: int, *, noise: float, residual: bool = False) -> Rows:
    """Return rows of a map behind ReLU that is mostly cut off, whose inputs are noisy, in no order."""
    generator = np.random.default_rng(seed)
    weight = np.random.default_rng(99).normal(size=(INPUTS, OUTPUTS))
    inputs = generator.normal(size=(count, INPUTS))
    responses = (inputs @ weight - 2).astype(np.float32)
    added = generator.normal(size=responses.shape).astype(np.float32) if residual else None
    noisy = (inputs + noise * generator.normal(size=inputs.shape)).astype(np.float32)
    return Rows.of(TargetResponses(responses, added), noisy, relu())


def linear_map(rows: Rows) -> tuple[AffineMap, NDArray[np.float64]]:
    """Return the least-squares map of the responses, and the Gram matrix."""
    moments = Moments.of(rows.inputs, rows.responses)
    weight = np.linalg.solve(moments.gram, moments.cross.T)
    return AffineMap(weight, moments.target_mean - moments.input_mean @ weight), moments.gram


@pytest.mark.parametrize("residual", [False, True])
def test_nearly_the_least_error_is_found(*, residual: bool) -> None:
    """SciPy minimizes the same error on the same rows."""
    rows = drawn(10_000, 1, noise=1.0, residual=residual)
    start, gram = linear_map(rows)
    found = refined_map(start, rows, gram, ridge=1e-4)
    offset = 0.0 if rows.offset is None else rows.offset

    def error(x: NDArray[np.float64]) -> float:
        weight, bias = x[:-OUTPUTS].reshape(INPUTS, OUTPUTS), x[-OUTPUTS:]
        return float(np.sum((np.maximum(rows.inputs @ weight + bias + offset, 0) - rows.targets) ** 2))

    vectors = [np.concatenate([each.weight.ravel(), each.bias]) for each in (start, found)]
    before, after = map(error, vectors)
    least = minimize(error, vectors[1], method="L-BFGS-B", options={"maxfun": 20_000}).fun
    assert found.error(rows) == pytest.approx(after, rel=1e-4)
    assert least < 0.95 * before
    assert after < least + 0.05 * (before - least)


def test_nothing_is_refined_where_nothing_bends() -> None:
    rows = drawn(500, 3, noise=1.0)
    start, gram = linear_map(rows)
    straight = Rows(rows.inputs, rows.responses, rows.responses, None, identity())
    assert refined_map(start, straight, gram, ridge=1.0) is start


def test_what_rows_held_out_do_not_confirm_is_not_taken() -> None:
    """Targets of the last rows come from the start itself, those of the others from something else."""
    rows = drawn(1000, 4, noise=0.0)
    generator = np.random.default_rng(5)
    start = AffineMap(generator.normal(size=(INPUTS, OUTPUTS)), generator.normal(size=OUTPUTS))
    own = np.asarray(rows.inputs @ start.weight + start.bias, np.float32)
    responses = np.concatenate([rows.responses[:800], own[800:]])
    mixed = Rows.of(TargetResponses(responses), rows.inputs, relu())
    _, gram = linear_map(mixed)
    assert refined_map(start, mixed, gram, ridge=1e-3) is start


def test_an_endless_ridge_leaves_a_gain_and_a_shift_to_every_output() -> None:
    rows = drawn(1000, 6, noise=1.0)
    start, gram = linear_map(rows)
    found = refined_map(start, rows, gram, ridge=1e8)
    gains = found.weight / start.weight
    np.testing.assert_allclose(gains, np.broadcast_to(gains[0], gains.shape), rtol=1e-4)
    assert found.error(rows) < 0.95 * start.error(rows)
