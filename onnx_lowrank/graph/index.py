"""Look things up in an ONNX graph: which node makes a tensor, which nodes read it, which tensors are constant.

Nodes are identified by their first output: node names may be missing or repeated, names of tensors may not.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.graph.tensors import subgraphs, values

# Operators that are evaluated in advance: cheap, and the same at every run.
_MOVING_OPERATORS = frozenset(  # reshape, convert or copy
    {
        *("Constant", "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
        *("DequantizeLinear",),
    }
)
_COMPUTING_OPERATORS = frozenset(  # what weights are normalized, scaled and put together with
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Min", "Max", "MatMul"),
        *("Abs", "Neg", "Sign", "Sqrt", "Reciprocal", "Exp", "Log", "Tanh", "Sigmoid", "Relu", "Clip"),
        *("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceMax", "ReduceMin"),
        *("Concat", "Slice", "Split", "Gather", "Expand", "Tile", "Shape", "ConstantOfShape", "Equal", "Where"),
        *("CastLike", "BatchNormalization", "Range"),
    }
)
_MAX_EVALUATED_VALUES = 2**28  # of one tensor
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})  # two names of one domain
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_MIN_DEQUANTIZE_OPSET = 19  # the reference evaluator implements no older version

# From this opset on onnxruntime has Add and Mul; the older operators that it runs mean the same in this opset.
MIN_ARITHMETIC_OPSET = 7


class GraphIndex:
    """Index of the main graph of a model; it does not follow later changes of the graph.

    Attributes:
        producer: tensor name -> the node that makes it.
        consumers: tensor name -> the nodes that read it, subgraph captures included.
        outputs: names of the graph's outputs.
        initializers: name -> the initializer; those that are also graph inputs included.
        sparse: names of the sparse initializers.
        inputs: name -> input of the graph; those that are initializers left out.
        varying: tensors that depend on the graph's inputs.
        open_sizes: whether an input leaves the size of any axis but the first open.
        opset: version of the standard operators.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = opset(model)
        graph = model.graph
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self._positions = {name: position for position, name in enumerate(self.producer)}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(tensors_read(node)):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self.inputs = {value.name: value for value in graph.input if value.name not in self.initializers}
        self.varying = set(self.inputs)
        kinds = [value.type.tensor_type for value in self.inputs.values()]
        self.open_sizes = not all(
            kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim[1:]) for kind in kinds
        )
        for node in graph.node:
            if not self.varying.isdisjoint(tensors_read(node)):
                self.varying.update(name for name in node.output if name)

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the only node that reads ``tensor``; None where several do, or where it is an output of the graph."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """Return the value of ``tensor`` where it does not depend on the graph's inputs, else None.

        Follows Constant, Reshape, Transpose and the like back to initializers, and arithmetic on these.
        """
        sources = self.sources(tensor)
        if sources is None:
            return None
        arrays: dict[str, NDArray[Any]] = {}
        for name in sources:
            if name in self.initializers:
                arrays[name] = values(self.initializers[name])
                continue
            node = self.producer[name]
            if _evaluated_values(node, [arrays[read] for read in node.input if read]) > _MAX_EVALUATED_VALUES:
                return None
            try:
                arrays[name] = self._evaluate(node, name, {read: arrays[read] for read in node.input if read})
            except Exception:  # the evaluator raises errors of any type on malformed nodes
                return None
        return arrays[tensor]

    def roots(self, tensor: str) -> list[onnx.TensorProto] | None:
        """Return the stored tensors that a constant is computed from; None where it is none."""
        sources = self.sources(tensor)
        if sources is None:
            return None
        constants = [self.producer[name] for name in sources if name not in self.initializers]
        stored = [self.initializers[name] for name in sources if name in self.initializers]
        for node in constants:
            if node.op_type == "Constant" and (value := attribute(node, "value")) is not None:
                value.name = node.output[0]
                stored.append(value)
        return stored

    def readers(self, tensor: str) -> tuple[list[onnx.NodeProto], bool]:
        """Return the nodes that read a constant or what is computed from it, and whether the graph hands any out."""
        readers: dict[str | None, onnx.NodeProto] = {}
        to_visit, visited = [tensor], {tensor}
        while to_visit:
            for node in self.consumers.get(to_visit.pop(), []):
                computed = [name for name in node.output if name]
                if not self.varying.isdisjoint(computed):
                    readers[node_key(node)] = node
                else:
                    to_visit += [name for name in computed if name not in visited]
                    visited.update(computed)
        in_order = sorted(readers, key=lambda key: self._positions.get(key or "", -1))
        return [readers[key] for key in in_order], not visited.isdisjoint(self.outputs)

    def sources(self, tensor: str) -> list[str] | None:
        """Return the tensors to evaluate for a constant, in order; None where it depends on more than initializers."""
        return None if tensor in self.varying else self._sources(tensor)

    def inputs_behind(self, tensor: str) -> list[str]:
        """Return the inputs that a tensor is computed from, where it would be constant if they were; else none."""
        return [name for name in self._sources(tensor) or [] if name in self.inputs]

    def behind(self, tensor: str) -> set[str]:
        """Return all tensors that one depends on in any way, itself included."""
        to_visit, visited = [tensor], {tensor}
        while to_visit:
            node = self.producer.get(to_visit.pop())
            new = {*tensors_read(node)} - visited if node is not None else set()
            visited |= new
            to_visit += new
        return visited

    def _sources(self, tensor: str) -> list[str] | None:
        """Return the tensors that one is computed from, in order; None where some are not evaluated in advance."""
        operators = _MOVING_OPERATORS | (_COMPUTING_OPERATORS if self.opset >= MIN_ARITHMETIC_OPSET else frozenset())
        sources: set[str] = set()
        to_visit = [tensor]
        while to_visit:
            name = to_visit.pop()
            if name in sources:
                continue
            sources.add(name)
            if name in self.initializers or name in self.inputs:
                continue
            node = self.producer.get(name)
            if node is None or node.op_type not in operators or node.domain not in STANDARD_DOMAINS:
                return None
            to_visit += filter(None, node.input)
        return sorted(sources, key=lambda name: self._positions.get(name, -1))

    def _evaluate(self, node: onnx.NodeProto, tensor: str, inputs: Mapping[str, Any]) -> NDArray[Any]:
        version = self.opset
        if node.op_type == "DequantizeLinear":  # older versions mean the same here
            version = max(version, _MIN_DEQUANTIZE_OPSET)
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.domain = ""
        read = [onnx.ValueInfoProto(name=name) for name in inputs]
        graph = onnx.helper.make_graph([alone], "constant", read, [onnx.ValueInfoProto(name=tensor)])
        with np.errstate(all="ignore"):  # numbers that are not finite are reported when responses are measured
            (value,) = ReferenceEvaluator(graph, opsets={"": version}).run(None, dict(inputs))
        return np.asarray(value)


def _evaluated_values(node: onnx.NodeProto, inputs: Sequence[NDArray[Any]]) -> int:
    """Return about how many values a node makes of constants, at least."""
    if node.op_type == "Range":
        start, limit, step = (float(each.reshape(())) for each in inputs)
        return ceil(max(0.0, (limit - start) / step)) if step else 0
    if node.op_type in {"ConstantOfShape", "Expand", "Tile"}:
        factor = inputs[0].size if node.op_type == "Tile" else 1
        return int(factor) * prod(int(size) for size in inputs[-1].ravel())
    if node.op_type == "MatMul" and min(each.ndim for each in inputs) > 1:
        return int(prod(inputs[0].shape[:-1]) * prod([*inputs[1].shape[:-2], inputs[1].shape[-1]]))
    try:  # operands that broadcast, or that are put together
        return prod(np.broadcast_shapes(*(each.shape for each in inputs)))
    except ValueError:
        return sum(each.size for each in inputs)


def tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of all tensors that a node reads, including those that its subgraphs capture."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        inside = [name for inner in graph.node for name in tensors_read(inner)]
        yield from (name for name in [*inside, *(value.name for value in graph.output)] if name not in own)


def node_key(node: onnx.NodeProto) -> str | None:
    """Return the first output of a node, which identifies it; None where it has no output."""
    return next(filter(None, node.output), None)


def inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a node's subgraphs, and of theirs."""
    for graph in subgraphs(node):
        for inner in graph.node:
            yield inner
            yield from inner_nodes(inner)


def names_in_use(model: onnx.ModelProto) -> set[str]:
    """Return the names of all nodes and tensors, those of subgraphs included, which new ones must not have."""
    return set(_names(model.graph))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for subgraph in subgraphs(node):
            yield from _names(subgraph)


def probe_name(*parts: str) -> str:
    """Return a name for a tensor that is added to a network to observe it; no network uses such names."""
    return "/".join(("onnx_lowrank:look", *parts))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute, text as str; ``default`` where it is not set."""
    for each in node.attribute:
        if each.name == name:
            copy = onnx.AttributeProto()
            copy.CopyFrom(each)
            copy.ClearField("ref_attr_name")  # has no meaning outside of functions
            value = onnx.helper.get_attribute_value(copy)
            return value.decode() if isinstance(value, bytes) else value
    return default


def fresh_name(base: str, taken: Container[str]) -> str:
    """Return ``base``, with a number appended where that name is taken."""
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that the model uses."""
    return max((each.version for each in model.opset_import if each.domain in STANDARD_DOMAINS), default=1)
