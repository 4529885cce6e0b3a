from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.graph import (
    GraphIndex,
    ancestors,
    attribute,
    extract,
    fresh_name,
    opset,
    reads,
    remove_orphans,
)
from tests.helpers import Array, build, normal, run

# `If` captures `a` and `w` from outside; inside, the name `inner` is its own.
WITH_IF = """g (float[2,3] x, bool flag) => (float[2,3] y) {
    a = Relu(x)
    b = Neg(x)
    c = If (flag) <
        then_branch = then_graph () => (float[2,3] then_out) { inner = Add(a, w)  then_out = Mul(inner, a) },
        else_branch = else_graph () => (float[2,3] else_out) { else_out = Identity(b) }
    >
    y = Add(c, x)
}"""


def with_if() -> onnx.ModelProto:
    return build(WITH_IF, {"w": normal(0, 3)})


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def value(name: str, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


# Lookups


def test_producers_and_consumers() -> None:
    model = build("g (float[2] x) => (float[2] y) { a = Relu(x)  b = Add(a, a)  c = Neg(a)  y = Mul(b, c) }")
    index = GraphIndex(model)
    assert index.producer["a"].op_type == "Relu"
    assert [node.op_type for node in index.consumers["a"]] == ["Add", "Neg"]
    assert index.outputs == {"y"}
    only = index.only_consumer("b")
    assert only is not None
    assert only.op_type == "Mul"
    assert index.only_consumer("a") is None
    assert index.only_consumer("y") is None


def test_a_tensor_that_the_graph_hands_out_has_no_only_consumer() -> None:
    model = build("g (float[2] x) => (float[2] a, float[2] y) { a = Relu(x)  y = Neg(a) }")
    assert GraphIndex(model).only_consumer("a") is None


def test_captures_of_subgraphs_are_reads() -> None:
    model = with_if()
    assert sorted(set(reads(model.graph.node[2]))) == ["a", "b", "flag", "w"]
    assert [node.op_type for node in GraphIndex(model).consumers["a"]] == ["If"]


def test_captures_through_two_levels_and_loop_inputs() -> None:
    model = build("""g (float[2] x, int64 trips, bool go) => (float[2] y) {
        a = Relu(x)
        y = Loop (trips, go, x) <body = body (int64 i, bool before, float[2] state) => (bool after, float[2] next) {
            after = Identity(before)
            next = If (before) <
                then_branch = t () => (float[2] t_out) { t_out = Add(state, a) },
                else_branch = e () => (float[2] e_out) { e_out = Identity(outside) }
            >
        }>
    }""")
    assert sorted(set(reads(model.graph.node[1]))) == ["a", "go", "outside", "trips", "x"]


def test_a_subgraph_that_hands_out_an_outer_tensor_reads_it() -> None:
    then = helper.make_graph([], "t", [], [value("outer")])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=then)
    assert set(reads(node)) == {"flag", "outer"}


def test_left_out_inputs_are_no_reads() -> None:
    assert list(reads(helper.make_node("Clip", ["x", "", "high"], ["y"]))) == ["x", "high"]


def test_attribute_values() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", pads=[1, 2], group=3, alpha=0.5)
    assert attribute(node, "auto_pad") == "SAME_UPPER"
    assert attribute(node, "pads") == [1, 2]
    assert attribute(node, "group", 1) == 3
    assert attribute(node, "alpha") == 0.5
    assert attribute(node, "missing", "default") == "default"
    assert attribute(node, "missing") is None


@given(taken=st.sets(st.sampled_from(["a", "a_2", "a_3", "b"])))
def test_fresh_names_are_free_and_the_wanted_one_where_possible(taken: set[str]) -> None:
    name = fresh_name("a", taken)
    assert name not in taken
    assert name == "a" or "a" in taken


def test_opset_is_that_of_the_standard_operators() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=11)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 99))
    assert opset(model) == 11
    model.opset_import[0].domain = "ai.onnx"
    assert opset(model) == 11


# Constants

CONSTANTS = {
    "Identity": ("c = Identity(w)", lambda w: w),
    "Cast": ("c = Cast<to=11>(w)", lambda w: w.astype(np.float64)),
    "Transpose": ("c = Transpose<perm=[2,0,1]>(w)", lambda w: w.transpose(2, 0, 1)),
    "Flatten": ("c = Flatten<axis=1>(w)", lambda w: w.reshape(2, 12)),
    "Reshape": (
        "s = Constant<value=int64[2] {4, 6}>()  c = Reshape(w, s)",
        lambda w: w.reshape(4, 6),
    ),
    "Squeeze of Unsqueeze": (
        "o = Constant<value_ints=[0]>()  u = Unsqueeze(w, o)  c = Squeeze(u, o)",
        lambda w: w,
    ),
    "a chain": (
        "h = Cast<to=10>(w)  f = Cast<to=1>(h)  t = Transpose(f)  c = Identity(t)",
        lambda w: w.astype(np.float16).astype(np.float32).T,
    ),
}


@pytest.mark.parametrize("opset", [13, 17, 21, 23])
@pytest.mark.parametrize("kind", CONSTANTS)
def test_constants_are_followed_back_to_initializers(kind: str, opset: int) -> None:
    body, oracle = CONSTANTS[kind]
    w = normal(0, 2, 3, 4)
    model = build(f"g (float[2] x) => (float[2] y) {{ {body}  y = Relu(x) }}", {"w": w}, opset=opset)
    found = GraphIndex(model).constant("c")
    assert found is not None
    np.testing.assert_array_equal(found, oracle(w))
    assert found.dtype == oracle(w).dtype


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_constants_of_old_opsets(opset: int) -> None:
    model = build(
        """g (float[2] x) => (float[2] y) {
            s = Constant<value=int64[2] {6, 4}>()
            r = Reshape(w, s)
            t = Transpose(r)
            u = Unsqueeze<axes=[0]>(t)
            v = Squeeze<axes=[0]>(u)
            f = Flatten<axis=1>(v)
            i = Identity(f)
            c = Cast<to=11>(i)
            y = Relu(x)
        }""",
        {"w": normal(0, 2, 3, 4)},
        opset=opset,
    )
    found = GraphIndex(model).constant("c")
    assert found is not None
    np.testing.assert_array_equal(found, normal(0, 2, 3, 4).reshape(6, 4).T)


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21])
def test_initializers_constant_nodes_and_quantized_weights_are_constants(opset: int) -> None:
    model = build(
        """g (float[2] x) => (float[2] y) {
            k = Constant<value=float[2] {1.5, -2}>()
            d = DequantizeLinear(q, scale, zero)
            e = DequantizeLinear(q, scale)
            y = Add(x, k)
        }""",
        {"q": np.array([3, -4], np.int8), "scale": np.float32(0.5), "zero": np.int8(1)},
        opset=opset,
    )
    index = GraphIndex(model)
    for name, wanted in {"k": [1.5, -2], "d": [1.0, -2.5], "e": [1.5, -2], "q": [3, -4]}.items():
        found = index.constant(name)
        assert found is not None
        np.testing.assert_array_equal(found, wanted)


def test_per_channel_quantized_weights() -> None:
    model = build(
        "g (float[2] x) => (float[2] y) { d = DequantizeLinear<axis=0>(q, scale)  y = Relu(x) }",
        {"q": np.array([[3, 4], [5, 6]], np.int8), "scale": np.float32([0.5, 10])},
    )
    found = GraphIndex(model).constant("d")
    assert found is not None
    np.testing.assert_array_equal(found, [[1.5, 2], [50, 60]])


def test_what_depends_on_inputs_or_computes_is_not_constant() -> None:
    model = build(
        "g (float[2] x) => (float[2] y) { a = Identity(x)  b = Add(w, w)  y = Mul(a, b) }", {"w": normal(0, 2)}
    )
    index = GraphIndex(model)
    for name in ("x", "a", "b", "y", "unknown"):
        assert index.constant(name) is None


def test_a_long_chain_is_evaluated_once_per_node() -> None:
    body = "  ".join(f"c{i + 1} = Identity(c{i})" for i in range(3000))
    model = build(f"g (float[2] x) => (float[2] y) {{ {body}  y = Relu(x) }}", {"c0": normal(0, 2)})
    np.testing.assert_array_equal(GraphIndex(model).constant("c3000"), normal(0, 2))


def test_a_chain_that_branches_at_every_node_is_evaluated_once_per_node() -> None:
    body = "  ".join(f"c{i + 2} = DequantizeLinear(q, c{i + 1}, z)  d{i + 2} = Reshape(c{i + 2}, s)" for i in range(3))
    twice = "  ".join(f"e{i + 1} = Reshape(e{i}, e{i})" for i in range(60))
    model = build(
        f"g (float[2] x) => (float[2] y) {{ {body}  {twice}  y = Relu(x) }}",
        {"c1": np.float32(0.5), "q": np.int8([2]), "z": np.int8(0), "s": np.array([], np.int64), "e0": np.array([1])},
    )
    index = GraphIndex(model)
    np.testing.assert_array_equal(index.constant("e60"), [1])
    np.testing.assert_array_equal(index.constant("d2"), 1)


# Cutting out parts


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
