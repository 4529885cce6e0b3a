"""Inputs of a network that are weights, biases or other parameters of its layers, as training artifacts have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.graph.draws import is_draw
from onnx_lowrank.graph.extract import MIN_FREE_INITIALIZERS_IR
from onnx_lowrank.graph.index import GraphIndex, inner_nodes

# Positions of parameters among the inputs of an operator.
_PARAMETERS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), (1, 2)),
    "MatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4),
    "PRelu": (1,),
}
_PRODUCTS = frozenset({"Gemm", "MatMul"})  # of matrices, either of which may be data


def parameter_inputs(model: onnx.ModelProto) -> set[str]:
    """Return the names of the inputs that parameters of layers are computed from, and that are no layer's data.

    Args:
        model: the network.
    """
    index = GraphIndex(model)
    nodes = [each for node in model.graph.node for each in (node, *inner_nodes(node))]
    places = [(node, place) for node in nodes for place in _PARAMETERS.get(node.op_type, ())]
    return {name for node, place in places if place < len(node.input) for name in behind_parameter(index, node, place)}


def behind_parameter(index: GraphIndex, node: onnx.NodeProto, place: int) -> list[str]:
    """Return the inputs of a network that a parameter of a layer is computed from; none where it depends on data.

    Args:
        index: the network's graph.
        node: the layer.
        place: of the parameter among what the node reads.
    """
    names = index.inputs_behind(node.input[place])
    if not names:  # as nearly always; what is behind the data takes a walk through the graph
        return []
    data = index.behind(node.input[0]) & index.inputs.keys()
    if not data or not data.isdisjoint(names):
        return []
    if node.op_type in _PRODUCTS and not all(_is_matrix(index.inputs[name]) for name in names):
        return []
    return names


def why_not_constant(index: GraphIndex, node: onnx.NodeProto, place: int) -> str:
    """Return why a layer's weight, in place 1, or its bias, in place 2, has no value, and what to do about it."""
    part, places = ("weight", (1, 2)) if place == 1 else ("bias", (2,))
    behind = [behind_parameter(index, node, each) for each in places if each < len(node.input)]
    if not behind or not behind[0]:
        return f"its {part} is computed at run time{_from_constants(index, [*node.input][place:])}"
    inputs = list(dict.fromkeys(name for names in behind for name in names))
    computed = "" if all(name in node.input for name in inputs) else "computed from "
    which = "weight and bias are" if all(behind) and len(behind) > 1 else f"{part} is"
    what, them = ("inputs", "them") if len(inputs) > 1 else ("input", "it")
    named, values = " and ".join(f"'{name}'" for name in inputs), ", ".join(f"'{name}': 'FILE'" for name in inputs)
    return f"its {which} {computed}{what} {named}: make {them} constant with `constant_inputs={{{values}}}`"


def _from_constants(index: GraphIndex, tensors: Sequence[str]) -> str:
    """Return what to do about the first tensor where it is always the same, but by operators not evaluated here."""
    if not tensors or tensors[0] in index.varying or tensors[0] not in index.producer:
        return ""
    nodes = [index.producer[name] for name in index.behind(tensors[0]) if name in index.producer]
    return "" if any(map(is_draw, nodes)) else ", from constants: let a tool such as onnxslim fold them"


def _is_matrix(value: onnx.ValueInfoProto) -> bool:
    """Return whether an input can be the matrix of a layer: data have an open number of samples, or one."""
    return all(dim.dim_value > 1 for dim in value.type.tensor_type.shape.dim)


def with_values(model: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Return a model with initializers in the places of some inputs.

    Args:
        model: not changed.
        values: of these inputs, by name.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for position in reversed(range(len(graph.input))):
        value = graph.input[position]
        if value.name not in values:
            continue
        kind = value.type.tensor_type.elem_type
        array = values[value.name].astype(helper.tensor_dtype_to_np_dtype(kind))
        graph.initializer.append(numpy_helper.from_array(array, value.name))
        if model.ir_version < MIN_FREE_INITIALIZERS_IR:
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, array.shape))
        else:
            del graph.input[position]
    return changed
