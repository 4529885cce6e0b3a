"""Factors in half precision: nothing that the type can hold is lost; channels are balanced where they need it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from onnx_lowrank import LayerPlan, RankPlan, convert
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.typed_factors import rounding_loss, typed, typed_weights
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.runtime.network import open_network
from tests.helpers import CPU, Array, build, filters, find, normal, relative, run
from tests.networks import images

EPS = {np.float16: 2.0**-10, ml_dtypes.bfloat16: 2.0**-7}


def layer_of(dtype: Any) -> Layer:
    """Any layer of a float type; only its type matters here."""
    model = build("g (float[N,3,8,8] x) => (float[N,4,8,8] y) { y = Conv(x, w) }", {"w": filters(0, 4, 3, 1, 1)})
    (layer,), _ = find(model, {"x": normal(1, 1, 3, 8, 8)})
    return replace(layer, weight=layer.weight.astype(dtype))


def chain(*weights: Array, groups: int = 1) -> FactorChain:
    geometry = pointwise(2)
    return FactorChain(
        tuple(Convolution(weight.astype(np.float64), None, geometry, groups) for weight in weights),
        SolveErrors(0.0, 0.0),
    )


def product(weights: list[Array], groups: int = 1) -> Array:
    """What a chain of 1 x 1 convolutions computes as one matrix per group, in float64, by plain loops over groups."""
    parts = []
    for group in range(groups):
        matrix = np.eye(weights[0].shape[1])
        for weight in weights:
            rows = len(weight) // groups
            matrix = weight[group * rows : (group + 1) * rows, :, 0, 0].astype(np.float64) @ matrix
        parts.append(matrix)
    return np.concatenate(parts)


@pytest.mark.parametrize("dtype", EPS)
def test_half_precision_keeps_its_subnormal_numbers(dtype: Any) -> None:
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    numbers = np.array([3 * smallest, -smallest, 0.0, 1.0])
    assert typed(layer_of(dtype), numbers).astype(np.float64).tolist() == numbers.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_types_lose_theirs_and_are_not_balanced(dtype: Any) -> None:
    tiny = float(np.finfo(dtype).tiny)
    assert typed(layer_of(dtype), np.array([tiny / 2, tiny])).tolist() == [0, tiny]
    first, second = 1e-20 * normal(1, 2, 3, 1, 1), 1e20 * normal(2, 4, 2, 1, 1)
    for weight, exact in zip(typed_weights(layer_of(dtype), chain(first, second)), (first, second), strict=True):
        assert weight.tobytes() == exact.astype(dtype).tobytes()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("small", [1e-7, 3e-6, 1e-8])
@pytest.mark.parametrize("front", [True, False])
def test_small_factors_keep_the_digits_of_the_type(groups: int, small: float, *, front: bool) -> None:
    first, second = normal(1, 4 * groups, 5, 1, 1).astype(float), normal(2, 6 * groups, 4, 1, 1).astype(float)
    first, second = (first * small, second) if front else (first, second * small)
    factors = chain(first, second, groups=groups)
    weights = typed_weights(layer_of(np.float16), factors)
    assert {weight.dtype for weight in weights} == {np.dtype(np.float16)}
    assert relative(product([first, second], groups), product(weights, groups)) < EPS[np.float16]
    assert rounding_loss(layer_of(np.float16), factors) < 1


def test_only_channels_that_lose_digits_are_scaled_and_by_powers_of_two() -> None:
    first, second = normal(1, 3, 5, 1, 1).astype(float), normal(2, 6, 3, 1, 1).astype(float)
    first[1] *= 1e-7
    weights = typed_weights(layer_of(np.float16), chain(first, second))
    for channel in (0, 2):
        assert weights[0][channel].tobytes() == first[channel].astype(np.float16).tobytes()
        assert weights[1][:, channel].tobytes() == second[:, channel].astype(np.float16).tobytes()
    scale = np.abs(weights[0][1]).max() / np.abs(first[1]).max()
    assert np.log2(scale) == pytest.approx(12, abs=1.01)  # the root of 1e7, and rounded


def test_a_middle_factor_is_balanced_with_both_neighbours() -> None:
    parts = [normal(1, 4, 5, 1, 1) * 1e-4, normal(2, 3, 4, 1, 1) * 1e-6, normal(3, 6, 3, 1, 1) * 1e3]
    weights = typed_weights(layer_of(np.float16), chain(*parts))
    assert relative(product(parts), product(weights)) < 2 * EPS[np.float16]


def test_a_factor_beyond_the_type_is_balanced_too() -> None:
    first, second = normal(1, 3, 5, 1, 1) * 1e-4, normal(2, 6, 3, 1, 1) * 1e6
    weights = typed_weights(layer_of(np.float16), chain(first, second))
    assert relative(product([first, second]), product(weights)) < EPS[np.float16]
    with pytest.raises(ModelError, match="does not fit float16"):
        typed_weights(layer_of(np.float16), chain(first * 1e9, second))


def test_zero_channels_stay_zero() -> None:
    first, second = normal(1, 3, 5, 1, 1) * 1e-7, normal(2, 6, 3, 1, 1)
    first[0] = 0
    second[:, 2] = 0
    weights = typed_weights(layer_of(np.float16), chain(first, second))
    assert not weights[0][0].any()
    assert not weights[1][:, 2].any()
    assert np.isfinite(weights[1].astype(np.float64)).all()


def scaled_network(op: str, opset: int = 17) -> Any:
    """float16; a constant scale behind the second layer, which a norm in float32 undoes."""
    half, single = (helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in (np.float16, np.float32))
    body = {
        "Conv": "c = Conv <pads = [1, 1, 1, 1]> (a, w2)  s = Mul (c, down)",
        "MatMul": "t = Transpose <perm = [0, 2, 3, 1]> (a)  m = MatMul (t, w2)  u = Mul (m, down)"
        "  s = Transpose <perm = [0, 3, 1, 2]> (u)",
    }[op]
    weights = {
        "w1": filters(0, 16, 3, 3, 3),
        "w2": filters(1, 24, 16, 3, 3) if op == "Conv" else normal(1, 16, 24) / 4,
        "down": np.array(2.0**-13),
    }
    model = build(
        f"""g (float16[N,3,8,8] x) => (float16[N,24,8,8] y) {{
            b = Conv <pads = [1, 1, 1, 1]> (x, w1)  a = Relu (b)  {body}
            wide = Cast <to = {single}> (s)
            norm = InstanceNormalization <epsilon = 1e-14> (wide, one, zero)
            y = Cast <to = {half}> (norm)
        }}""",
        {name: values.astype(np.float16) for name, values in weights.items()}
        | {"one": np.ones(24, np.float32), "zero": np.zeros(24, np.float32)},
        opset=opset,
    )
    model.graph.node[2 if op == "Conv" else 3].name = "scaled"
    return model


@pytest.mark.parametrize(("op", "opset"), [("Conv", 11), ("Conv", 20), ("MatMul", 17)])
def test_a_scaled_down_layer_in_float16_is_reproduced_at_full_rank(op: str, opset: int) -> None:
    model, x = scaled_network(op, opset), images(40, size=8).astype(np.float16)
    plan = RankPlan((LayerPlan("scaled", "channel", channel=24),))
    converted = convert(model, {"x": x}, plan=plan, solver="linear", bench=False).model
    assert converted is not None
    before, after = (run(each, {"x": x[:8]})["y"] for each in (model, converted))
    assert relative(before, after) < 3e-3  # what is left is the rounding of the scaled response itself


def test_factors_that_no_balance_saves_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    first, second = normal(1, 3, 5, 1, 1) * 1e-7, normal(2, 6, 3, 1, 1) * 1e-7
    assert rounding_loss(layer_of(np.float16), chain(first, second)) > 100
    feeds = {"x": images(1, size=8).astype(np.float16)}
    network = open_network(scaled_network("Conv"), CPU, {})
    layer = next(layer for layer in network.layers(feeds).eligible if layer.name == "scaled")
    good, bad = (chain(size * filters(2, 3, 16, 3, 3), size * normal(3, 24, 3, 1, 1)) for size in (1e-2, 1e-7))
    with caplog.at_level(logging.WARNING):
        network.with_factors([(layer, good)], feeds)
        assert not caplog.records
        network.with_factors([(layer, bad)], feeds)
    (record,) = caplog.records
    assert record.message.startswith("Conv 'scaled': its factors lose ")
    assert "times the precision of float16" in record.message
