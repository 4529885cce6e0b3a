"""Which tensors depend on random numbers, and which Dropout onnxruntime takes out; onnxruntime itself is the oracle."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from packaging.version import Version

from onnx_lowrank.graph.draws import drawn_tensors, is_taken_out
from onnx_lowrank.graph.extract import extract
from onnx_lowrank.graph.index import GraphIndex
from tests.helpers import build

TRAINING = {"ratio": np.float32(0.5), "on": np.bool_(True)}
DROPOUT = {
    "between nodes": ("(float[1,64] y)", "a = Relu(x) d = Dropout(a, ratio, on) y = Neg(d)"),
    "mask unused": ("(float[1,64] y)", "a = Relu(x) d, m = Dropout(a, ratio, on) y = Neg(d)"),
    "mask is an output": ("(float[1,64] y, bool[1,64] m)", "a = Relu(x) d, m = Dropout(a, ratio, on) y = Neg(d)"),
    "mask is read": (
        "(float[1,64] y)",
        "a = Relu(x) d, m = Dropout(a, ratio, on) k = Cast<to=1>(m) y = Mul(d, k)",
    ),
    "makes an output": ("(float[1,64] d)", "a = Relu(x) d = Dropout(a, ratio, on)"),
    "makes an output that is read": (
        "(float[1,64] d, float[1,64] y)",
        "a = Relu(x) d = Dropout(a, ratio, on) y = Neg(d)",
    ),
    "reads an input": ("(float[1,64] y)", "d = Dropout(x, ratio, on) y = Neg(d)"),
    "reads what others read": ("(float[1,64] y)", "a = Relu(x) d = Dropout(a, ratio, on) y = Add(d, a)"),
    "two in a row": ("(float[1,64] y)", "a = Relu(x) e = Dropout(a, ratio, on) d = Dropout(e, ratio, on) y = Neg(d)"),
}  # fmt: skip


def network(outputs: str, body: str, opset: int = 17) -> onnx.ModelProto:
    return build(f"g (float[1,64] x) => {outputs} {{ {body} }}", TRAINING, opset=opset)


def draws(model: onnx.ModelProto) -> bool:
    """Whether two runs of one session differ."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    x = {"x": np.ones((1, 64), np.float32)}
    pairs = zip(session.run(None, x), session.run(None, x), strict=True)
    return any(not np.array_equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("opset", [12, 13, 22])
@pytest.mark.parametrize("case", DROPOUT)
def test_dropout_stays_where_onnxruntime_keeps_it(case: str, opset: int) -> None:
    if opset == 22 and Version(onnxruntime.__version__) < Version("1.26"):
        pytest.skip("onnxruntime 1.24 takes out no Dropout of opset 22")
    model = network(*DROPOUT[case], opset=opset)
    dropout = next(node for node in model.graph.node if "d" in node.output)
    assert is_taken_out(GraphIndex(model), dropout) is not draws(model)
    assert bool(drawn_tensors(model)) is draws(model)


def test_a_part_of_a_network_computes_what_the_whole_does() -> None:
    model = network(*DROPOUT["between nodes"])
    end = extract(model, model.graph.input, [onnx.ValueInfoProto(name="d")])
    start = extract(model, [onnx.helper.make_tensor_value_info("a", 1, [1, 64])], model.graph.output)
    start.graph.input[0].name = start.graph.node[0].input[0] = "x"
    assert not draws(end)
    assert not draws(start)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Dropout", "Neg"]


@pytest.mark.parametrize(
    ("body", "drawn"),
    [
        ("n = RandomNormalLike(x) y = Add(x, n)", {"n", "y"}),
        ("n = RandomUniform<shape=[1,64]>() a = Relu(x) y = Add(a, n)", {"n", "y"}),
        ("p = Sigmoid(x) n = Bernoulli(p) y = Mul(p, n)", {"n", "y"}),
        ("n = Multinomial<sample_size=64>(x) y = Cast<to=1>(n)", {"n", "y"}),
        ("y = If(on)<then_branch = t () => (float[1,64] u) {u = RandomNormalLike(x)}, "
         "else_branch = e () => (float[1,64] v) {v = Relu(x)}>", {"y"}),
        ("d = Dropout(x) y = Relu(d)", set()),
    ],
)  # fmt: skip
def test_all_that_depends_on_a_draw_is_named(body: str, drawn: set[str]) -> None:
    model = network("(float[1,64] y)", body)
    assert drawn_tensors(model).keys() == drawn
    assert draws(model) is bool(drawn)
