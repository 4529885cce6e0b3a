"""Activations against onnxruntime running the ONNX operator itself."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation, PiecewiseLinear, Smooth

CHANNEL_SLOPES = np.array([-0.5, 0.0, 0.25, 1.5])

# Factory call, ONNX operator, its attributes, its constant inputs.
OPERATORS: dict[str, tuple[Activation, str, dict[str, Any], tuple[Any, ...]]] = {
    "identity": (act.identity(), "Identity", {}, ()),
    "relu": (act.relu(), "Relu", {}, ()),
    "leaky_relu": (act.leaky_relu(), "LeakyRelu", {}, ()),
    "leaky_relu negative": (act.leaky_relu(-0.5), "LeakyRelu", {"alpha": -0.5}, ()),
    "leaky_relu steep": (act.leaky_relu(2.0), "LeakyRelu", {"alpha": 2.0}, ()),
    "prelu": (act.prelu(CHANNEL_SLOPES), "PRelu", {}, (CHANNEL_SLOPES,)),
    "prelu scalar": (act.prelu(0.3), "PRelu", {}, ([0.3],)),
    "clip": (act.clip(-1.0, 2.0), "Clip", {}, (-1.0, 2.0)),
    "clip below": (act.clip(-1.0), "Clip", {}, (-1.0,)),
    "clip above": (act.clip(high=2.0), "Clip", {}, (None, 2.0)),
    "clip crossed": (act.clip(2.0, -1.0), "Clip", {}, (2.0, -1.0)),
    "clip nowhere": (act.clip(), "Clip", {}, ()),
    "relu6": (act.clip(0.0, 6.0), "Clip", {}, (0.0, 6.0)),
    "hard_sigmoid": (act.hard_sigmoid(), "HardSigmoid", {}, ()),
    "hard_sigmoid falling": (act.hard_sigmoid(-0.5, 0.1), "HardSigmoid", {"alpha": -0.5, "beta": 0.1}, ()),
    "hard_sigmoid flat": (act.hard_sigmoid(0.0, 0.3), "HardSigmoid", {"alpha": 0.0, "beta": 0.3}, ()),
    "sigmoid": (act.sigmoid(), "Sigmoid", {}, ()),
    "tanh": (act.tanh(), "Tanh", {}, ()),
    "hard_swish": (act.hard_swish(), "HardSwish", {}, ()),
    "gelu": (act.gelu(), "Gelu", {}, ()),
    "gelu_tanh": (act.gelu_tanh(), "Gelu", {"approximate": "tanh"}, ()),
    "softplus": (act.softplus(), "Softplus", {}, ()),
}
SMOOTH = [act.sigmoid, act.tanh, act.hard_swish, act.silu, act.gelu, act.gelu_tanh, act.softplus]


def inputs() -> NDArray[np.float32]:
    """Ordinary values, the bends, and far tails; four channels."""
    special = np.array([0.0, -0.0, 3, -3, 6, 1, -1, 2, 2.5, -2.5, 20, -20, 90, -90, 1e4, -1e4], np.float32)
    ordinary = np.random.default_rng(0).normal(scale=3, size=496).astype(np.float32)
    return np.repeat(np.concatenate([special, ordinary])[:, np.newaxis], 4, axis=1)


def run_nodes(nodes: list[onnx.NodeProto], constants: dict[str, Any], x: NDArray[np.float32]) -> NDArray[Any]:
    """Output ``y`` of a graph made of the nodes, by onnxruntime."""
    graph = helper.make_graph(
        nodes,
        "activation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


@pytest.mark.parametrize("case", OPERATORS)
def test_equals_the_onnx_operator(case: str) -> None:
    activation, operator, attributes, values = OPERATORS[case]
    constants = {f"c{index}": value for index, value in enumerate(values) if value is not None}
    names = [f"c{index}" if value is not None else "" for index, value in enumerate(values)]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    x = inputs()
    ours, theirs = activation(x), run_nodes([node], constants, x)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=5e-7)


def test_silu_equals_sigmoid_times_input() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["gate"]), helper.make_node("Mul", ["x", "gate"], ["y"])]
    x = inputs()[2:-1]
    x = x[np.abs(x[:, 0]) < 50]  # beyond, onnxruntime's own sigmoid is off by more than x tolerates
    np.testing.assert_allclose(act.silu()(x), run_nodes(nodes, {}, x), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("case", OPERATORS)
def test_keeps_the_float_type_and_stays_finite_at_its_ends(case: str, dtype: type[np.floating[Any]]) -> None:
    activation = OPERATORS[case][0]
    end = np.finfo(dtype).max / 4
    result = activation(np.array([[-end] * 4, [end] * 4], dtype))
    assert result.dtype == dtype
    assert np.isfinite(result).all()


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (act.identity(), "identity"),
        (act.clip(), "identity"),
        (act.relu(), "relu"),
        (act.clip(0.0, inf), "relu"),
        (act.clip(0.0, 6.0), "relu6"),
        (act.clip(-1.0, 1.0), "clip"),
        (act.leaky_relu(0.2), "leaky_relu"),
        (act.prelu([0.1, 0.2]), "prelu"),
        (act.hard_sigmoid(), "hard_sigmoid"),
        *((factory(), factory.__name__) for factory in SMOOTH),
    ],
)
def test_names(activation: Activation, name: str) -> None:
    assert activation.name == name


@pytest.mark.parametrize("factory", SMOOTH)
def test_derivatives_are_those_of_the_value(factory: Any) -> None:
    activation: Smooth = factory()
    x = np.linspace(-12, 12, 4802)  # 3 and -3 are not on this grid
    h = 1e-5
    value, first, second = activation.expansion(x)
    np.testing.assert_allclose(value, activation(x), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(first, (activation(x + h) - activation(x - h)) / (2 * h), rtol=1e-8, atol=1e-9)
    slope_after, slope_before = activation.expansion(x + h)[1], activation.expansion(x - h)[1]
    np.testing.assert_allclose(second, (slope_after - slope_before) / (2 * h), rtol=1e-8, atol=1e-9)


def test_smooth_functions_of_one_kind_are_equal_and_hash_alike() -> None:
    assert act.silu() == act.silu()
    assert len({act.silu(), act.silu(), act.gelu()}) == 2


def test_pieces_and_knots_must_fit() -> None:
    with pytest.raises(ValueError, match=r"bent: 1 knots need 2 slopes and 2 intercepts, got 1 and 2"):
        PiecewiseLinear("bent", (0.0,), (1.0,), (0.0, 0.0))
    with pytest.raises(ValueError, match=r"bent: knots must ascend, got \(1\.0, 0\.0\)"):
        PiecewiseLinear("bent", (1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))


def test_prelu_slopes_have_one_axis() -> None:
    with pytest.raises(ValueError, match=r"prelu: slopes must be a number or of shape \(d,\), got shape \(4, 1, 1\)"):
        act.prelu(np.ones((4, 1, 1)))


SCALE = np.array([0.2, 1.0, 3.0, 7.0])


@pytest.mark.parametrize("case", OPERATORS)
def test_in_other_units_it_is_the_same_function(case: str) -> None:
    activation, x = OPERATORS[case][0], inputs().astype(np.float64)
    scaled = act.scaled(activation, SCALE)
    value, slope = scaled.with_slope(SCALE * x)
    np.testing.assert_allclose(scaled(SCALE * x), SCALE * activation(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(value, SCALE * activation(x), rtol=1e-12, atol=1e-12)
    assert scaled.name == activation.name
    inside = activation.with_slope(x)[1]
    apart = np.abs(x - np.round(x)) > 1e-6  # at a knot, either slope may come out
    np.testing.assert_allclose(slope[apart], inside[apart], rtol=1e-9, atol=1e-12)
    some = slice(1, 3)
    np.testing.assert_array_equal(scaled.part(some)(x[:, some]), scaled(x)[:, some])


@pytest.mark.parametrize("factory", [act.relu, act.leaky_relu, lambda: act.prelu(CHANNEL_SLOPES), act.identity])
def test_straight_through_zero_no_unit_makes_a_difference(factory: Any) -> None:
    activation = factory()
    assert act.scaled(activation, SCALE) is activation


def test_units_multiply() -> None:
    x = inputs()
    twice = act.scaled(act.scaled(act.clip(0.0, 6.0), SCALE), np.array([2.0, 3.0, 0.5, 1.0]))
    once = act.scaled(act.clip(0.0, 6.0), SCALE * [2.0, 3.0, 0.5, 1.0])
    np.testing.assert_allclose(twice(x), once(x), rtol=1e-6)
