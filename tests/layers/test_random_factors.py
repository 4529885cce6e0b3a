"""Chains of random weights, against those that solving makes and what onnxruntime makes of them."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.graph import layer_model, replace_layer
from onnx_lowrank.layers.activation import relu
from onnx_lowrank.layers.cost import chain_macs, chain_parameters
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import METHODS, LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.solve import solve_layer
from tests.example_layers import conv_geometries, conv_layer
from tests.helpers import Array, build, filters, find, normal, run

METHODS_THAT_FACTORIZE = METHODS[1:]
FILTERS, CHANNELS = 6, 4


def planned(layer: Layer, method: str, channel: int, spatial: int) -> LayerPlan:
    wanted, largest = {"channel": channel, "spatial": spatial, "input": spatial}, largest_ranks(layer)
    return LayerPlan(layer.name, method, **{kind: min(wanted[kind], largest[kind]) for kind in rank_kinds(method)})


def solved(layer: Layer, plan: LayerPlan) -> FactorChain:
    """The chain that solving makes, from random rows."""
    patches = normal(1, 40, layer.channels, *layer.kernel)
    responses = patches.reshape(40, -1) @ layer.weight.reshape(layer.filters, -1).T + layer.bias
    with one_thread():
        return solve_layer(layer, LayerSamples(TargetResponses(responses), patches), plan, "weights")


def check_like(found: FactorChain, wanted: FactorChain) -> None:
    for mine, theirs in zip(found.convolutions, wanted.convolutions, strict=True):
        assert mine.weight.shape == theirs.weight.shape
        assert mine.geometry == theirs.geometry
        assert (mine.bias is None) == (theirs.bias is None)
        if mine.bias is not None and theirs.bias is not None:
            assert mine.bias.shape == theirs.bias.shape


@settings(deadline=None, max_examples=60)
@given(
    conv_geometries(),
    st.sampled_from(METHODS_THAT_FACTORIZE),
    st.integers(1, FILTERS),
    st.integers(1, CHANNELS * 5),
)
def test_shapes_and_geometries_are_those_of_the_solved_chain(
    geometry: tuple[str, tuple[int, int], tuple[int, int]], method: str, channel: int, spatial: int
) -> None:
    attributes, kernel, size = geometry
    model = build(
        f"""g (float[N,{CHANNELS},{size[0]},{size[1]}] x) => (float[N,{FILTERS},h,v] y)
            {{ y = Conv<{attributes}>(x, w, b) }}""",
        {"w": filters(0, FILTERS, CHANNELS, *kernel), "b": normal(2, FILTERS)},
    )
    x = normal(1, 2, CHANNELS, *size)
    (layer,), _ = find(model, {"x": x})
    plan = planned(layer, method, channel, spatial)
    factors = random_factors(layer, plan)
    check_like(factors, solved(layer, plan))
    before = run(model, {"x": x})["y"]
    replace_layer(model, layer, factors)
    after = run(model, {"x": x})["y"]
    assert after.shape == before.shape
    assert np.isfinite(after).all()
    # Alone, it makes the pooled activation of the same chain, its input's size being as recorded.
    (alone,) = run(layer_model(layer, factors, 2), {"input": x}).values()
    np.testing.assert_allclose(alone, np.maximum(after, 0).mean(axis=(2, 3), keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_chain_costs_what_is_planned(method: str) -> None:
    layer = conv_layer(24, 16, (3, 5), (10, 8), strides=(2, 1))
    plan = planned(layer, method, 5, 7)
    factors = random_factors(layer, plan)
    weights = sum(convolution.weight.size for convolution in factors.convolutions)
    assert weights + layer.filters == chain_parameters(layer, plan)
    heights = {
        "kept": [5], "channel": [5, 5], "spatial": [5, 5], "spatial-channel": [5, 5, 5], "input": [10, 5],
        "tucker": [10, 5, 5],
    }[method]  # fmt: skip
    widths = [8] * len(heights)
    macs = [h * w * c.weight.size for h, w, c in zip(heights, widths, factors.convolutions, strict=True)]
    assert sum(macs) == chain_macs(layer, plan)


def test_a_layer_that_is_kept_is_one_convolution_of_its_own_shape() -> None:
    layer = conv_layer(24, 16, (3, 5), (10, 8), strides=(2, 1))
    (convolution,) = random_factors(layer, LayerPlan("conv")).convolutions
    assert convolution.weight.shape == layer.weight.shape
    assert convolution.geometry == layer.geometry
    assert convolution.bias is not None


def test_the_same_every_time() -> None:
    layer = conv_layer(24, 16, (3, 3), (8, 8))
    plan = planned(layer, "spatial-channel", 5, 7)
    for one, other in zip(
        random_factors(layer, plan).convolutions, random_factors(layer, plan).convolutions, strict=True
    ):
        np.testing.assert_array_equal(one.weight, other.weight)


@pytest.mark.parametrize("method", METHODS)
def test_what_passes_through_many_stand_ins_neither_fades_away_nor_overflows(method: str) -> None:
    """Numbers below 1e-38 are slow; infinite ones are no numbers."""
    layer = conv_layer(64, 64, (3, 3), (6, 6))
    factors = random_factors(layer, planned(layer, method, 16, 16))
    x: Array = np.abs(normal(0, 1, 64, 6, 6))
    begin = float(np.sqrt(np.mean(x**2)))
    model = build(
        "g (float[N,64,6,6] x) => (float[N,64,6,6] y) { c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }",
        {"w": layer.weight},
    )
    (found,), _ = find(model, {"x": x})
    replace_layer(model, found, factors)
    for _ in range(30):
        (x,) = run(model, {"x": x}).values()
    assert 1e-12 < float(np.sqrt(np.mean(x**2))) / begin < 1e12


@pytest.mark.parametrize("size", [1, 9972, 9973, 9974, 100_000])
def test_weights_are_spread_as_normal_noise_whatever_their_number(size: int) -> None:
    layer = Layer(
        name="conv",
        op="Conv",
        weight=np.zeros((size, 1, 1, 1), np.float32),
        bias=np.zeros(size, np.float32),
        geometry=conv_layer(1, 1, (1, 1), (1, 1)).geometry,
        activation=relu(),
        input="x",
        response="y",
        residual=None,
        nodes=("y",),
        positions=(1, 1),
        input_size=(1, 1),
    )
    (convolution,) = random_factors(layer, LayerPlan("conv")).convolutions
    assert convolution.weight.shape == (size, 1, 1, 1)
    assert np.isfinite(convolution.weight).all()
    if size > 1:
        fan_in = prod(convolution.weight.shape[1:])
        assert float(np.std(convolution.weight)) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
