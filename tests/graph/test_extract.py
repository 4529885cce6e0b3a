from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_lowrank.graph.extract import ancestors, extract, remove_orphans, with_outputs
from tests.graph.test_index import value, with_if
from tests.helpers import Array, build, normal, run


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_ancestors_stop_at_what_is_given() -> None:
    model = build("g (float[2] x) => (float[2] y) { a = Relu(x)  b = Neg(a)  c = Abs(a)  d = Exp(b)  y = Add(d, c) }")
    found = [node.op_type for node in ancestors(model, ["d"], {"x"})]
    assert found == ["Relu", "Neg", "Exp"]
    assert [node.op_type for node in ancestors(model, ["d"], {"b"})] == ["Exp"]
    assert ancestors(model, ["b"], {"b"}) == []


def test_extract_computes_inner_tensors_from_inner_tensors() -> None:
    model = build(
        "g (float[2,3] x) => (float[2,3] y) { a = Relu(x)  b = Add(a, w)  c = Mul(b, v)  y = Neg(c) }",
        {"w": normal(0, 3), "v": normal(1, 3)},
    )
    inner = run(model, {"x": normal(2, 2, 3)}, ["a", "c"])
    part = extract(model, [value("a", [2, 3])], [value("c")])
    assert ops(part) == ["Add", "Mul"]
    assert {tensor.name for tensor in part.graph.initializer} == {"w", "v"}
    np.testing.assert_array_equal(run(part, {"a": inner["a"]})["c"], inner["c"])
    assert ops(model) == ["Relu", "Add", "Mul", "Neg"]


def test_extract_keeps_captures_opsets_and_appends_nodes() -> None:
    model = with_if()
    extra = [helper.make_node("Add", ["c", "k"], ["z"])]
    part = extract(
        model,
        [value("a", [2, 3]), model.graph.input[0], model.graph.input[1]],
        [value("z")],
        extra,
        [numpy_helper.from_array(np.float32(10), "k")],
    )
    assert ops(part) == ["Neg", "If", "Add"]
    x = normal(1, 2, 3)
    a = np.maximum(x, 0)
    for flag in (True, False):
        wanted = run(model, {"x": x, "flag": np.array(flag)}, ["c"])["c"] + 10
        found = run(part, {"a": a, "x": x, "flag": np.array(flag)})["z"]
        np.testing.assert_array_equal(found, wanted)


def test_extract_before_ir_version_4_lists_initializers_among_inputs() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Add(x, w) }", {"w": normal(0, 2)}, opset=7, ir=3)
    part = extract(
        model,
        [model.graph.input[0]],
        [value("z", [2])],
        [helper.make_node("Add", ["y", "k"], ["z"])],
        [numpy_helper.from_array(np.float32([1, 2]), "k")],
    )
    onnx.checker.check_model(part)
    assert [each.name for each in part.graph.input] == ["x", "w", "k"]
    x = normal(1, 2)
    np.testing.assert_array_equal(run(part, {"x": x})["z"], x + normal(0, 2) + np.float32([1, 2]))


def test_with_outputs_hands_out_inner_tensors_of_a_copy() -> None:
    model = build("g (float[2] x) => (float[2] y) { a = Neg(x)  b = Exp(a)  y = Abs(b) }")
    before = model.SerializeToString()
    more = with_outputs(model, ["b", "y", "a", "b"])
    assert [each.name for each in more.graph.output] == ["y", "b", "a"]
    assert model.SerializeToString() == before
    x = normal(0, 2)
    np.testing.assert_array_equal(run(more, {"x": x})["a"], -x)
    assert with_outputs(model, ["y"]) is model


# Removing what nothing reads


def test_orphans_go_with_all_that_only_served_them() -> None:
    model = build(
        """g (float[2] x) => (float[2] y) {
            a = Identity(w)
            b = Mul(a, v)
            unrelated = Neg(x)
            y = Add(x, v)
        }""",
        {"w": normal(0, 2), "v": normal(1, 2), "u": normal(2, 2)},
    )
    remove_orphans(model, ["b"])
    assert ops(model) == ["Neg", "Add"]
    assert [tensor.name for tensor in model.graph.initializer] == ["v", "u"]


def test_what_is_read_elsewhere_handed_out_or_captured_stays() -> None:
    model = with_if()
    before = model.SerializeToString()
    remove_orphans(model, ["a", "b", "w", "y", "x", "no such tensor"])
    assert model.SerializeToString() == before


def test_a_node_with_one_output_still_read_stays() -> None:
    text = "g (float[4] x) => (float[2] y) { a, b = Split<axis=0>(x, s)  y = Relu(b) }"
    model = build(text, {"s": np.array([2, 2])}, opset=13)
    remove_orphans(model, ["a"])
    assert ops(model) == ["Split", "Relu"]
    unread = build(text.replace("Relu(b)", "Relu(z)"), {"s": np.array([2, 2]), "z": normal(0, 2)}, opset=13)
    remove_orphans(unread, ["a", "b"])
    assert ops(unread) == ["Relu"]
    assert [tensor.name for tensor in unread.graph.initializer] == ["z"]


def test_orphaned_initializers_leave_the_inputs_too_but_real_inputs_stay() -> None:
    model = build("g (float[2] x, float[2] z) => (float[2] y) { y = Relu(x) }", {"w": normal(0, 2)}, opset=7, ir=3)
    remove_orphans(model, ["w", "z"])
    assert [each.name for each in model.graph.input] == ["x", "z"]
    assert not model.graph.initializer


@given(data=st.data())
def test_removing_orphans_never_changes_the_outputs(data: st.DataObject) -> None:
    """Random graphs: afterwards exactly the tensors that outputs need, or that were not asked about, are there."""
    names, nodes = ["x"], []
    for number in range(data.draw(st.integers(1, 8))):
        left, right = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        nodes.append(helper.make_node("Add", [left, right], [f"t{number}"]))
        names.append(f"t{number}")
    out = data.draw(st.sampled_from(names[1:]))
    graph = helper.make_graph(nodes, "g", [value("x", [2])], [value(out, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    needed: set[str] = {node.output[0] for node in ancestors(model, [out], {"x"})}
    x: Array = normal(0, 2)
    before = run(model, {"x": x})[out]
    remove_orphans(model, names)
    assert {node.output[0] for node in model.graph.node} == needed
    np.testing.assert_array_equal(run(model, {"x": x})[out], before)
