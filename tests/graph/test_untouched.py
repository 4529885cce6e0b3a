"""What a model holds besides its layers: names, texts, annotations, the place of weights. All of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import convert
from onnx_lowrank.graph import inline_functions, read_model, replace_layer, staged
from onnx_lowrank.layers.layer import Layer
from tests.graph.test_replace_layer import same
from tests.helpers import Array, build, filters, find, normal, relative, run

FEEDS: dict[str, Array] = {"x": normal(1, 3, 3, 8, 7), "flag": np.array(True)}


def network() -> onnx.ModelProto:
    """A layer, an If whose branches capture weights of the graph and have some of their own, and a function."""
    model = build(
        """g (float[N,3,8,7] x, bool flag) => (float[N,5,8,7] y, float[N,5,8,7] z) {
            c = Conv<pads=[1,1,1,1]>(x, w, b)
            n = Mul(c, scale)
            r = Relu(n)
            y = com.example.Twice(r)
            z = If(flag) <
                then_branch = t () => (float[N,5,8,7] p) { o = Add(r, shift)  p = Mul(o, own_of_then) },
                else_branch = e () => (float[N,5,8,7] q) { m = Sub(r, shift)  q = Mul(m, own_of_else) }
            >
        }""",
        {
            "unread_before": normal(9, 2),
            "w": filters(0, 5, 3, 3, 3),
            "shift": normal(2, 5, 1, 1),
            "scale": normal(3, 5, 1, 1),
            "b": normal(4, 5),
            "scale_of_shift": np.float32([0.5]),
            "unread_behind": normal(8, 2),
        },
    )
    model.opset_import.extend([helper.make_opsetid("com.example", 1), helper.make_opsetid("com.unused", 7)])
    node = helper.make_node("Add", ["a", "a"], ["b"], doc_string="node in a function")
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("com.example", "Twice", ["a"], ["b"], [node], opsets))
    for number, branch in enumerate(branches(model)):
        name = next(name for name in branch.node[1].input if name.startswith("own"))
        branch.initializer.append(numpy_helper.from_array(normal(number, 5, 1, 1), name))
    return model


def branches(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [each.g for node in model.graph.node for each in node.attribute if each.HasField("g")]


def decorated() -> onnx.ModelProto:
    """The network with every text, annotation and property that the format has a place for."""
    model = network()
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "1.2", "org", 42
    graphs = [model.graph, *branches(model)]
    nodes = [node for graph in graphs for node in graph.node]
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    values = [value for graph in graphs for value in (*graph.input, *graph.output)]
    every: list[Any] = [model, *graphs, *nodes, *tensors, *values, *model.functions]
    for number, each in enumerate(every):
        each.doc_string = f"text {number}"
        each.metadata_props.add(key="number", value=str(number))
    for number, node in enumerate(nodes):
        node.name = node.name or f"node {number}"
    for value in model.graph.input:
        value.type.denotation = "TENSOR"
        for size in value.type.tensor_type.shape.dim:
            size.denotation = "DATA_FEATURE"
    for name, shape in {"n": None, "r": ["N", 5, 8, 7], "gone before": [2]}.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    annotate(model, "shift", "scale_of_shift")
    return model


def annotate(model: onnx.ModelProto, tensor: str, scale: str) -> None:
    annotation = model.graph.quantization_annotation.add(tensor_name=tensor)
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)


def annotated(model: onnx.ModelProto) -> list[str]:
    return [each.tensor_name for each in model.graph.quantization_annotation]


def only_layer(model: onnx.ModelProto) -> Layer:
    (layer,), _ = find(model, FEEDS)
    return layer


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    layer = only_layer(model)
    replace_layer(copy, layer, same(layer))
    onnx.checker.check_model(copy, full_check=True)
    return copy


def without(model: onnx.ModelProto, nodes: set[str], tensors: set[str]) -> bytes:
    """A model's bytes without some nodes, by what they make, and initializers."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    kept = [node for node in rest.graph.node if not nodes.intersection(node.output)]
    weights = [tensor for tensor in rest.graph.initializer if tensor.name not in tensors]
    del rest.graph.node[:], rest.graph.initializer[:]
    rest.graph.node.extend(kept)
    rest.graph.initializer.extend(weights)
    return bytes(rest.SerializeToString(deterministic=True))


def test_the_network_is_what_it_says() -> None:
    model = decorated()
    onnx.checker.check_model(model, full_check=True)
    for flag in (True, False):
        feeds = FEEDS | {"flag": np.array(flag)}
        for name, value in run(model, feeds).items():
            assert relative(value, run(converted(model), feeds)[name]) < 2e-6


def test_what_no_layer_needs_stays_byte_for_byte() -> None:
    model = decorated()
    after = converted(model)
    weights = {f"node 0/lowrank_{part}" for part in ("0/weight", "1/weight", "1/bias")}
    assert weights <= {tensor.name for tensor in after.graph.initializer}
    assert without(after, {"node 0/lowrank_0/output", "n"}, weights) == without(model, {"c", "n"}, {"w", "b", "scale"})


def test_a_conversion_adds_nothing_but_factors_and_its_signature(tmp_path: Path) -> None:
    model, path = decorated(), tmp_path / "converted.onnx"
    settings: dict[str, Any] = {"provider": "cpu", "threads": 1, "bench": False, "samples": 8}
    convert(model, {"x": normal(1, 40, 3, 8, 7)}, output=path, speedup=1.5, constant_inputs={"flag": [1]}, **settings)
    after = read_model(path)
    texts = after.metadata_props
    assert all(each.key.startswith("onnx_lowrank.") for each in texts[1:])
    del texts[1:]
    outputs = {name for node in after.graph.node for name in node.output if "lowrank" in name}
    weights = {tensor.name for tensor in after.graph.initializer if "lowrank" in tensor.name}
    assert outputs
    assert weights
    assert without(after, outputs | {"n"}, weights) == without(model, {"c", "n"}, {"w", "b", "scale"})


def test_annotations_go_with_their_tensors() -> None:
    model = decorated()
    for tensor in ("w", "c", "n"):
        annotate(model, tensor, "scale_of_shift")
    assert annotated(model) == ["shift", "w", "c", "n"]
    assert annotated(converted(model)) == ["shift", "n"]


def test_weights_that_an_annotation_names_stay() -> None:
    model = network()
    annotate(model, "shift", "scale")
    after = converted(model)
    assert "scale" in {tensor.name for tensor in after.graph.initializer}
    assert "w" not in {tensor.name for tensor in after.graph.initializer}


@pytest.mark.parametrize("name", ["node 0/lowrank_0/weight", "node 0/lowrank_0/output", "node 0/lowrank_0"])
def test_names_that_only_notes_and_branches_use_are_taken(name: str) -> None:
    noted, captured = decorated(), decorated()
    noted.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3]))
    branches(captured)[0].initializer.append(numpy_helper.from_array(normal(0, 2), name))
    for model in (noted, captured):
        after = converted(model)
        used = [each.name for each in (*after.graph.node, *after.graph.initializer)]
        assert name not in {*used, *(output for node in after.graph.node for output in node.output)}


def test_reading_and_writing_change_nothing(tmp_path: Path) -> None:
    model = decorated()
    path = tmp_path / "model.onnx"
    with staged(read_model(model), path):
        pass
    assert read_model(path).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def differences(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[str]:
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(before, field) != getattr(after, field):
            yield field
    if list(before.metadata_props) != list(after.metadata_props):
        yield "metadata_props"
    fields = ("initializer", "input", "output", "value_info", "quantization_annotation", "metadata_props")
    for field in fields:
        if list(getattr(before.graph, field)) != list(getattr(after.graph, field)):
            yield f"graph.{field}"
    if (before.graph.name, before.graph.doc_string) != (after.graph.name, after.graph.doc_string):
        yield "graph.name"


def test_writing_functions_out_changes_their_calls_alone() -> None:
    model = decorated()
    (function,) = model.functions
    function.node.append(helper.make_node("MatMul", ["b", "b"], ["unused"]))
    after = inline_functions(model)
    assert not after.functions
    assert list(differences(model, after)) == []
    calls = [node for node in model.graph.node if node.op_type != "Twice"]
    assert [node for node in after.graph.node if node in calls] == calls
