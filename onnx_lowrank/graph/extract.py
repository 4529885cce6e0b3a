"""Take an ONNX graph apart: parts of it as models of their own, further outputs, removal of what nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import onnx

from onnx_lowrank.graph.draws import without_idle_dropout
from onnx_lowrank.graph.index import MIN_ARITHMETIC_OPSET, STANDARD_DOMAINS, node_key, tensors_read

# Before this IR version every initializer had to be listed among the graph's inputs too.
MIN_FREE_INITIALIZERS_IR = 4


def extract(
    model: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    extra: Sequence[onnx.NodeProto] = (),
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """Return a model that computes ``outputs`` from ``inputs``, with only the nodes that this takes.

    It computes what the whole model does as it runs: Dropout that onnxruntime takes out of that is taken out here too.

    Args:
        model: where the nodes come from; not changed.
        inputs: the new graph's inputs: inputs of the model, or inner tensors to cut at.
        outputs: the new graph's outputs: tensors of the model or of ``extra``.
        extra: nodes to run after the model's own, in topological order; of opset 7 or newer.
        constants: initializers that ``extra`` reads.
    """
    given = {value.name for value in inputs}
    needed = {value.name for value in outputs} | {name for node in extra for name in tensors_read(node)}
    nodes = [*without_idle_dropout(model, ancestors(model, needed, given)), *extra]
    used = {name for node in nodes for name in tensors_read(node)} - given
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    sparse = [tensor for tensor in model.graph.sparse_initializer if tensor.values.name in used]
    name = model.graph.name or "graph"
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, initializers, sparse_initializer=sparse)
    graph.initializer.extend(constants)
    if model.ir_version < MIN_FREE_INITIALIZERS_IR:
        graph.input.extend(initializer_input(tensor) for tensor in graph.initializer)
    opsets = [onnx.helper.make_opsetid(each.domain, each.version) for each in model.opset_import]
    for each in opsets:
        if each.domain in STANDARD_DOMAINS:
            each.version = max(each.version, MIN_ARITHMETIC_OPSET)
    return onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=opsets, functions=model.functions)


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a model that also hands out some of its inner tensors, to be run in onnxruntime.

    Args:
        model: not changed.
        tensors: names of inner tensors; those that are outputs already are left out.

    Returns:
        A copy with further outputs, in the order given; the model itself where there are none. The new outputs have no
        type, which onnxruntime infers but the ONNX checker refuses.
    """
    outputs = {value.name for value in model.graph.output}
    further = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in outputs]
    if not further:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(further)
    return copy


def ancestors(model: onnx.ModelProto, tensors: Iterable[str], given: Container[str]) -> list[onnx.NodeProto]:
    """Return the nodes that compute ``tensors`` from those in ``given``, in the graph's order."""
    needed = {name for name in tensors if name not in given}
    nodes = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(name for name in tensors_read(node) if name not in given)
    return nodes[::-1]


def descendants(model: onnx.ModelProto, tensors: Iterable[str]) -> set[str]:
    """Return the names of all tensors that are computed from ``tensors``, these included."""
    reached = set(tensors)
    for node in model.graph.node:
        if not reached.isdisjoint(tensors_read(node)):
            reached.update(name for name in node.output if name)
    return reached


def initializer_input(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    """Return the graph input that an initializer must have as well before IR version 4."""
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)


def remove_orphans(model: onnx.ModelProto, tensors: Iterable[str]) -> None:
    """Remove what only served to compute ``tensors``, where nothing reads them any more.

    That is nodes and initializers, and what refers to them: the graph inputs of initializers (IR version 3), shapes and
    quantization annotations. An initializer that an annotation names as scale or zero point stays.

    Args:
        model: changed in place.
        tensors: names of tensors, which need not exist any more.
    """
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    readers = Counter(name for node in graph.node for name in dict.fromkeys(tensors_read(node)))
    readers.update(value.name for value in graph.output)
    readers.update(entry.value for each in graph.quantization_annotation for entry in each.quant_parameter_tensor_names)
    to_check, gone = list(tensors), set()
    while to_check:
        name = to_check.pop()
        node = producer.get(name)
        made = [name] if node is None else [output for output in node.output if output]
        if name in gone or any(readers[tensor] for tensor in made):
            continue
        gone.update(made)
        for read in dict.fromkeys(tensors_read(node)) if node is not None else ():
            readers[read] -= 1
            to_check.append(read)
    gone -= {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    _delete(graph.node, lambda node: node_key(node) in gone)
    _delete(graph.initializer, lambda tensor: tensor.name in gone)
    _delete(graph.input, lambda value: value.name in gone)
    _delete(graph.value_info, lambda value: value.name in gone)
    _delete(graph.quantization_annotation, lambda annotation: annotation.tensor_name in gone)


def _delete(field: Any, is_dead: Callable[[Any], bool]) -> None:
    for position in reversed(range(len(field))):
        if is_dead(field[position]):
            del field[position]
