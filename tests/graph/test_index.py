from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_lowrank.graph.index import GraphIndex, attribute, fresh_name, opset, tensors_read
from tests.helpers import build, normal, run

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
    assert sorted(set(tensors_read(model.graph.node[2]))) == ["a", "b", "flag", "w"]
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
    assert sorted(set(tensors_read(model.graph.node[1]))) == ["a", "go", "outside", "trips", "x"]


def test_a_subgraph_that_hands_out_an_outer_tensor_reads_it() -> None:
    then = helper.make_graph([], "t", [], [value("outer")])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=then)
    assert set(tensors_read(node)) == {"flag", "outer"}


def test_left_out_inputs_are_no_reads() -> None:
    assert list(tensors_read(helper.make_node("Clip", ["x", "", "high"], ["y"]))) == ["x", "high"]


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
    model = build("g (float[2] x) => (float[2] y) { a = Identity(x)  b = Cos(w)  y = Mul(a, b) }", {"w": normal(0, 2)})
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


# Weights that constants are computed to: against onnxruntime


NORMALIZED = {
    "weight normalization": "n = ReduceL2<axes=[1,2,3], keepdims=1>(v) u = Div(v, n) k = Mul(g, u)",
    "by a sum of squares": """s = Mul(v, v) t = ReduceL1<axes=[1,2,3], keepdims=1>(s) r = Sqrt(t)
        i = Reciprocal(r) u = Mul(v, i) k = Mul(u, g)""",
    "weight standardization": """m = ReduceMean<axes=[1,2,3], keepdims=1>(v) d = Sub(v, m) q = Mul(d, d)
        a = ReduceMean<axes=[1,2,3], keepdims=1>(q) e = Add(a, eps) r = Sqrt(e) k = Div(d, r)""",
    "spectral normalization": "m = Reshape(v, flat) p = MatMul(m, right) s = MatMul(left, p) k = Div(v, s)",
    "put together": "k = Concat<axis=1>(v, v)",
    "picked": "a = Gather<axis=0>(v, order) b = Transpose<perm=[0,1,3,2]>(a) k = Pow(b, two)",
    "repeated": "o = Shape(v) a = Expand(g, o) h = Cast<to=11>(a) l = Cast<to=1>(h) k = Add(v, l)",
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("kind", NORMALIZED)
def test_computed_weights_are_those_of_onnxruntime(kind: str, opset: int) -> None:
    constants = {
        "v": normal(0, 6, 4, 3, 3), "g": normal(1, 6, 1, 1, 1), "eps": np.float32(1e-5), "two": np.float32(2),
        "flat": np.array([6, 36]), "left": normal(2, 1, 6), "right": normal(3, 36, 1), "order": np.array([5, 0, 0, 3]),
    }  # fmt: skip
    model = build(
        f"g (float[1] x) => (float[a,b,c,d] y) {{ {NORMALIZED[kind]} y = Mul(k, x) }}", constants, opset=opset
    )
    value = GraphIndex(model).constant("k")
    assert value is not None
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, run(model, {"x": np.ones(1, np.float32)})["y"], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("opset", [18, 20])
def test_sums_over_axes_that_are_inputs(opset: int) -> None:
    body = "n = ReduceL2(v, axes) s = ReduceSum(n, none) a, b = Split<axis=0, num_outputs=2>(v) c = Div(b, s)"
    constants = {"v": normal(0, 6, 4, 3, 3), "axes": np.array([1, 2, 3]), "none": np.array([0])}
    value = GraphIndex(build(f"g (float[1] x) => (float[1] y) {{ {body} y = Mul(c, x) }}", constants, opset=opset))
    norms = np.sqrt((constants["v"] ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(value.constant("c"), constants["v"][3:] / norms.sum(), rtol=2e-6)


def test_random_numbers_are_not_constant() -> None:
    model = build("g (float[3] x) => (float[3] y) { r = RandomNormal<shape=[3]>() k = Mul(r, r) y = Mul(k, x) }")
    assert GraphIndex(model).constant("k") is None


@pytest.mark.parametrize(
    "body", ["k = Expand(v, large)", "k = ConstantOfShape(large)", "k = Tile(v, large)", "k = Mul(row, column)"]
)
def test_constants_that_would_fill_the_memory_are_not_evaluated(body: str) -> None:
    constants = {"v": np.ones((1, 1), np.float32), "large": np.array([2**20, 2**20])}
    constants |= {"row": np.ones((1, 2**15), np.float32), "column": np.ones((2**15, 1), np.float32)}
    model = build(f"g (float[1] x) => (float[a,b] y) {{ {body} y = Mul(k, x) }}", constants)
    assert GraphIndex(model).constant("k") is None
