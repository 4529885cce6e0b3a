from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_lowrank.graph import find_depthwise, find_layers, node_names, weighted_tensors
from onnx_lowrank.layers.layer import Layer
from tests.helpers import Array, build, filters, find, normal, run

X = normal(1, 3, 4, 9, 8)


def convolution(body: str, weights: dict[str, Array], *, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return build(f"g (float[N,4,9,8] x) => (float[N,a,b,c] y) {{ {body} }}", weights, opset=opset, ir=ir)


def only(model: onnx.ModelProto) -> Layer:
    layers, skipped = find(model, {"x": X})
    assert skipped == []
    (layer,) = layers
    return layer


def reason(model: onnx.ModelProto, feeds: dict[str, Array] | None = None) -> str:
    layers, skipped = find(model, {"x": X} if feeds is None else feeds)
    assert layers == []
    (layer,) = skipped
    return layer.reason


def test_what_is_known_of_a_layer() -> None:
    weight, bias = filters(0, 6, 4, 3, 2), normal(2, 6)
    model = convolution(
        "c = Conv<strides=[2,1], dilations=[1,3], pads=[0,1,2,3]>(x, w, b)  y = Relu(c)", {"w": weight, "b": bias}
    )
    model.graph.node[0].name = "features.0"
    layer = only(model)
    assert (layer.name, layer.op, layer.input, layer.response, layer.nodes) == ("features.0", "Conv", "x", "c", ("c",))
    np.testing.assert_array_equal(layer.weight, weight)
    np.testing.assert_array_equal(layer.bias, bias)
    geometry = layer.geometry
    assert (geometry.strides, geometry.dilations, geometry.pads) == ((2, 1), (1, 3), (0, 1, 2, 3))
    assert geometry.auto_pad == "NOTSET"
    assert (layer.filters, layer.channels, layer.kernel, layer.input_size) == (6, 4, (3, 2), (9, 8))
    assert layer.positions == (5, 9)
    assert layer.macs == 5 * 9 * 6 * 4 * 3 * 2
    assert layer.parameters == 6 * 4 * 3 * 2 + 6
    assert layer.activation.name == "relu"


def test_defaults_of_a_bare_convolution() -> None:
    layer = only(convolution("y = Conv(x, w)", {"w": filters(0, 6, 4, 1, 1)}))
    geometry = layer.geometry
    assert (geometry.strides, geometry.dilations, geometry.pads) == ((1, 1), (1, 1), (0, 0, 0, 0))
    np.testing.assert_array_equal(layer.bias, np.zeros(6))
    assert layer.bias.dtype == np.float32


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_decides_over_pads(auto_pad: str) -> None:
    layer = only(convolution(f'y = Conv<auto_pad="{auto_pad}">(x, w)', {"w": filters(0, 6, 4, 3, 3)}))
    assert (layer.geometry.auto_pad, layer.geometry.pads) == (auto_pad, (0, 0, 0, 0))
    assert layer.positions == ((7, 6) if auto_pad == "VALID" else (9, 8))


WEIGHT = filters(0, 6, 4, 3, 3)
ELSEWHERE = {
    "Identity": ("k = Identity(w)", {"w": WEIGHT}),
    "Cast": ("k = Cast<to=1>(w)", {"w": WEIGHT.astype(np.float64)}),
    "Reshape": ("k = Reshape(w, s)", {"w": WEIGHT.reshape(6, 36), "s": np.array([6, 4, 3, 3])}),
    "Transpose": ("k = Transpose<perm=[3,2,0,1]>(w)", {"w": np.ascontiguousarray(WEIGHT.transpose(2, 3, 1, 0))}),
    "Unsqueeze": ("k = Unsqueeze(w, a)", {"w": WEIGHT[:, :, 0, 0], "a": np.array([2, 3])}),
    "Cast of Transpose": (
        "t = Transpose<perm=[3,2,0,1]>(w) k = Cast<to=1>(t)",
        {"w": np.ascontiguousarray(WEIGHT.transpose(2, 3, 1, 0)).astype(np.float16)},
    ),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_weights_behind_nodes(kind: str) -> None:
    body, weights = ELSEWHERE[kind]
    model = convolution(f"{body}  y = Conv(x, k)", weights, opset=13)
    wanted = WEIGHT[:, :, :1, :1] if kind == "Unsqueeze" else WEIGHT
    wanted = wanted.astype(np.float16).astype(np.float32) if kind == "Cast of Transpose" else wanted
    layer = only(model)
    np.testing.assert_array_equal(layer.weight, wanted)
    assert layer.weight.dtype == np.float32


def test_weights_in_constant_nodes() -> None:
    model = convolution("y = Conv(x, w, b)", {})
    for name, value in {"w": WEIGHT, "b": normal(2, 6)}.items():
        node = helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
        model.graph.node.insert(0, node)
    layer = only(model)
    np.testing.assert_array_equal(layer.weight, WEIGHT)
    np.testing.assert_array_equal(layer.bias, normal(2, 6))


def test_initializers_that_are_graph_inputs_too() -> None:
    model = convolution("y = Conv(x, w)", {"w": WEIGHT}, opset=8, ir=3)
    assert [each.name for each in model.graph.input] == ["x", "w"]
    np.testing.assert_array_equal(only(model).weight, WEIGHT)


def test_shared_weights_make_layers_of_their_own() -> None:
    model = build(
        "g (float[N,4,9,8] x) => (float[N,4,9,8] y) { a = Conv<pads=[1,1,1,1]>(x, w) y = Conv<pads=[1,1,1,1]>(a, w) }",
        {"w": filters(0, 4, 4, 3, 3)},
    )
    layers, _ = find(model, {"x": X})
    assert [(layer.name, layer.response) for layer in layers] == [("a", "a"), ("y", "y")]


@pytest.mark.parametrize(("dtype", "code"), [(np.float16, "float16"), (np.float32, "float")])
def test_float_types_are_kept(dtype: Any, code: str) -> None:
    weights = {"w": WEIGHT.astype(dtype), "b": normal(1, 6, dtype=dtype)}
    model = build(f"g ({code}[N,4,9,8] x) => ({code}[N,6,7,6] y) {{ y = Conv(x, w, b) }}", weights)
    (layer,), _ = find(model, {"x": X.astype(dtype)})
    assert layer.weight.dtype == layer.bias.dtype == dtype


def test_float64_weights_are_kept() -> None:
    """No onnxruntime on CPU runs it, so shapes are given by hand."""
    model = build("g (double[N,4,9,8] x) => (double[N,6,7,6] y) { y = Conv(x, w) }", {"w": WEIGHT.astype(np.float64)})
    (layer,), _ = find_layers(model, {"x": X.shape, "y": (3, 6, 7, 6)})
    assert layer.weight.dtype == layer.bias.dtype == np.float64


# What stays, and why


def test_groups_and_depthwise() -> None:
    grouped = convolution("y = Conv<group=2>(x, w)", {"w": filters(0, 6, 2, 3, 3)})
    (layer,), skipped = find(grouped, {"x": X})
    assert skipped == []
    assert (layer.groups, layer.channels, layer.filters, layer.macs) == (2, 4, 6, 7 * 6 * 6 * 2 * 9)
    model = convolution("y = Conv<group=4>(x, w)", {"w": filters(0, 4, 1, 3, 3)})
    assert reason(model) == "depthwise convolution"


def depthwise(body: str, weights: dict[str, Array]) -> list[Layer]:
    shapes = {"x": (1, 4, 9, 8), "y": (1, 4, 7, 6), "c": (1, 4, 7, 6)}
    return find_depthwise(convolution(body, weights), shapes)


def test_depthwise_convolutions_as_layers() -> None:
    weights = {"w": normal(0, 4, 1, 3, 3), "s": normal(1, 4), "o": normal(2, 4), "m": normal(3, 4), "v": np.ones(4)}
    weights = {name: np.asarray(each, np.float32) for name, each in weights.items()}
    body = "c = Conv<group=4, strides=[1,1]>(x, w)  n = BatchNormalization(c, s, o, m, v)  y = Relu(n)"
    (layer,) = depthwise(body, weights)
    assert (layer.depthwise, layer.groups, layer.channels, layer.filters, layer.kernel) == (True, 4, 4, 4, (3, 3))
    assert (layer.response, layer.nodes, layer.activation.name) == ("n", ("c", "n"), "relu")
    gain = weights["s"] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(layer.weight, weights["w"] * gain[:, None, None, None], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "weight"),
    [
        ("y = Conv<group=4>(x, w)", normal(0, 8, 1, 3, 3)),  # two filters a channel
        ("y = Conv<group=2>(x, w)", normal(0, 4, 2, 3, 3)),
        ("y = Conv(x, w)", normal(0, 4, 4, 3, 3)),
        ("y = ConvTranspose<group=4>(x, w)", normal(0, 4, 1, 3, 3)),
        ("k = Cos(w)  y = Conv<group=4>(x, k)", normal(0, 4, 1, 3, 3)),
    ],
)
def test_what_is_no_depthwise_layer(body: str, weight: Array) -> None:
    assert depthwise(body, {"w": weight}) == []


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes(axes: int) -> None:
    sizes = ",".join("5" * axes)
    model = build(
        f"g (float[N,4,{sizes}] x) => (float[N,6,{sizes}] y) {{ y = Conv(x, w) }}", {"w": normal(0, 6, 4, *[1] * axes)}
    )
    (layer,), skipped = find(model, {"x": normal(1, 2, 4, *[5] * axes)})
    assert skipped == []
    assert (layer.kernel, layer.positions) == ((1,) * axes, (5,) * axes)
    assert (layer.macs, layer.parameters) == (5**axes * 24, 24)
    assert (layer.geometry.strides, layer.geometry.pads) == ((1,) * axes, (0,) * (2 * axes))


def test_fully_connected_layers() -> None:
    w, v, u = normal(0, 5, 6), normal(2, 5, 4), normal(3, 4, 3)
    model = build(
        """g (float[N,6] x) => (float[N,3] y) {
            a = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)
            r = Relu(a)
            c = MatMul(r, v)
            m = Mul(c, scale)
            n = BatchNormalization(m, gamma, beta, mean, variance)
            d = Gemm(n, u)
            y = Sigmoid(d)
        }""",
        {
            **{"w": w, "b": normal(1, 5), "v": v, "u": u, "scale": normal(4, 1, 4), "gamma": normal(5, 4)},
            **{"beta": normal(6, 4), "mean": normal(7, 4), "variance": np.abs(normal(8, 4))},
        },
    )
    feeds = {"x": normal(9, 7, 6)}
    layers, skipped = find(model, feeds)
    assert skipped == []
    assert [(layer.name, layer.op, layer.macs, layer.parameters) for layer in layers] == [
        *(("a", "Gemm", 30, 35), ("c", "MatMul", 20, 24), ("d", "Gemm", 12, 12))
    ]
    assert [layer.activation.name for layer in layers] == ["relu", "identity", "sigmoid"]
    values = run(model, feeds, ["a", "r", "n", "d"])
    for layer, x in zip(layers, (feeds["x"], values["r"], values["n"]), strict=True):
        assert layer.channels_last
        assert layer.positions == (1,)
        np.testing.assert_allclose(x @ layer.weight[:, :, 0].T + layer.bias, values[layer.response], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = Gemm<transA=1>(x, w)", r"its input is transposed \(transA\)"),
        ("t = Transpose<perm=[1,0]>(x) y = MatMul(t, v)", "its input has no axis of samples"),
        ("y = MatMul(x, cube)", "its weight has 3 axes: only matrices are factorized"),
    ],
)
def test_fully_connected_layers_that_stay(body: str, why: str) -> None:
    weights = {"w": normal(0, 5, 4), "v": normal(1, 5, 2), "cube": normal(2, 3, 6, 2)}
    model = build(f"g (float[5,6] x) => (float[a,b] y) {{ {body} }}", weights)
    _, (skipped,) = find(model, {"x": normal(3, 5, 6)})
    assert re.fullmatch(why, skipped.reason)


def test_slopes_and_offsets_lie_on_the_last_axis_behind_a_matmul() -> None:
    """As many positions as filters: (4, 1) broadcasts along positions, (4,) along filters."""
    weights = {"w": normal(0, 6, 4), "rows": normal(1, 4, 1), "columns": normal(2, 4)}
    graph = "g (float[N,4,6] x) => (float[N,4,4] y) {{ a = MatMul(x, w) b = Add(a, {}) y = PRelu(b, {}) }}"
    x = normal(3, 2, 4, 6)
    (layer,), _ = find(build(graph.format("columns", "columns"), weights), {"x": x})
    assert (layer.response, layer.activation.name) == ("b", "prelu")
    np.testing.assert_array_equal(layer.bias, weights["columns"])
    (layer,), _ = find(build(graph.format("rows", "rows"), weights), {"x": x})
    assert (layer.response, layer.activation.name) == ("a", "identity")
    (layer,), _ = find(build(graph.format("columns", "rows"), weights), {"x": x})
    assert (layer.response, layer.activation.name) == ("b", "identity")


def test_matmul_counts_every_position_of_a_sample() -> None:
    model = build("g (float[N,7,6] x) => (float[N,7,4] y) { y = MatMul(x, w) }", {"w": normal(0, 6, 4)})
    (layer,), _ = find(model, {"x": normal(1, 3, 7, 6)})
    assert (layer.macs, layer.positions) == (7 * 6 * 4, (7,))


def test_weights_computed_at_run_time() -> None:
    stays = "its weight is computed at run time"
    computed = convolution("k = Cos(w) y = Conv(x, k)", {"w": WEIGHT})
    assert reason(computed) == f"{stays}, from constants: let a tool such as onnxslim fold them"
    drawn = convolution("k = RandomNormal<shape=[6,4,3,3]>() y = Conv(x, k)", {})
    assert reason(drawn) == stays
    matmul = build("g (float[N,4,5] x) => (float[N,4,4] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t) }")
    _, (skipped,) = find(matmul, {"x": normal(0, 2, 4, 5)})
    assert (skipped.reason, skipped.macs, skipped.parameters) == (stays, 4 * 5 * 4, 0)


def test_bias_computed_at_run_time() -> None:
    model = convolution("k = Cos(b) y = Conv(x, w, k)", {"w": WEIGHT, "b": normal(1, 6)})
    assert reason(model) == "its bias is computed at run time, from constants: let a tool such as onnxslim fold them"
    _, (skipped,) = find(model, {"x": X})
    assert (skipped.macs, skipped.parameters) == (42 * 6 * 36, 6 * 36 + 6)


def test_a_left_out_bias_is_none() -> None:
    model = convolution('y = Conv(x, w, "")', {"w": WEIGHT})
    np.testing.assert_array_equal(only(model).bias, np.zeros(6))


def test_what_is_known_of_a_transposed_convolution() -> None:
    weight, bias = normal(0, 4, 3, 3, 2), normal(2, 6)
    body = "c = ConvTranspose<strides=[2,3], output_padding=[0,2], pads=[0,1,2,0], group=2>(x, w, b)  y = Relu(c)"
    model = convolution(body, {"w": weight, "b": bias})
    assert weighted_tensors(model) == ["x", "c"]
    layer = only(model)
    assert (layer.op, layer.filters, layer.channels, layer.kernel, layer.groups) == ("ConvTranspose", 6, 4, (3, 2), 2)
    # The fifth filter is the second of the second group, which reads channels 2 and 3; kernels are reversed.
    np.testing.assert_array_equal(layer.weight[4], weight[2:, 1, ::-1, ::-1])
    np.testing.assert_array_equal(layer.bias, bias)
    geometry = layer.geometry
    assert (geometry.strides, geometry.pads, geometry.output_padding) == ((2, 3), (0, 1, 2, 0), (0, 2))
    assert (layer.input_size, layer.positions) == ((9, 8), (17, 24))
    assert (layer.macs, layer.rows) == (9 * 8 * 6 * 2 * 3 * 2, 17 * 24)
    assert layer.parameters == 6 * 2 * 3 * 2 + 6
    assert layer.activation.name == "relu"


def test_a_transposed_convolution_takes_what_follows() -> None:
    """BatchNormalization scales its filters, which are on the second axis of the weight in the file."""
    weights = {"w": normal(0, 4, 6, 3, 3), "one": np.ones(6, np.float32), "zero": np.zeros(6, np.float32)}
    scale, variance = normal(3, 6), np.abs(normal(4, 6)) + 1
    body = "c = ConvTranspose(x, w)  n = BatchNormalization(c, s, zero, zero, v)  y = Relu(n)"
    layer = only(convolution(body, weights | {"s": scale, "v": variance}))
    gain = scale / np.sqrt(variance + 1e-5)
    wanted = weights["w"].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1] * gain[:, None, None, None]
    np.testing.assert_allclose(layer.weight, wanted, rtol=1e-5)
    assert (layer.response, layer.nodes) == ("n", ("c", "n"))


def test_transposed_convolutions_that_stay() -> None:
    model = convolution("y = ConvTranspose<group=4>(x, w)", {"w": normal(0, 4, 1, 3, 3)})
    assert reason(model) == "depthwise convolution"
    computed = convolution("k = Cos(w)  y = ConvTranspose(x, k)", {"w": normal(0, 4, 6, 3, 3)})
    assert reason(computed) == (
        "its weight is computed at run time, from constants: let a tool such as onnxslim fold them"
    )
    fixed = convolution("y = ConvTranspose<output_shape=[11,9]>(x, w)", {"w": normal(0, 4, 6, 3, 3)})
    assert only(fixed).geometry.pads == (0, 1, 0, 0)
    stays = "its output has one size (output_shape), but the network's inputs have any: give them fixed sizes"
    fixed.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert reason(fixed) == stays
    fixed.graph.input[0].type.tensor_type.ClearField("shape")
    assert reason(fixed) == stays


@pytest.mark.parametrize("opset", [13, 19])
def test_quantized_convolution(opset: int) -> None:
    model = convolution(
        """q = QuantizeLinear(x, s, z)
           d = DequantizeLinear(q, s, z)
           k = DequantizeLinear(w, s, z)
           y = Conv(d, k)""",
        {"s": np.float32(0.05), "z": np.int8(0), "w": np.ones((6, 4, 3, 3), np.int8)},
        opset=opset,
    )
    assert reason(model) == "quantized (QDQ) layer"


def test_integer_weights() -> None:
    """No onnxruntime runs it; the reason is still given."""
    model = build(
        "g (int32[N,4,9,8] x) => (int32[N,6,7,6] y) { y = Conv(x, w) }", {"w": np.ones((6, 4, 3, 3), np.int32)}
    )
    _, (skipped,) = find_layers(model, {"x": X.shape, "y": (3, 6, 7, 6)})
    assert skipped.reason == "int32 weights: only float16, bfloat16, float32 and float64 are factorized"


def test_integer_convolutions_are_listed() -> None:
    model = build(
        "g (uint8[N,4,9,8] x) => (int32[N,6,7,6] y) { y = ConvInteger(x, w) }", {"w": np.ones((6, 4, 3, 3), np.uint8)}
    )
    _, (skipped,) = find(model, {"x": np.ones((1, 4, 9, 8), np.uint8)})
    assert skipped.reason == "ConvInteger is not supported"


def test_another_domain() -> None:
    model = convolution("y = Conv(x, w)", {"w": WEIGHT})
    model.graph.node[0].domain = "com.example"
    _, (skipped,) = find_layers(model, {"x": X.shape, "y": (3, 6, 7, 6)})
    assert skipped.reason == "operator of domain com.example"


def test_a_layer_in_the_layout_of_one_machine_says_what_to_give_instead() -> None:
    """onnxruntime writes such operators where it saves a model after all its optimizations."""
    graph = "g (float[N,3,8,8] x) => (float[N,6,8,8] y) { y = com.microsoft.nchwc.Conv <pads = [1, 1, 1, 1]> (x, w) }"
    model = build(graph, {"w": filters(0, 6, 3, 3, 3)})
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    layers, (skipped,) = find_layers(model, {"x": (1, 3, 8, 8), "y": (1, 6, 8, 8)}, 1)
    assert layers == []
    assert skipped.reason == (
        "operator of domain com.microsoft.nchwc, which onnxruntime optimized for one machine: "
        "give the model from before that, or save it with ORT_ENABLE_BASIC"
    )


def test_every_weighted_node_is_listed_once_in_the_order_of_the_graph() -> None:
    model = build(
        """g (float[N,4,9,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            b = Conv<group=4, pads=[1,1,1,1]>(a, v)
            c = Conv<pads=[1,1,1,1]>(b, w)
            p = GlobalAveragePool(c)
            f = Flatten(p)
            y = Gemm(f, u)
        }""",
        {"w": filters(0, 4, 4, 3, 3), "v": filters(1, 4, 1, 3, 3), "u": normal(2, 4, 5)},
    )
    layers, skipped = find(model, {"x": X})
    assert [layer.name for layer in layers] == ["a", "c", "y"]
    assert [layer.name for layer in skipped] == ["b"]


# Names


def named(names: list[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", [f"t{number}"], [f"t{number + 1}"], name=name) for number, name in enumerate(names)
    ]
    return helper.make_model(helper.make_graph(nodes, "g", [], []))


def test_names_are_the_nodes_own_where_unique_else_their_outputs() -> None:
    assert node_names(named(["a", "", "b", "b"])) == ["a", "t2", "t3", "t4"]


@pytest.mark.parametrize("names", [["t2", ""], ["", "t1", ""], ["t2", "x", "x"], ["t2", "", "t2_2"]])
def test_names_never_meet_even_where_a_name_is_anothers_output(names: list[str]) -> None:
    found = node_names(named(names))
    assert len(set(found)) == len(names)
    for own, name in zip(names, found, strict=True):
        assert own == name or not own or names.count(own) > 1
