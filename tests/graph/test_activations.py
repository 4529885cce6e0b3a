"""What is recognised behind a response, judged by running the graph: activation(response) is the graph's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.graph import find_layers
from onnx_lowrank.layers.layer import Layer
from tests.helpers import Array, build, filters, find, normal, run

D = 4
X = normal(1, 3, 2, 6, 5) * 4  # responses from about -12 to 12: every piece is met


def network(body: str, *, opset: int, constants: dict[str, Any] | None = None, out: str = "y") -> onnx.ModelProto:
    weights = {"w": filters(0, D, 2, 3, 3), "b": normal(2, D)} | (constants or {})
    return build(
        f"g (float[N,2,6,5] x) => (float[N,e,f,g] {out}) {{ c = Conv<pads=[1,1,1,1]>(x, w, b)\n{body} }}",
        {name: np.asarray(value) for name, value in weights.items()},
        opset=opset,
    )


def only(model: onnx.ModelProto) -> Layer:
    (layer,), _ = find(model, {"x": X})
    return layer


def rows(tensor: Array) -> Array:
    return tensor.transpose(0, 2, 3, 1).reshape(-1, D)


F = np.float32
PRELU = {"slope": normal(5, D, 1, 1)}
SQRT2, HALF, ONE = F(np.sqrt(2)), F(0.5), F(1)
THREE, SIX, ZERO, SIXTH = F(3), F(6), F(0), F(1 / 6)

# name, nodes behind c, opset, constants
KNOWN: list[tuple[str, str, int, dict[str, Any]]] = [
    ("identity", "y = MaxPool<kernel_shape=[1,1]>(c)", 17, {}),
    ("relu", "y = Relu(c)", 7, {}),
    ("relu", "y = Relu(c)", 23, {}),
    ("leaky_relu", "y = LeakyRelu(c)", 17, {}),
    ("leaky_relu", "y = LeakyRelu<alpha=0.2>(c)", 17, {}),
    ("prelu", "y = PRelu(c, slope)", 17, PRELU),
    ("prelu", "y = PRelu(c, slope)", 17, {"slope": normal(5, 1, D, 1, 1)}),
    ("prelu", "y = PRelu(c, slope)", 9, {"slope": F([0.3])}),
    ("prelu", "y = PRelu(c, slope)", 17, {"slope": F([[[-0.3]]])}),
    ("relu6", "y = Clip<min=0.0, max=6.0>(c)", 10, {}),
    ("relu6", "y = Clip(c, zero, six)", 11, {"zero": ZERO, "six": SIX}),
    ("relu6", "l = Constant<value_float=0.0>() h = Constant<value_float=6.0>() y = Clip(c, l, h)", 13, {}),
    ("relu", "y = Clip<min=0.0>(c)", 10, {}),
    ("relu", "y = Clip<min=0.0, max=3.4028234663852886e38>(c)", 10, {}),
    ("relu", "y = Clip(c, zero)", 13, {"zero": ZERO}),
    ("relu", "y = Clip(c, zero, big)", 13, {"zero": ZERO, "big": F(np.finfo(F).max)}),
    ("clip", "y = Clip(c, low, high)", 13, {"low": F(-1), "high": F(2.5)}),
    ("clip", 'y = Clip(c, "", high)', 13, {"high": F(1.5)}),
    ("clip", "y = Clip<max=1.5>(c)", 8, {}),
    ("identity", "y = Clip(c)", 13, {}),
    ("hard_sigmoid", "y = HardSigmoid(c)", 17, {}),
    ("hard_sigmoid", "y = HardSigmoid<alpha=0.3, beta=0.4>(c)", 17, {}),
    ("sigmoid", "y = Sigmoid(c)", 17, {}),
    ("tanh", "y = Tanh(c)", 17, {}),
    ("softplus", "y = Softplus(c)", 17, {}),
    ("hard_swish", "y = HardSwish(c)", 17, {}),
    ("gelu", "y = Gelu(c)", 20, {}),
    ("gelu_tanh", 'y = Gelu<approximate="tanh">(c)', 20, {}),
    ("silu", "s = Sigmoid(c) y = Mul(c, s)", 17, {}),
    ("silu", "s = Sigmoid(c) y = Mul(s, c)", 17, {}),
    ("silu", "m = Mul(c, one) s = Sigmoid(m) y = Mul(c, s)", 13, {"one": ONE.reshape(1)}),  # Paddle's Swish
    ("silu", "m = Mul(one, c) s = Sigmoid(m) y = Mul(s, c)", 13, {"one": ONE}),
    ("hard_swish", "s = HardSigmoid<alpha=0.16666667, beta=0.5>(c) y = Mul(c, s)", 13, {}),
    (
        "hard_swish",
        "a = Add(c, three) k = Clip<min=0.0, max=6.0>(a) p = Mul(c, k) y = Div(p, six)",
        9,
        {"three": THREE, "six": SIX},
    ),
    (
        "hard_swish",
        "a = Add(three, c) k = Clip(a, zero, six) p = Mul(k, c) y = Mul(p, sixth)",
        13,
        {"three": THREE, "six": SIX, "zero": ZERO, "sixth": SIXTH},
    ),
    (
        "hard_swish",
        "a = Add(c, three) k = Clip(a, zero, six) q = Div(k, six) y = Mul(c, q)",
        13,
        {"three": THREE, "six": SIX, "zero": ZERO},
    ),
    (
        "gelu",
        "s = Div(c, root) e = Erf(s) a = Add(e, one) p = Mul(c, a) y = Mul(p, half)",
        13,
        {"root": SQRT2, "one": ONE, "half": HALF},
    ),
    (
        "gelu",
        "s = Div(c, root) e = Erf(s) a = Add(one, e) p = Mul(c, half) y = Mul(p, a)",
        13,
        {"root": F(1.41421), "one": ONE, "half": HALF},
    ),
    (
        "gelu",
        "s = Div(c, root) e = Erf(s) a = Add(e, one) p = Mul(a, c) y = Div(p, two)",
        13,
        {"root": SQRT2, "one": ONE, "two": F(2)},
    ),
    # What only hands elements on may stand in between.
    ("relu", "i = Identity(c) y = Relu(i)", 17, {}),
    ("relu", "i = Dropout(c) y = Relu(i)", 17, {}),
    ("silu", "i = Dropout(c) s = Sigmoid(i) y = Mul(i, s)", 17, {}),
]


@pytest.mark.parametrize("case", KNOWN, ids=[f"{name}: {body} ({opset})" for name, body, opset, _ in KNOWN])
def test_recognised(case: tuple[str, str, int, dict[str, Any]]) -> None:
    name, body, opset, constants = case
    model = network(body, opset=opset, constants=constants)
    activation = only(model).activation
    assert activation.name == name
    values = run(model, {"x": X}, ["c", "y"])
    # Erf and exp of onnxruntime are good to a few units of float32 at the size of the argument.
    np.testing.assert_allclose(activation(rows(values["c"])), rows(values["y"]), rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize(("attributes", "name"), [("", "silu"), ("<alpha=1.0>", "silu"), ("<alpha=1.5>", "identity")])
def test_swish_operator(attributes: str, name: str) -> None:
    """Newer than what every onnxruntime runs: shapes are given by hand."""
    model = network(f"y = Swish{attributes}(c)", opset=24)
    (layer,), _ = find_layers(model, {"x": X.shape, "c": (3, D, 6, 5)})
    assert layer.activation.name == name


def test_one_slope_for_all_fits_a_transposed_response() -> None:
    model = network("t = Transpose<perm=[0,2,3,1]>(c) y = PRelu(t, slope)", opset=17, constants={"slope": F([0.3])})
    assert only(model).activation.name == "prelu"


def test_slopes_along_another_axis_of_a_transposed_response_do_not() -> None:
    # Four rows behind the transpose, as many as there are channels.
    body = "t = Transpose<perm=[0,2,3,1]>(c) s = Slice(t, from, to, axis) y = PRelu(s, slope)"
    constants = {**PRELU, "from": [0], "to": [4], "axis": [1]}
    assert only(network(body, opset=17, constants=constants)).activation.name == "identity"
    body = "t = Transpose<perm=[0,2,1,3]>(c) y = PRelu(t, slope)"
    square = build(
        f"g (float[N,2,4,5] x) => (float[N,e,f,g] y) {{ c = Conv<pads=[1,1,1,1]>(x, w) {body} }}",
        {"w": filters(0, D, 2, 3, 3), **PRELU},
    )
    (layer,), _ = find(square, {"x": X[:, :, :4]})
    assert layer.activation.name == "identity"


def test_relu_behind_a_transpose() -> None:
    model = network("t = Transpose<perm=[0,2,3,1]>(c) y = Relu(t)", opset=17)
    assert only(model).activation.name == "relu"


NOT_ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("y = Clip(c, x0, six)", {"six": SIX}),
    ("y = PRelu(c, s)", {}),
    ("y = PRelu(c, slope)", {"slope": normal(5, 6, 1)}),  # one per row
    ("y = PRelu(c, slope)", {"slope": normal(5, 5)}),  # one per column
    ("s = Sigmoid(c) t = Neg(s) p = Mul(c, s) y = Add(p, t)", {}),
    ("s = Sigmoid(c) p = Mul(c, c) y = Add(p, s)", {}),
    ("s = HardSigmoid<alpha=0.2, beta=0.5>(c) y = Mul(c, s)", {}),
    ("a = Add(c, k) m = Clip(a, zero, six) p = Mul(c, m) y = Div(p, six)", {"k": F(2.9), "six": SIX, "zero": ZERO}),
    ("a = Add(c, k) m = Clip(a, zero, six) p = Mul(c, m) y = Div(p, k)", {"k": THREE, "six": SIX, "zero": ZERO}),
    ("a = Add(c, k) m = Clip(a, zero, six) p = Mul(c, m) y = Div(six, p)", {"k": THREE, "six": SIX, "zero": ZERO}),
    (
        "s = Div(root, c) e = Erf(s) a = Add(e, one) p = Mul(c, a) y = Mul(p, half)",
        {"root": SQRT2, "one": ONE, "half": HALF},
    ),
    ("s = Div(c, root) e = Erf(s) a = Add(e, one) p = Mul(c, a) y = Mul(p, one)", {"root": SQRT2, "one": ONE}),
    (
        "s = Div(c, root) e = Tanh(s) a = Add(e, one) p = Mul(c, a) y = Mul(p, half)",
        {"root": SQRT2, "one": ONE, "half": HALF},
    ),
    ("y = Exp(c)", {}),
    ("r = Relu(c) n = Neg(c) y = Add(r, n)", {}),
]


@pytest.mark.parametrize(("body", "constants"), NOT_ACTIVATIONS, ids=[body for body, _ in NOT_ACTIVATIONS])
def test_what_only_looks_like_an_activation_is_identity(body: str, constants: dict[str, Any]) -> None:
    body = body.replace("x0", "low").replace(", s)", ", run_time)") if "PRelu(c, s)" in body else body
    extra = "i = Constant<value_int=0>() low0 = ReduceMin<keepdims=0>(x) " if "x0" in body else ""
    extra += "run_time = Atan(c0) c0 = Identity(slope0) " if "run_time" in body else ""
    model = network(extra.replace("low0", "x0") + body, opset=17, constants={"slope0": normal(5, D, 1, 1), **constants})
    assert only(model).activation.name == "identity"


# Residual sums


def residual_network(body: str, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    return build(
        f"""g (float[N,2,6,5] x) => (float[N,e,f,g] y) {{
            side = Conv<pads=[1,1,1,1]>(x, v)
            shortcut = Exp(side)
            c = Conv<pads=[1,1,1,1]>(x, w, b)
            {body}
        }}""",
        {"w": filters(0, D, 2, 3, 3), "b": normal(2, D), "v": filters(3, D, 2, 3, 3), **(constants or {})},
    )


def last(model: onnx.ModelProto) -> Layer:
    return find(model, {"x": X})[0][-1]


@pytest.mark.parametrize("order", ["c, shortcut", "shortcut, c"])
@pytest.mark.parametrize("operator", ["Add", "Sum"])
def test_residual_sum_and_relu(operator: str, order: str) -> None:
    model = residual_network(f"sum = {operator}({order}) y = Relu(sum)")
    layer = last(model)
    assert (layer.activation.name, layer.residual, layer.response) == ("relu", "shortcut", "c")
    values = run(model, {"x": X}, ["c", "shortcut", "y"])
    found = layer.activation(rows(values["c"]) + rows(values["shortcut"]))
    np.testing.assert_array_equal(found, rows(values["y"]))


def test_residual_with_a_decomposed_activation() -> None:
    layer = last(residual_network("sum = Add(c, shortcut) s = Sigmoid(sum) y = Mul(sum, s)"))
    assert (layer.activation.name, layer.residual) == ("silu", "shortcut")


def test_the_graph_input_as_residual() -> None:
    model = build(
        "g (float[N,2,6,5] x) => (float[N,2,6,5] y) { c = Conv<pads=[1,1,1,1]>(x, w) s = Add(x, c) y = Relu(s) }",
        {"w": filters(0, 2, 2, 3, 3)},
    )
    assert last(model).residual == "x"


def test_both_sides_of_a_sum_are_residuals_of_each_other() -> None:
    model = build(
        """g (float[N,2,6,5] x) => (float[N,4,6,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            b = Conv(x, v)
            s = Add(a, b)
            y = Relu(s)
        }""",
        {"w": filters(0, D, 2, 3, 3), "v": filters(1, D, 2, 1, 1)},
    )
    first, second = find(model, {"x": X})[0]
    assert (first.residual, second.residual) == ("b", "a")
    assert first.activation.name == second.activation.name == "relu"


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("row = ReduceMean<axes=[2,3]>(shortcut) sum = Add(c, row) y = Relu(sum)", {}),  # broadcast
        ("sum = Add(c, map) y = Relu(sum)", {"map": normal(9, 1, D, 6, 5)}),  # a constant map
        ("sum = Add(c, c) y = Relu(sum)", {}),
        ("sum = Sub(c, shortcut) y = Relu(sum)", {}),
        ("sum = Sum(c, shortcut, side) y = Relu(sum)", {}),
        ("sum = Sum(c, shortcut, c) y = Relu(sum)", {}),
    ],
)
def test_sums_that_are_no_residual(body: str, constants: dict[str, Any]) -> None:
    layer = last(residual_network(body, constants))
    assert (layer.activation.name, layer.residual) == ("identity", None)


@pytest.mark.parametrize(
    "body",
    [
        "y = Add(c, shortcut)",
        "sum = Add(c, shortcut) y = Neg(sum)",
        "sum = Add(c, shortcut) r = Relu(sum) y = Add(r, sum)",  # the sum goes on by itself
    ],
)
def test_sums_without_an_activation_behind(body: str) -> None:
    layer = last(residual_network(body, {}))
    assert (layer.activation.name, layer.residual) == ("identity", "shortcut")


# Responses that several read


def test_a_response_that_is_a_graph_output_counts_as_it_is() -> None:
    model = build(
        "g (float[N,2,6,5] x) => (float[N,4,6,5] c, float[N,4,6,5] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }",
        {"w": filters(0, D, 2, 3, 3)},
    )
    assert only(model).activation.name == "identity"


@pytest.mark.parametrize("body", ["r = Relu(c) n = Exp(c) y = Add(r, n)", "p = Relu(c) q = Relu(c) y = Mul(p, q)"])
def test_a_response_with_several_readers_counts_as_it_is(body: str) -> None:
    assert only(network(body, opset=17)).activation.name == "identity"


def test_a_response_that_a_subgraph_captures_counts_as_it_is() -> None:
    model = build(
        """g (float[N,2,6,5] x, bool flag) => (float[N,4,6,5] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(c)
            y = If (flag) <
                then_branch = t () => (float[N,4,6,5] t_out) { t_out = Add(r, c) },
                else_branch = e () => (float[N,4,6,5] e_out) { e_out = Identity(r) }
            >
        }""",
        {"w": filters(0, D, 2, 3, 3)},
    )
    (layer,), _ = find(model, {"x": X, "flag": np.array(True)})
    assert layer.activation.name == "identity"
