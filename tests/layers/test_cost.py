from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_lowrank as olr
from onnx_lowrank.layers.chain_shapes import chain_shapes
from onnx_lowrank.layers.cost import EndShares, chain_macs, chain_parameters
from onnx_lowrank.layers.plan import FACTORIZATIONS, LayerPlan, rank_kinds
from tests.example_layers import conv_layer
from tests.helpers import build

# (filters, channels, side of the map) of VGG-16's convolutions at 224 x 224.
VGG16 = [
    *[(64, 3, 224), (64, 64, 224), (128, 64, 112), (128, 128, 112), (256, 128, 56), (256, 256, 56), (256, 256, 56)],
    *[(512, 256, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14)],
]
RANKS = [17, 37, 47, 83, 89, 106, 175, 192, 227, 398, 390, 379]


def test_vgg16_with_published_ranks_costs_a_quarter() -> None:
    layers = [conv_layer(d, c, (3, 3), (side, side), name=str(n)) for n, (d, c, side) in enumerate(VGG16)]
    before = sum(layer.macs for layer in layers)
    assert round(before / 1e9, 2) == 15.35
    after = layers[0].macs + sum(
        chain_macs(layer, LayerPlan(layer.name, "spatial-channel", rank, rank))
        for layer, rank in zip(layers[1:], RANKS, strict=True)
    )
    assert before / after == pytest.approx(4.00, abs=0.005)


def test_channel_chain_counts_the_last_convolution() -> None:
    layer = conv_layer(8, 6, (3, 5), (10, 12), strides=(2, 1))
    plan = LayerPlan("conv", "channel", 3)
    assert layer.macs == 5 * 12 * 8 * 6 * 15
    assert chain_macs(layer, plan) == 5 * 12 * (3 * 6 * 15 + 8 * 3)
    assert chain_parameters(layer, plan) == 3 * 6 * 15 + 8 * 3 + 8


def test_spatial_chains_stride_one_axis_at_a_time() -> None:
    layer = conv_layer(8, 6, (3, 5), (10, 12), strides=(2, 2))
    vertical = 5 * 12 * 4 * 6 * 3
    assert chain_macs(layer, LayerPlan("conv", "spatial", None, 4)) == vertical + 5 * 6 * 8 * 4 * 5
    plan = LayerPlan("conv", "spatial-channel", 3, 4)
    assert chain_macs(layer, plan) == vertical + 5 * 6 * (3 * 4 * 5 + 8 * 3)
    assert chain_parameters(layer, plan) == 4 * 6 * 3 + 3 * 4 * 5 + 8 * 3 + 8


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_counts_in_closed_form(
    groups: int, filters: int, inputs: int, kernel: tuple[int, int], size: tuple[int, int], stride: int, c: int, s: int
) -> None:
    layer = replace(conv_layer(groups * filters, inputs, kernel, size, strides=(stride, stride)), groups=groups)
    pixels, (kh, kw) = prod(layer.positions), kernel
    vertical, whole, last = groups * s * inputs * kh, groups * c * inputs * kh * kw, groups * filters * c
    counts = {
        LayerPlan("conv", "channel", c): (pixels * (whole + last), whole + last),
        LayerPlan("conv", "spatial", None, s): (
            layer.positions[0] * size[1] * vertical + pixels * groups * filters * s * kw,
            vertical + groups * filters * s * kw,
        ),
        LayerPlan("conv", "spatial-channel", c, s): (
            layer.positions[0] * size[1] * vertical + pixels * (groups * c * s * kw + last),
            vertical + groups * c * s * kw + last,
        ),
    }
    for plan, (macs, weights) in counts.items():
        assert chain_macs(layer, plan) == macs
        assert chain_parameters(layer, plan) == weights + layer.filters


def test_shares_of_the_ends_are_those_of_the_convolutions_of_the_chain() -> None:
    layer = conv_layer(8, 6, (3, 5), (10, 12), strides=(2, 1))
    shares_of = EndShares(layer)
    for rank, other in ((3, 4), (1, 1), (5, 6)):  # one after the other, since some of it is kept
        for method in ("kept", *FACTORIZATIONS):
            ranks = {"channel": rank, "spatial": other, "input": other}
            plan = LayerPlan("conv", method, **{kind: ranks[kind] for kind in rank_kinds(method)})
            counts = [prod(each.weight) * prod(each.work_size) for each in chain_shapes(layer, plan)]
            assert shares_of(plan) == (counts[0] / sum(counts), counts[-1] / sum(counts))


def test_kept_costs_what_it_did() -> None:
    layer = conv_layer(8, 6, (3, 3), (10, 12))
    assert chain_macs(layer, LayerPlan("conv")) == layer.macs
    assert chain_parameters(layer, LayerPlan("conv")) == layer.parameters == 8 * 6 * 9 + 8


def test_a_factorized_layer_without_rank_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="has no rank"):
        chain_macs(conv_layer(4, 4, (3, 3), (4, 4)), LayerPlan("conv", "channel"))


def test_model_counts_conv_gemm_and_matmul_per_image() -> None:
    graph = """g (float[2, 3, 8, 8] x) => (float[2, 5] y) {
        c = Conv (x, w)
        flat = Flatten (c)
        h = MatMul (flat, m)
        y = Gemm <transB = 1> (h, f, b)
    }"""
    shapes = {"w": (4, 3, 3, 3), "m": (144, 6), "f": (5, 6), "b": (5,)}
    model = build(graph, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    inspection = olr.inspect(model)
    assert [row.macs for row in inspection.rows] == [36 * 4 * 27, 144 * 6, 6 * 5]
    assert inspection.parameters == 4 * 27 + 144 * 6 + 30 + 5


def test_rows_folded_into_the_first_axis_are_still_one_image() -> None:
    graph = """g (float[N, 6, 4] x) => (float[M, 5] y) {
        rows = Reshape (x, shape)
        y = MatMul (rows, m)
    }"""
    model = build(graph, {"shape": np.array([-1, 4]), "m": np.ones((4, 5), np.float32)})
    assert olr.inspect(model).macs == 6 * 4 * 5
