"""Layers as models of their own, run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_lowrank.graph import layer_model
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.plan import METHODS, LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.network import count_macs
from onnx_lowrank.runtime.session import Session
from tests.example_layers import conv_layer
from tests.helpers import CPU, filters, normal, relative, run

RANKS: dict[str, dict[str, int]] = {
    "kept": {},
    "channel": {"channel": 4},
    "spatial": {"spatial": 6},
    "spatial-channel": {"channel": 4, "spatial": 6},
    "input": {"input": 3},
    "tucker": {"channel": 4, "input": 3},
}


def itself(layer: Layer) -> FactorChain:
    """A chain of one: the layer as it is."""
    convolution = Convolution(layer.weight.astype(np.float64), layer.bias.astype(np.float64), layer.geometry)
    return FactorChain((convolution,), SolveErrors(0.0, 0.0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_chain_with_its_neighbours(method: str, batch: int) -> None:
    layer = conv_layer(12, 8, (3, 5), (9, 10), strides=(2, 1))
    model = layer_model(layer, random_factors(layer, LayerPlan("conv", method, **RANKS[method])), batch)
    length = len(RANKS[method]) + 1
    assert [node.op_type for node in model.graph.node] == [*["Conv"] * length, "Relu", "GlobalAveragePool"]
    (spec,) = Session(model, CPU).inputs
    assert (spec.name, spec.shape) == ("input", (batch, 8, 9, 10))
    (output,) = run(model, {"input": np.abs(normal(0, batch, 8, 9, 10))}).values()
    assert output.shape == (batch, 12, 1, 1)
    assert np.isfinite(output).all()
    assert output.any()


def test_it_computes_what_the_layer_does() -> None:
    layer = replace(conv_layer(12, 8, (3, 3), (6, 7)), weight=filters(0, 12, 8, 3, 3))
    x = normal(1, 2, 8, 6, 7)
    (found,) = run(layer_model(layer, itself(layer), 2), {"input": x}).values()
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    response = np.einsum("nchwij,dcij->ndhw", windows, layer.weight) + layer.bias[:, None, None]
    assert relative(np.maximum(response, 0).mean(axis=(2, 3), keepdims=True), found) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_it_has_the_multiply_adds_of_the_chain(method: str) -> None:
    layer = conv_layer(12, 8, (3, 3), (9, 10))
    model = layer_model(layer, random_factors(layer, LayerPlan("conv", method, **RANKS[method])), 2)
    found = count_macs(model, {"input": normal(0, 2, 8, 9, 10)}, CPU)
    per_position = {
        "kept": 12 * 8 * 9,
        "channel": 4 * 8 * 9 + 12 * 4,
        "spatial": 6 * 8 * 3 + 12 * 6 * 3,
        "spatial-channel": 6 * 8 * 3 + 4 * 6 * 3 + 12 * 4,
        "input": 3 * 8 + 12 * 3 * 9,
        "tucker": 3 * 8 + 4 * 3 * 9 + 12 * 4,
    }
    assert found == 90 * per_position[method]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_layers_own_float_type(dtype: Any) -> None:
    layer = conv_layer(12, 8, (3, 3), (6, 6))
    layer = replace(layer, weight=layer.weight.astype(dtype), bias=layer.bias.astype(dtype))
    model = layer_model(layer, random_factors(layer, LayerPlan("conv", "channel", channel=4)), 1)
    assert {numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer} == {np.dtype(dtype)}
    (output,) = run(model, {"input": normal(0, 1, 8, 6, 6, dtype=dtype)}).values()
    assert output.dtype == dtype
    assert np.isfinite(output).all()


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize(("plan", "rows"), [(LayerPlan("fc", "kept"), 1), (LayerPlan("fc", "channel", channel=4), 5)])
def test_a_fully_connected_layer(op: str, plan: LayerPlan, rows: int) -> None:
    """As it is too, which is one Gemm in a network."""
    weight, bias = normal(0, 12, 8, 1), normal(1, 12)
    layer = replace(
        conv_layer(12, 8, (1, 1), (rows, 1)),
        **{"op": op, "weight": weight, "bias": bias, "geometry": pointwise(1), "channels_last": True},
        **{"input_size": (rows,), "positions": (rows,)},
    )
    factors = itself(layer) if plan.method == "kept" else random_factors(layer, plan)
    x = normal(2, 3, rows, 8)
    (found,) = run(layer_model(layer, factors, 3), {"input": x}).values()
    assert found.shape == (3, rows, 1)
    if plan.method == "kept":
        response = x @ weight[:, :, 0].T + bias
        assert relative(np.maximum(response, 0).mean(axis=2, keepdims=True), found) < 1e-5
