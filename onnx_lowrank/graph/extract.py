"""Cutting an ONNX graph: parts of it as models of their own, and what nobody needs any more removed."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import onnx

from onnx_lowrank.graph.index import FIRST_WITH_ARITHMETIC, STANDARD, GraphIndex, node_key, tensors_read

# Before this IR version every initializer had to be listed among the graph's inputs too.
FIRST_IR_WITH_FREE_INITIALIZERS = 4


def extract(
    model: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    extra: Sequence[onnx.NodeProto] = (),
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A model of its own that computes ``outputs`` from ``inputs``, with only the nodes that takes.

    Args:
        model: where the nodes come from; not changed.
        inputs: the new graph's inputs: inputs of the model, or inner tensors to cut at.
        outputs: the new graph's outputs: tensors of the model or of ``extra``.
        extra: nodes to run behind the model's own, in topological order; of opset 7 or newer.
        constants: initializers that ``extra`` reads.
    """
    given = {value.name for value in inputs}
    needed = {value.name for value in outputs} | {name for node in extra for name in tensors_read(node)}
    nodes = [*ancestors(model, needed, given), *extra]
    used = {name for node in nodes for name in tensors_read(node)} - given
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    sparse = [tensor for tensor in model.graph.sparse_initializer if tensor.values.name in used]
    name = model.graph.name or "graph"
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, initializers, sparse_initializer=sparse)
    graph.initializer.extend(constants)
    if model.ir_version < FIRST_IR_WITH_FREE_INITIALIZERS:
        graph.input.extend(initializer_input(tensor) for tensor in graph.initializer)
    opsets = [onnx.helper.make_opsetid(each.domain, each.version) for each in model.opset_import]
    for each in opsets:
        if each.domain in STANDARD:
            each.version = max(each.version, FIRST_WITH_ARITHMETIC)
    return onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=opsets, functions=model.functions)


def ancestors(model: onnx.ModelProto, tensors: Iterable[str], given: Container[str]) -> list[onnx.NodeProto]:
    """The nodes needed to compute ``tensors`` where those of ``given`` are at hand, in the graph's order."""
    needed = {name for name in tensors if name not in given}
    found = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            found.append(node)
            needed.update(name for name in tensors_read(node) if name not in given)
    return found[::-1]


def initializer_input(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    """The graph input that must stand beside an initializer before IR version 4."""
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)


def remove_orphans(model: onnx.ModelProto, tensors: Iterable[str]) -> None:
    """Drop whatever only served to make ``tensors``, where nothing reads them any more.

    Nodes, initializers, the graph inputs that stand for initializers (IR version 3) and the shapes noted for tensors
    that are gone go; nothing else is touched.
    """
    graph = model.graph
    index = GraphIndex(model)
    readers = {name: len(nodes) for name, nodes in index.consumers.items()}
    waiting, dead_nodes, dead_initializers, gone = list(tensors), set(), set(), set()
    while waiting:
        name = waiting.pop()
        if readers.get(name, 0) or name in index.outputs:
            continue
        if name in index.initializers:
            dead_initializers.add(name)
        node = index.producer.get(name)
        if node is None:
            gone.add(name)
        if node is None or node_key(node) in dead_nodes:
            continue
        if any(readers.get(output, 0) or output in index.outputs for output in node.output if output):
            continue
        dead_nodes.add(node_key(node))
        gone.update(node.output)
        for read in dict.fromkeys(tensors_read(node)):
            readers[read] -= 1
            waiting.append(read)
    _delete(graph.node, lambda node: node_key(node) in dead_nodes)
    _delete(graph.initializer, lambda tensor: tensor.name in dead_initializers)
    _delete(graph.input, lambda value: value.name in dead_initializers)
    _delete(graph.value_info, lambda value: value.name in gone)


def _delete(field: Any, is_dead: Callable[[Any], bool]) -> None:
    for position in reversed(range(len(field))):
        if is_dead(field[position]):
            del field[position]
