"""The taps against the full tensors, computed by onnxruntime without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.calibrate.positions import draw_positions
from onnx_lowrank.calibrate.taps import (
    Tap,
    as_patches,
    clear_outside,
    is_computed_anew,
    kernel_points,
    leading_pads,
    patch_indices,
    patch_tap,
    product_indices,
    product_tap,
    response_indices,
    response_tap,
)
from onnx_lowrank.layers.activation import identity
from onnx_lowrank.layers.layer import Layer
from tests.example_layers import conv_geometries, transposed_geometries
from tests.helpers import Array, Feeds, applied, build, filters, find, normal, relative, run, sampled

IMAGES = 3
OPSETS = [7, 9, 11, 13, 17, 21, 23]
W = np.array([1, 10, 100, 1000], np.float32)
W1 = filters(0, 5, 3, 1, 1)[..., 0]


def conv_model(attributes: str, weight: Array, size: tuple[int, int], **options: Any) -> onnx.ModelProto:
    kind = {"float32": "float", "float64": "double", "float16": "float16"}[weight.dtype.name]
    bias = options.pop("bias", None)
    inputs = "x, w" if bias is None else "x, w, b"
    op = options.pop("op", "Conv")
    return build(
        f"""g ({kind}[N,{weight.shape[op == "Conv"]},{size[0]},{size[1]}] x) => ({kind}[N,d,h,v] y) {{
            c = {op}<{attributes}>({inputs})
            y = Relu(c)
        }}""",
        {"w": weight} | ({} if bias is None else {"b": bias}),
        **options,
    )


def run_tap(model: onnx.ModelProto, tap: Tap, feeds: Feeds) -> Array:
    """The rows of one tap, its nodes put behind the model's own."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.node.extend(tap.nodes)
    tapped.graph.initializer.extend(tap.constants)
    tapped.graph.input.extend(tap.inputs)
    tapped.graph.output.append(tap.output)
    return run(tapped, feeds)[tap.output.name]


def only_layer(model: onnx.ModelProto, x: Array) -> Layer:
    (layer,), _ = find(model, {"x": x})
    return layer


def patch_rows(model: onnx.ModelProto, x: Array, count: int) -> tuple[Array, Array]:
    """Rows of the patch tap, and the Conv's own output at the same positions."""
    layer = only_layer(model, x)
    size = int(np.prod(layer.positions))
    positions = draw_positions(np.random.default_rng(5), len(x), size, count)
    element_type = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    patches = run_tap(model, patch_tap(layer, element_type), {"x": x, **patch_indices(layer, positions)})
    assert patches.shape == (len(x), min(count, size), layer.kernel[-1], *layer.kernel[:-1], layer.channels)
    assert patches.dtype == x.dtype
    clear_outside(patches, layer, kernel_points(layer, positions))
    rows = applied(layer, as_patches(patches, layer).reshape(-1, layer.weight[0].size))
    whole = run(model, {"x": x}, ["c"])["c"]
    return rows.reshape(-1, layer.filters), sampled(whole, positions)


@given(images=st.integers(0, 5), size=st.integers(1, 60), count=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_positions_are_seeded_in_range_and_never_repeat(images: int, size: int, count: int, seed: int) -> None:
    drawn, again = (draw_positions(np.random.default_rng(seed), images, size, count) for _ in range(2))
    np.testing.assert_array_equal(drawn, again)
    assert drawn.shape == (images, min(count, size))
    assert drawn.dtype == np.int64
    assert ((drawn >= 0) & (drawn < size)).all()
    assert (np.diff(drawn, axis=1) > 0).all()


def test_every_position_is_as_likely() -> None:
    drawn = draw_positions(np.random.default_rng(0), 20_000, 10, 3)
    share = np.bincount(drawn.ravel(), minlength=10) / len(drawn)
    # Standard deviation of a share: sqrt(0.3 * 0.7 / 20000) = 0.0032.
    np.testing.assert_allclose(share, 0.3, atol=4 * 0.0033)


def test_images_get_positions_of_their_own() -> None:
    drawn = draw_positions(np.random.default_rng(0), 4, 1000, 20)
    assert len(np.unique(drawn, axis=0)) == 4


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_response_tap_gathers_what_indexing_gives(opset: int, dtype: Any) -> None:
    model = conv_model("pads=[1,0,0,2], strides=[2,1]", filters(0, 5, 3, 3, 2, dtype), (7, 6), opset=opset)
    x = normal(1, IMAGES, 3, 7, 6, dtype=dtype)
    layer = only_layer(model, x)
    positions = draw_positions(np.random.default_rng(2), IMAGES, int(np.prod(layer.positions)), 6)
    element_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tap = response_tap(layer, "c", element_type)
    rows = run_tap(model, tap, {"x": x, **response_indices(layer, positions)})
    assert rows.dtype == dtype
    wanted = sampled(run(model, {"x": x}, ["c"])["c"], positions)
    np.testing.assert_array_equal(rows.reshape(-1, 5), wanted)


def test_response_tap_takes_any_tensor_of_the_same_shape() -> None:
    model = conv_model("pads=[1,1,1,1]", filters(0, 3, 3, 3, 3), (5, 5))
    x = normal(1, IMAGES, 3, 5, 5)
    layer = only_layer(model, x)
    positions = draw_positions(np.random.default_rng(2), IMAGES, 25, 7)
    rows = run_tap(model, response_tap(layer, "x", TensorProto.FLOAT), {"x": x, **response_indices(layer, positions)})
    np.testing.assert_array_equal(rows.reshape(-1, 3), sampled(x, positions))


@pytest.mark.parametrize("attributes", ["strides=[1,1]", "strides=[2,3]", 'auto_pad="SAME_UPPER", strides=[2,2]'])
def test_product_tap_computes_what_the_network_does(attributes: str) -> None:
    model = conv_model(attributes, filters(0, 5, 3, 1, 1), (7, 6), bias=normal(3, 5))
    x = normal(1, IMAGES, 3, 7, 6)
    layer = only_layer(model, x)
    positions = draw_positions(np.random.default_rng(2), IMAGES, int(np.prod(layer.positions)), 6)
    assert is_computed_anew(layer, 6)
    rows = run_tap(model, product_tap(layer), {"x": x, **product_indices(layer, positions)})
    assert rows.shape == (*positions.shape, 5)
    wanted = sampled(run(model, {"x": x}, ["c"])["c"], positions)
    np.testing.assert_allclose(rows.reshape(-1, 5), wanted, rtol=1e-5, atol=1e-6)


def test_product_tap_of_a_convolution_along_one_axis() -> None:
    model = build("g (float[N,3,9] x) => (float[N,5,5] y) { c = Conv<strides=[2]>(x, w) y = Relu(c) }", {"w": W1})
    x = normal(1, IMAGES, 3, 9)
    layer = only_layer(model, x)
    positions = np.array([[4, 0], [1, 3], [2, 2]])
    rows = run_tap(model, product_tap(layer), {"x": x, **product_indices(layer, positions)})
    np.testing.assert_allclose(rows.reshape(-1, 5), sampled(run(model, {"x": x}, ["c"])["c"], positions), rtol=1e-5)


def test_what_is_computed_anew() -> None:
    """1 x 1, followed by something that is fused with it, and few products against the values of the response."""
    model = conv_model("strides=[1,1]", filters(0, 5, 3, 1, 1), (8, 5))
    layer = only_layer(model, normal(1, 1, 3, 8, 5))
    assert is_computed_anew(layer, 1333)  # 3 channels x 1333 < 100 x 40 positions
    assert not is_computed_anew(layer, 1334)
    alone = replace(layer, activation=identity())
    assert not is_computed_anew(alone, 6)
    assert is_computed_anew(replace(alone, residual="x"), 6)
    assert not is_computed_anew(replace(layer, weight=layer.weight.astype(np.float16)), 6)
    assert not is_computed_anew(replace(layer, geometry=replace(layer.geometry, pads=(0, 0, 1, 0))), 6)
    larger = only_layer(conv_model("pads=[1,1,1,1]", filters(0, 5, 3, 3, 3), (8, 5)), normal(1, 1, 3, 8, 5))
    assert not is_computed_anew(larger, 6)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    "attributes",
    [
        "pads=[1,1,1,1]",
        "strides=[2,3]",
        "pads=[0,2,1,0], dilations=[2,1], strides=[1,2]",
        'auto_pad="SAME_UPPER", strides=[2,2]',
        'auto_pad="SAME_LOWER", strides=[2,3]',
        'auto_pad="VALID", dilations=[1,3]',
    ],
)
def test_patch_tap_is_the_convolution(opset: int, attributes: str) -> None:
    model = conv_model(
        attributes, filters(0, 4, 3, 3, 2), (8, 7), opset=opset, bias=normal(3, 4), ir=3 if opset < 9 else 8
    )
    rows, wanted = patch_rows(model, normal(1, IMAGES, 3, 8, 7), 9)
    assert relative(wanted, rows) < 1e-6


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_patch_tap_for_any_geometry(data: st.DataObject) -> None:
    attributes, kernel, size = data.draw(conv_geometries())
    model = conv_model(
        attributes,
        filters(0, 3, 2, *kernel),
        size,
        bias=normal(3, 3) if data.draw(st.booleans()) else None,
    )
    rows, wanted = patch_rows(model, normal(1, 2, 2, *size), data.draw(st.integers(1, 90)))
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=2e-6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(geometry=transposed_geometries(), count=st.integers(1, 90))
def test_patch_tap_for_any_transposed_geometry(
    geometry: tuple[str, tuple[int, int], tuple[int, int]], count: int
) -> None:
    attributes, kernel, size = geometry
    model = conv_model(attributes, filters(0, 2, 3, *kernel), size, bias=normal(3, 3), op="ConvTranspose")
    rows, wanted = patch_rows(model, normal(1, 2, 2, *size), count)
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-5)


def test_a_patch_of_a_transposed_convolution_has_zeros_between_the_inputs() -> None:
    """Output 3 of one axis is made of inputs 1 (by the kernel's point 1) and 0 (by its point 3)."""
    model = build("g (float[N,1,4] x) => (float[N,1,10] c) { c = ConvTranspose<strides=[2]>(x, w) }", {"w": [[W]]})
    x = np.array([[[5, 6, 7, 8]]], np.float32)
    layer = only_layer(model, x)
    positions = np.array([[3]])
    rows = run_tap(model, patch_tap(layer, TensorProto.FLOAT), {"x": x, **patch_indices(layer, positions)})
    clear_outside(rows, layer, kernel_points(layer, positions))
    np.testing.assert_array_equal(as_patches(rows, layer), [[[5, 0, 6, 0]]])
    np.testing.assert_array_equal(layer.weight, [[W[::-1]]])
    assert run(model, {"x": x}, ["c"])["c"][0, 0, 3] == 5 * W[3] + 6 * W[1]


def test_patch_tap_in_float16() -> None:
    weight = filters(0, 4, 3, 3, 3, np.float16)
    model = conv_model("pads=[1,1,1,1]", weight, (6, 6), bias=normal(3, 4, dtype=np.float16))
    rows, wanted = patch_rows(model, normal(1, IMAGES, 3, 6, 6, dtype=np.float16), 36)
    assert rows.dtype == np.float16
    assert relative(wanted, rows) < 1e-3


def test_patch_tap_in_float64() -> None:
    """onnxruntime's CPU has no float64 Conv, so the tap runs alone and the reference evaluator judges it."""
    attributes, bias = "pads=[2,1,0,1], strides=[2,1]", normal(3, 4)
    single = conv_model(attributes, filters(0, 4, 3, 3, 2), (6, 5), bias=bias)
    x = normal(1, IMAGES, 3, 6, 5)
    layer = only_layer(single, x)
    weight = filters(7, 4, 3, 3, 2, np.float64)
    layer = replace(layer, weight=weight, bias=bias.astype(np.float64))
    double = conv_model(attributes, weight, (6, 5), bias=layer.bias)
    (whole,) = ReferenceEvaluator(double.graph, opsets={"": 17}).run(["c"], {"x": x.astype(np.float64)})
    positions = draw_positions(np.random.default_rng(2), IMAGES, int(np.prod(layer.positions)), 8)
    bare = build("g (double[N,3,6,5] x) => (double[N,3,6,5] y) { y = Identity(x) }")
    feeds = {"x": x.astype(np.float64), **patch_indices(layer, positions)}
    found = run_tap(bare, patch_tap(layer, TensorProto.DOUBLE), feeds)
    clear_outside(found, layer, kernel_points(layer, positions))
    patches = as_patches(found, layer)
    rows = applied(layer, patches.reshape(len(patches), -1))
    assert rows.dtype == np.float64
    assert relative(sampled(whole, positions), rows.reshape(-1, 4)) < 1e-14


def test_patch_tap_includes_a_folded_batch_normalization() -> None:
    model = build(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            raw = Conv<pads=[1,1,1,1]>(x, w)
            c = BatchNormalization<epsilon=0.01>(raw, gamma, beta, mean, variance)
            y = Relu(c)
        }""",
        {
            "w": filters(0, 4, 3, 3, 3),
            "gamma": normal(1, 4),
            "beta": normal(2, 4),
            "mean": normal(3, 4),
            "variance": normal(4, 4) ** 2,
        },
    )
    rows, wanted = patch_rows(model, normal(1, IMAGES, 3, 6, 6), 20)
    assert relative(wanted, rows) < 1e-6


def test_what_lies_outside_the_image_counts_as_zero_even_beside_huge_values() -> None:
    model = conv_model("pads=[2,2,2,2]", filters(0, 2, 1, 3, 3), (3, 3))
    x = np.full((1, 1, 3, 3), 1e30, np.float32)
    x[0, 0, 1, 1] = 1.0
    rows, wanted = patch_rows(model, x, 25)
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e24)


@pytest.mark.parametrize(("upper", "wanted"), [("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 2))])
def test_same_padding_puts_the_odd_zero_on_the_named_side(upper: str, wanted: tuple[int, int]) -> None:
    # Rows: 5 outputs x stride 1 with a kernel of 2 need 1 zero; columns: 6 outputs, kernel 4, 3 zeros.
    model = conv_model(f'auto_pad="{upper}"', filters(0, 2, 1, 2, 4), (5, 6))
    assert leading_pads(only_layer(model, normal(1, 1, 1, 5, 6))) == wanted
