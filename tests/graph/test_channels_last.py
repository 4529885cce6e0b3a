"""Scales and offsets of channels behind a Transpose are folded into the layer before it, and nothing else moves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.graph import affine_before_transpose
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.helpers import build, filters, normal, relative, run

X = {"x": normal(9, 40, 3, 9, 7)}
WEIGHTS = {"w": filters(0, 16, 3, 3, 3), "v": filters(1, 8, 16, 1, 1)}
CONSTANTS = {
    "mean": normal(2, 1, 1, 1, 16),
    "scale": np.abs(normal(3, 16)) + 1,
    "beta": normal(4, 1, 1, 16),
    "two": np.float32(2),
}
# As Keras writes BatchNormalization and an activation: through PyTorch with casts, through JAX, and through TensorFlow.
KERAS = {
    "torch": "a = Cast<to=1>(t) d = Sub(a, mean) m = Mul(d, scale) s = Add(m, beta) e = Cast<to=1>(s)",
    "jax": "m = Mul(scale, t) e = Add(m, beta)",
    "tensorflow": "m = Div(t, two) a = Add(m, beta) e = Sub(mean, a)",
}


def network(affine: str, opset: int = 17, ir: int = 8, **others: np.ndarray) -> onnx.ModelProto:
    """Two convolutions with channels last between them."""
    return build(
        f"""g (float[N,3,9,7] x) => (float[N,8,7,5] y) {{
            c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) {affine} r = Relu(e)
            b = Transpose<perm=[0,3,1,2]>(r) y = Conv(b, v)
        }}""",
        WEIGHTS | {name: value for name, value in CONSTANTS.items() if name in affine} | others,
        opset=opset, ir=ir,
    )  # fmt: skip


@pytest.mark.parametrize("backend", KERAS)
@pytest.mark.parametrize("ir", [3, 8])
def test_channels_last_networks_are_folded(backend: str, ir: int) -> None:
    model = network(KERAS[backend], ir=ir)
    before = model.SerializeToString()
    moved = affine_before_transpose(model)
    onnx.checker.check_model(moved, full_check=True)
    assert model.SerializeToString() == before
    np.testing.assert_array_equal(run(model, X)["y"], run(moved, X)["y"])
    first, second = inspect(model).rows
    assert isinstance(first, Layer)
    assert isinstance(second, Layer)
    assert (first.activation.name, second.activation.name) == ("relu", "identity")
    assert first.bias.any()
    plan = RankPlan((LayerPlan(first.name, "channel", 16),))
    result = convert(model, X, plan=plan, bench=False, refine="none")
    assert result.model is not None
    kinds = [node.op_type for node in result.model.graph.node if node.op_type != "Cast"]
    assert kinds == ["Conv", "Conv", "Transpose", "Relu", "Transpose", "Conv"]
    assert relative(run(model, X)["y"], run(result.model, X)["y"]) < 1e-5
    assert {tensor.name for tensor in result.model.graph.initializer}.isdisjoint(CONSTANTS)


STAYING = {
    "one per row": ("e = Add(t, rows)", {"rows": normal(5, 5, 1)}),
    "one per image": ("e = Add(t, each)", {"each": normal(5, 40, 1, 1, 16)}),
    "computed": ("m = ReduceMean<axes=[1,2]>(t) e = Sub(t, m)", {}),
    "another type": (
        "a = Cast<to=11>(t) s = Add(a, wide) e = Cast<to=1>(s)",
        {"wide": normal(5, 16).astype(np.float64)},
    ),
    "read elsewhere": ("a = Add(t, beta) e = Mul(a, t)", {}),
    "nothing": ("e = Identity(t)", {}),
}


@pytest.mark.parametrize("case", STAYING)
def test_what_is_no_constant_of_channels_stays(case: str) -> None:
    affine, others = STAYING[case]
    model = network(affine, opset=13, **others)
    assert affine_before_transpose(model) is model


def test_a_cast_to_the_type_that_it_has_is_no_obstacle_for_an_activation() -> None:
    model = build(
        "g (float[N,3,9,7] x) => (float[N,16,7,5] y) { c = Conv(x, w) a = Cast<to=1>(c) y = Relu(a) }", WEIGHTS
    )
    (layer,) = inspect(model).rows
    assert isinstance(layer, Layer)
    assert layer.activation.name == "relu"


@pytest.mark.parametrize(
    ("inputs", "perm"), [(["x"], [0, 2, 3, 1]), (["x", "w"], [0]), (["x", "w"], [0, 0, 1, 2]), (["x", "w"], None)]
)
def test_a_model_that_nobody_has_checked_is_left_to_the_runtime(inputs: list[str], perm: list[int] | None) -> None:
    """Whose message says what is wrong with it."""
    nodes = [
        onnx.helper.make_node("Conv", inputs, ["c"]),
        onnx.helper.make_node("Transpose", ["c"], ["t"], **({} if perm is None else {"perm": perm})),
        onnx.helper.make_node("Add", ["t", "b"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("w", (2, 2, 1, 1)), ("b", 2))
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, 3, 3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], constants))
    assert affine_before_transpose(model) is model
