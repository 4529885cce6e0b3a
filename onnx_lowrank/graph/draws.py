"""Nodes that draw random numbers, what depends on them, and Dropout that onnxruntime takes out.

onnxruntime's optimizer removes a Dropout in training mode as well as any other, unless it reads an input of the graph
or makes an output, or its mask is used (1.32.0). So a network is deterministic as deployed although it says otherwise,
but a part of it that ends or begins at the Dropout draws. Parts are therefore cut out without it.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_lowrank.graph.index import STANDARD_DOMAINS, GraphIndex, inner_nodes, node_key, tensors_read

_DRAWING_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_TRAINING_INPUT = 2  # of Dropout, from opset 12 on; older versions never draw


def drawn_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors that may depend on random numbers, each with the name of a node that draws them."""
    index, drawn = GraphIndex(model), dict[str, str]()
    calls = _drawing_functions(model)
    for node in model.graph.node:
        draws = any(_draws(each, calls) for each in (node, *inner_nodes(node))) and not is_taken_out(index, node)
        source = node.name or node_key(node) if draws else None
        source = source or next((drawn[name] for name in tensors_read(node) if name in drawn), None)
        if source is not None:
            drawn |= {name: source for name in node.output if name}
    return drawn


def without_idle_dropout(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes of a model with Identity in place of every Dropout that onnxruntime takes out of the whole model.

    Args:
        model: not changed.
        nodes: some of its nodes; not changed.
    """
    nodes = list(nodes)
    if not any(map(_may_train, nodes)):
        return nodes
    index = GraphIndex(model)
    return [_identity(node) if _may_train(node) and is_taken_out(index, node) else node for node in nodes]


def is_taken_out(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Return whether onnxruntime's optimizer removes a node because it is a Dropout."""
    if node.op_type != "Dropout" or node.domain not in STANDARD_DOMAINS or node.input[0] not in index.producer:
        return False
    mask_is_used = any(name in index.outputs or name in index.consumers for name in node.output[1:] if name)
    return not mask_is_used and node.output[0] not in index.outputs


def is_draw(node: onnx.NodeProto) -> bool:
    """Return whether a node, or one in its bodies, draws random numbers; functions of the model's own aside."""
    return any(_draws(each, set()) for each in (node, *inner_nodes(node)))


def _may_train(node: onnx.NodeProto) -> bool:
    is_dropout = node.op_type == "Dropout" and node.domain in STANDARD_DOMAINS
    return is_dropout and len(node.input) > _TRAINING_INPUT and bool(node.input[_TRAINING_INPUT])


def _draws(node: onnx.NodeProto, functions: set[tuple[str, str]]) -> bool:
    standard = node.domain in STANDARD_DOMAINS and node.op_type in _DRAWING_OPERATORS
    return standard or _may_train(node) or (node.domain, node.op_type) in functions


def _drawing_functions(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return domain and name of the model's own functions that draw, or call others that do."""
    drawing: set[tuple[str, str]] = set()
    bodies = {
        (each.domain, each.name): [inner for node in each.node for inner in (node, *inner_nodes(node))]
        for each in model.functions
    }
    while more := {key for key, nodes in bodies.items() if any(_draws(node, drawing) for node in nodes)} - drawing:
        drawing |= more
    return drawing


def _identity(dropout: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.helper.make_node("Identity", dropout.input[:1], dropout.output[:1], name=dropout.name)
