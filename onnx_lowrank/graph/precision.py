"""Convert a network to float32, to run it where onnxruntime has no kernels for its own types.

Networks in bfloat16 and float64 are made for other machines or for other purposes. The responses of their layers can
be measured in float32 all the same; their factors are written in their own type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_lowrank.graph.index import inner_nodes
from onnx_lowrank.graph.tensors import every_tensor, subgraphs, values

_OTHER_FLOATS = frozenset({TensorProto.BFLOAT16, TensorProto.DOUBLE})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})  # of Cast, and of operators that generate tensors


def is_in_other_precision(model: onnx.ModelProto) -> bool:
    """Return whether a network holds bfloat16 or float64 tensors."""
    return any(tensor.data_type in _OTHER_FLOATS for tensor in every_tensor(model))


def in_single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a network with float32 instead of bfloat16 and float64; names and structure stay.

    Args:
        model: not changed.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for tensor in every_tensor(single):
        if tensor.data_type in _OTHER_FLOATS:
            with np.errstate(over="ignore"):  # overflow is reported when responses are measured
                tensor.CopyFrom(numpy_helper.from_array(values(tensor).astype(np.float32), tensor.name))
    nodes = list(_nodes([*single.graph.node, *(node for each in single.functions for node in each.node)]))
    for node in nodes:
        for each in node.attribute:
            if each.name in _TYPE_ATTRIBUTES and each.i in _OTHER_FLOATS:
                each.i = TensorProto.FLOAT
    graphs = [single.graph, *(graph for node in nodes for graph in subgraphs(node))]
    for value in [value for graph in graphs for value in (*graph.input, *graph.output, *graph.value_info)]:
        _retype(value.type)
    return single


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        yield from inner_nodes(node)


def _retype(kind: onnx.TypeProto) -> None:
    """Change the element type of a tensor type, also inside sequences and optional types."""
    while (wrapper := kind.WhichOneof("value")) in {"sequence_type", "optional_type"}:
        kind = getattr(kind, wrapper).elem_type
    if wrapper == "tensor_type" and kind.tensor_type.elem_type in _OTHER_FLOATS:
        kind.tensor_type.elem_type = TensorProto.FLOAT
