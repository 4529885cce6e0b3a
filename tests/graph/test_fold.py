"""Folding, judged by onnxruntime: the folded convolution delivers the response tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.layers.layer import Layer
from tests.helpers import Array, build, filters, find, normal, relative, run

D = 5
X = normal(1, 3, 2, 6, 7)
NORMALIZATION = {"gamma": normal(3, D), "beta": normal(4, D), "mean": normal(5, D), "var": normal(6, D) ** 2}


def network(body: str, weights: dict[str, Any] | None = None, *, bias: bool = True, opset: int = 17) -> onnx.ModelProto:
    inputs = "x, w, b" if bias else "x, w"
    constants = {"w": filters(0, D, 2, 3, 3), "b": normal(2, D)} | (weights or {})
    return build(
        f"g (float[N,2,6,7] x) => (float[N,e,f,g] y) {{ c = Conv<pads=[1,0,1,2], strides=[2,1]>({inputs})  {body} }}",
        {name: np.asarray(value) for name, value in constants.items()},
        opset=opset,
    )


def only(model: onnx.ModelProto) -> Layer:
    (layer,), _ = find(model, {"x": X})
    return layer


def response_of(layer: Layer) -> Array:
    """What the layer's own weight and bias give, by a plain convolution."""
    plain = build(
        "g (float[N,2,6,7] x) => (float[N,e,f,g] y) { y = Conv<pads=[1,0,1,2], strides=[2,1]>(x, w, b) }",
        {"w": layer.weight, "b": layer.bias},
    )
    return run(plain, {"x": X})["y"]


def check(model: onnx.ModelProto, response: str, nodes: tuple[str, ...]) -> Layer:
    layer = only(model)
    assert (layer.response, layer.nodes) == (response, nodes)
    assert relative(run(model, {"x": X}, [response])[response], response_of(layer)) < 1e-6
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [7, 9, 14, 15, 17])
def test_batch_normalization(bias: bool, opset: int) -> None:
    body = "n = BatchNormalization(c, gamma, beta, mean, var)  y = Relu(n)"
    layer = check(network(body, NORMALIZATION, bias=bias, opset=opset), "n", ("c", "n"))
    assert layer.activation.name == "relu"


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_epsilon_of_batch_normalization(epsilon: float) -> None:
    body = f"n = BatchNormalization<epsilon={epsilon}>(c, gamma, beta, mean, var)  y = Relu(n)"
    check(network(body, NORMALIZATION), "n", ("c", "n"))


def test_channels_whose_variance_is_zero() -> None:
    body = "n = BatchNormalization(c, gamma, beta, mean, var)  y = Relu(n)"
    check(network(body, NORMALIZATION | {"var": np.zeros(D, np.float32)}), "n", ("c", "n"))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (1, 1, 1, 1), (D, 1, 1), (1, D, 1, 1)])
@pytest.mark.parametrize("operator", ["Add", "Mul", "Sum"])
@pytest.mark.parametrize("order", ["c, k", "k, c"])
def test_added_and_multiplied_constants(shape: tuple[int, ...], operator: str, order: str) -> None:
    check(network(f"n = {operator}({order})  y = Relu(n)", {"k": normal(3, *shape)}), "n", ("c", "n"))


@pytest.mark.parametrize("shape", [(), (D, 1, 1)])
@pytest.mark.parametrize("node", ["Sub(c, k)", "Sub(k, c)", "Div(c, k)"])
def test_subtracted_constants_and_divisors(shape: tuple[int, ...], node: str) -> None:
    check(network(f"n = {node}  y = Relu(n)", {"k": normal(3, *shape)}), "n", ("c", "n"))


def test_constants_behind_nodes() -> None:
    check(
        network("k = Unsqueeze(v, axes)  n = Add(c, k)  y = Relu(n)", {"v": normal(3, D), "axes": [1, 2]}),
        "n",
        ("c", "n"),
    )


@settings(deadline=None, max_examples=25)
@given(steps=st.lists(st.sampled_from(["Add", "Mul", "BatchNormalization"]), max_size=4), bias=st.booleans())
def test_any_row_of_them(steps: list[str], bias: bool) -> None:
    body, tensor, weights = "", "c", dict(NORMALIZATION)
    for number, step in enumerate(steps):
        inputs = "gamma, beta, mean, var" if step == "BatchNormalization" else f"k{number}"
        body += f"n{number} = {step}({tensor}, {inputs})  "
        weights[f"k{number}"] = normal(10 + number, D, 1, 1)
        tensor = f"n{number}"
    nodes = ("c", *(f"n{number}" for number in range(len(steps))))
    check(network(body + f"y = Relu({tensor})", weights, bias=bias), tensor, nodes)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("n = Add(c, k)  y = Relu(n)", {"k": normal(3, 1, D, 3, 7)}),  # a map of its own per position
        ("n = Mul(c, k)  y = Relu(n)", {"k": normal(3, 7)}),  # per column
        ("n = Mul(c, k)  y = Relu(n)", {"k": normal(3, 3, 1)}),  # per row
        ("n = Mul(c, c)  y = Relu(n)", {}),
        ("n = Add(c, c)  y = Relu(n)", {}),
        ("n = Sum(c, k, c)  y = Relu(n)", {"k": np.float32(1)}),
        ("n = Sum(c)  y = Relu(n)", {}),
        ("m = ReduceMean<axes=[2,3]>(x)  s = ReduceMax<axes=[1]>(m)  n = Mul(c, s)  y = Relu(n)", {}),
        ("n = Div(k, c)  y = Relu(n)", {"k": np.float32(1)}),
        ("n = Div(c, k)  y = Relu(n)", {"k": np.float32(0)}),
        ("n = BatchNormalization(c, gamma, beta, mean, var)  y = Add(n, c)", NORMALIZATION),  # c is read twice
        ("k = Cos(beta)  n = BatchNormalization(c, gamma, k, mean, var)  y = Relu(n)", NORMALIZATION),
    ],
)
def test_what_is_not_folded(body: str, weights: dict[str, Any]) -> None:
    check(network(body, weights), "c", ("c",))


def test_a_constant_of_more_axes_is_not_folded() -> None:
    model = network("n = Add(c, k)  y = Relu(n)", {"k": normal(3, 1, 1, 1, 1, 1)})
    check(model, "c", ("c",))


def test_batch_normalization_in_training_is_not_folded() -> None:
    body = "n, m, v = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var)  y = Relu(n)"
    check(network(body, NORMALIZATION), "c", ("c",))


def test_a_response_that_the_graph_hands_out_is_not_folded() -> None:
    model = build(
        "g (float[N,2,6,7] x) => (float[N,e,f,g] c, float[N,e,f,g] y) "
        "{ c = Conv<pads=[1,0,1,2], strides=[2,1]>(x, w)  y = BatchNormalization(c, gamma, beta, mean, var) }",
        {"w": filters(0, D, 2, 3, 3), **NORMALIZATION},
    )
    check(model, "c", ("c",))


def test_folding_up_to_a_graph_output() -> None:
    check(network("y = BatchNormalization(c, gamma, beta, mean, var)", NORMALIZATION), "y", ("c", "y"))


def test_shared_weights_are_folded_apart() -> None:
    model = build(
        """g (float[N,2,6,7] x) => (float[N,e,f,g] y, float[N,e,f,g] z) {
            c = Conv<pads=[1,0,1,2], strides=[2,1]>(x, w)
            y = BatchNormalization(c, gamma, beta, mean, var)
            z = Conv<pads=[1,0,1,2], strides=[2,1]>(x, w)
        }""",
        {"w": filters(0, D, 2, 3, 3), **NORMALIZATION},
    )
    layers, _ = find(model, {"x": X})
    for layer in layers:
        assert relative(run(model, {"x": X}, [layer.response])[layer.response], response_of(layer)) < 1e-6


def test_the_models_float_type_is_kept() -> None:
    single = network("y = BatchNormalization(c, gamma, beta, mean, var)", NORMALIZATION)
    layer = only(single)
    assert layer.weight.dtype == layer.bias.dtype == np.float32
