"""Graphs as exporters and optimizers leave them: what can be converted is, all else stays, named with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import LayerPlan, RankPlan, convert, inspect
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import largest_ranks
from tests.helpers import add_initializers, build, filters, normal, relative, run
from tests.networks import images

Array = NDArray[Any]
IMAGES = images(24, size=8)
TRUE = np.array(True)
WEIGHTS = {"w1": filters(0, 6, 3, 3, 3), "w2": filters(1, 6, 6, 3, 3), "b": normal(2, 6)}


def branches() -> onnx.ModelProto:
    """If: one branch convolves what it captures, with a weight that the main graph uses too, and names that mislead."""
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b)
        y = If (yes) <
            then_branch = t () => (float[N,6,8,8] r2) {
                [c1_lowrank_0] c3 = Conv <pads = [1, 1, 1, 1]> (c2, w2)
                r2 = Relu (c3)
            },
            else_branch = e () => (float[N,6,8,8] r3) { r3 = Add (c2, r1) }
        >
    }"""
    model = build(graph, {**WEIGHTS, "yes": TRUE})
    model.graph.node[-1].attribute[0].g.node[0].name = "c1/lowrank_0"  # a name that the factors would like to have
    return model


def loop() -> onnx.ModelProto:
    """Loop: convolves what it carries, three times."""
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        s = Loop (three, yes, r1) <
            body = b (int64 i, bool go, float[N,6,8,8] before) => (bool on, float[N,6,8,8] after) {
                on = Identity (go)
                c = Conv <pads = [1, 1, 1, 1]> (before, w2)
                after = Tanh (c)
            }
        >
        c2 = Conv <pads = [1, 1, 1, 1]> (s, w2)
        y = Relu (c2)
    }"""
    return build(graph, {**WEIGHTS, "three": np.array(3), "yes": TRUE})


def scan() -> onnx.ModelProto:
    """Scan: adds up what a convolution makes, row by row."""
    graph = """g (float[1,3,8,8] x) => (float[6,8] y, float[8,6,8] sums) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        t = Transpose <perm = [2, 0, 1, 3]> (r1)
        q = Reshape (t, shape)
        y, sums = Scan <
            num_scan_inputs = 1,
            body = b (float[6,8] state, float[6,8] row) => (float[6,8] next, float[6,8] out) {
                m = MatMul (row, square)
                next = Add (state, m)
                out = Identity (next)
            }
        > (zero, q)
    }"""
    constants = {"shape": np.array([8, 6, 8]), "zero": np.zeros((6, 8), np.float32), "square": normal(3, 8, 8)}
    return build(graph, {**WEIGHTS, **constants})


def functions() -> onnx.ModelProto:
    """Functions of the model's own: one calls another that convolves; a third does not and stays."""
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        a = own.block (x, w1)
        d = own.doubled (a)
        e = own.block (d, w2)
        y = Relu (e)
    }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    block (i, w) => (o) { c = own.convolution (i, w)  o = Relu (c) }
    <domain: "own", opset_import: ["" : 17]>
    convolution (i, w) => (o) { o = Conv <pads = [1, 1, 1, 1]> (i, w) }
    <domain: "own", opset_import: ["" : 17]>
    doubled (i) => (o) { o = Add (i, i) }"""
    model = onnx.parser.parse_model(text)
    add_initializers(model, WEIGHTS)
    return model


def sparse() -> onnx.ModelProto:
    """One weight is kept as a sparse tensor."""
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, few)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        y = Relu (c2)
    }"""
    model = build(graph, {"w2": WEIGHTS["w2"]})
    places = np.arange(0, 6 * 27, 5)
    values = numpy_helper.from_array(WEIGHTS["w1"].ravel()[places], "few")
    indices = numpy_helper.from_array(places, "few_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [6, 3, 3, 3]))
    return model


def optimized() -> onnx.ModelProto:
    """As onnxruntime writes optimized models: fused operators of its own domain."""
    graph = """g (float[N,3,8,8] x) => (float[N,6] y) {
        c1 = com.microsoft.FusedConv <pads = [1, 1, 1, 1], activation = "Relu"> (x, w1, b)
        c2 = Conv <pads = [1, 1, 1, 1]> (c1, w2)
        r2 = Relu (c2)
        p = GlobalAveragePool (r2)
        q = Flatten (p)
        y = com.microsoft.FusedGemm <activation = "Relu"> (q, f, b)
    }"""
    model = build(graph, {**WEIGHTS, "f": normal(3, 6, 6)})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def constant_input() -> onnx.ModelProto:
    """A position table goes through a layer of its own, which no sample reaches."""
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        p = Conv <pads = [1, 1, 1, 1]> (table, w2)
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        s = Add (c1, p)
        y = Relu (s)
    }"""
    return build(graph, {**WEIGHTS, "table": normal(3, 1, 6, 8, 8)})


def transposed() -> onnx.ModelProto:
    """An activation in another memory layout, a nearest-neighbour Resize, a transposed convolution."""
    graph = """g (float[N,3,8,8] x) => (float[N,3,16,16] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        t = Transpose <perm = [0, 2, 3, 1]> (c1)
        r1 = Relu (t)
        u = Transpose <perm = [0, 3, 1, 2]> (r1)
        c2 = Conv <pads = [1, 1, 1, 1]> (u, w2)
        d = Dropout (c2)
        r2 = Relu (d)
        y = ConvTranspose <strides = [2, 2]> (r2, up)
    }"""
    return build(graph, {**WEIGHTS, "up": filters(3, 6, 3, 2, 2)})


# The network, the layers that can be factorized (how many where onnx names them), why the others stay.
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], list[str] | int, dict[str, str]]] = {
    "if": (branches, ["c1", "c2"], {"y/c1/lowrank_0": "inside the If"}),
    "loop": (loop, ["c1", "c2"], {"s/c": "inside the Loop"}),
    "scan": (scan, ["c1"], {"y/m": "inside the Scan"}),
    "functions": (functions, 2, {}),
    "sparse": (sparse, ["c2"], {"c1": "its weight is sparse"}),
    "optimized": (optimized, ["c2"], {"c1": "FusedConv is not supported", "y": "FusedGemm is not supported"}),
    "constant input": (constant_input, ["c1"], {"p": "its input is constant"}),
    "transposed": (transposed, ["c1", "c2", "y"], {}),
}


def layers(model: onnx.ModelProto) -> list[Layer]:
    return [row for row in inspect(model).rows if isinstance(row, Layer)]


@pytest.mark.parametrize("case", CASES)
def test_what_is_converted_and_why_the_rest_stays(case: str) -> None:
    make, wanted, reasons = CASES[case]
    rows = inspect(make()).rows
    assert {row.name: row.reason for row in rows if isinstance(row, SkippedLayer)} == reasons
    names = [row.name for row in rows if isinstance(row, Layer)]
    assert len(names) == wanted if isinstance(wanted, int) else names == wanted


@pytest.mark.parametrize("method", ["channel", "spatial-channel"])
@pytest.mark.parametrize("case", CASES)
def test_full_rank_changes_nothing(case: str, method: str) -> None:
    model = CASES[case][0]()
    before = model.SerializeToString(deterministic=True)
    entries = [
        LayerPlan(layer.name, method, **{kind: largest_ranks(layer)[kind] for kind in method.split("-")})
        for layer in layers(model)
    ]
    result = convert(model, {"x": IMAGES}, plan=RankPlan(tuple(entries)), solver="linear", refine="none", bench=False)
    assert result.model is not None
    assert model.SerializeToString(deterministic=True) == before
    one = {"x": IMAGES[:1]}
    for name, values in run(model, one).items():
        assert relative(values, run(result.model, one)[name]) < 1e-5
    assert sum("lowrank" in node.name for node in result.model.graph.node) == len(entries) * len(
        method.split("-")
    ) + len(entries)


def test_a_function_without_layers_stays_a_function() -> None:
    result = convert(functions(), {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    assert [function.name for function in result.model.functions] == ["doubled"]


def test_names_that_we_might_want_ourselves() -> None:
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,8] y) {
        [c1] c = Conv <pads = [1, 1, 1, 1]> (x, w1)
        inputs = Relu (c)
        [inputs] d = Conv <pads = [1, 1, 1, 1]> (inputs, w2)
        s = Add (d, inputs)
        y = Relu (s)
    }"""
    model = build(graph, WEIGHTS)
    for old, new in (("c", "d/shape"), ("d", "inputs/input/rows"), ("s", "c1/lowrank_0/output")):
        for node in model.graph.node:
            for field in (node.input, node.output):
                for place, name in enumerate(field):
                    field[place] = new if name == old else name
    result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    assert 0 < relative(run(model, {"x": IMAGES})["y"], run(result.model, {"x": IMAGES})["y"]) < 0.3


def test_a_fully_connected_layer_of_an_opset_without_sums_stays() -> None:
    graph = """g (float[N,3,8,8] x) => (float[N,6,8,6] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        y = MatMul (c1, f)
    }"""
    model = build(graph, {**WEIGHTS, "f": normal(4, 8, 6)}, opset=6, ir=3)
    reasons = [row.reason for row in inspect(model).rows if isinstance(row, SkippedLayer)]
    assert reasons == ["opset 6 has no Add that onnxruntime knows: convert the model to a newer one"]
    result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    assert result.model.opset_import == model.opset_import


@pytest.mark.parametrize(
    ("opset", "ir"),
    [
        (7, 3),
        (8, 3),
        (9, 4),
        (10, 5),
        (11, 6),
        (12, 7),
        (13, 7),
        (15, 8),
        (18, 8),
        (20, 9),
        (22, 10),
        (25, 12),
        (28, 13),
    ],
)
def test_opsets_and_versions_are_kept(opset: int, ir: int) -> None:
    graph = """g (float[N,3,8,8] x) => (float[N,6] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
        r1 = Relu (c1)
        c2 = Conv (r1, w2)
        s = Add (c2, offsets)
        r2 = Relu (s)
        p = GlobalAveragePool (r2)
        q = Flatten (p)
        y = MatMul (q, f)
    }"""
    weights = {**WEIGHTS, "offsets": normal(3, 1, 6, 1, 1), "f": normal(4, 6, 6)}
    model = build(graph, weights, opset=opset, ir=ir)
    result = convert(model, {"x": IMAGES}, speedup=1.5, rank_multiple=1, bench=False)
    assert result.model is not None
    assert (result.model.ir_version, result.model.opset_import) == (ir, model.opset_import)
    assert 0 < relative(run(model, {"x": IMAGES})["y"], run(result.model, {"x": IMAGES})["y"]) < 0.3
    onnx.checker.check_model(result.model)


def test_what_else_a_model_carries_stays() -> None:
    """Texts, metadata, notes on shapes, and the order of everything untouched."""
    model = transposed()
    model.doc_string, model.producer_name, model.domain, model.model_version = "notes", "someone", "there", 7
    model.metadata_props.add(key="classes", value="cat,dog")
    model.graph.doc_string = "more notes"
    model.graph.value_info.append(helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 8, 8, 6]))
    result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    for field in ("doc_string", "producer_name", "domain", "model_version"):
        assert getattr(result.model, field) == getattr(model, field)
    assert result.model.graph.doc_string == "more notes"
    assert {"classes": "cat,dog"}.items() <= {each.key: each.value for each in result.model.metadata_props}.items()
    assert list(result.model.graph.value_info) == list(model.graph.value_info)
    converted = {layer.name for layer in result.report.layers if layer.method != "kept"}
    untouched = [node for node in result.model.graph.node if "lowrank" not in node.name]
    assert untouched == [node for node in model.graph.node if node.output[0] not in converted]
