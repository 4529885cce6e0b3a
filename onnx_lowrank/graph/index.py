"""Reading an ONNX graph: who makes a tensor, who reads it, which tensors are constant.

A node is known by the first output it has: names may be missing or repeated in the wild, tensors may not.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.graph.tensors import subgraphs, values

# Operators that only reshape, retype or pass on: safe and cheap to evaluate ahead of time.
_FOLDABLE = frozenset(
    {
        "Constant",
        "Identity",
        "Cast",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "DequantizeLinear",
    }
)
STANDARD = frozenset({"", "ai.onnx"})  # names of the domain of standard operators
_FIRST_DEQUANTIZE = 19  # the reference evaluator implements no older version

# onnxruntime adds and multiplies from this opset on; what it runs of older ones means the same there.
FIRST_WITH_ARITHMETIC = 7


class GraphIndex:
    """Lookups over the main graph of a model; make a new one after the graph has changed.

    Attributes:
        producer: tensor name -> the node that makes it.
        consumers: tensor name -> the nodes that read it, subgraph captures included.
        outputs: names of the graph's outputs.
        initializers: name -> the initializer; those that are also graph inputs included.
        sparse: names of the sparse initializers.
        varying: tensors that depend on the graph's inputs.
        opset: version of the standard operators.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = opset(model)
        graph = model.graph
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self._places = {name: place for place, name in enumerate(self.producer)}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(tensors_read(node)):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self.varying = {value.name for value in graph.input} - self.initializers.keys()
        for node in graph.node:
            if not self.varying.isdisjoint(tensors_read(node)):
                self.varying.update(name for name in node.output if name)

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The single node that reads ``tensor``; None where several do or the graph hands it out."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of ``tensor`` where it does not depend on the graph's inputs, else None.

        Follows Constant, Identity, Cast, Reshape, Transpose and the like back to initializers.
        """
        chain = self._chain_behind(tensor)
        if chain is None:
            return None
        found: dict[str, NDArray[Any]] = {}
        for name in chain:
            if name in self.initializers:
                found[name] = values(self.initializers[name])
                continue
            node = self.producer[name]
            try:
                found[name] = self._evaluated(node, name, {each: found[each] for each in node.input if each})
            except Exception:  # of any type: what the evaluator makes of a strange node is no constant
                return None
        return found[tensor]

    def _chain_behind(self, tensor: str) -> list[str] | None:
        """The tensors that a constant is made from, in order; None where it is not made from initializers alone."""
        chain: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in chain:
                continue
            chain.add(name)
            if name in self.initializers:
                continue
            node = self.producer.get(name)
            if node is None or node.op_type not in _FOLDABLE or node.domain not in STANDARD:
                return None
            waiting += filter(None, node.input)
        return sorted(chain, key=lambda name: self._places.get(name, -1))

    def _evaluated(self, node: onnx.NodeProto, tensor: str, inputs: Mapping[str, Any]) -> NDArray[Any]:
        version = self.opset
        if node.op_type == "DequantizeLinear":  # an older one means the same here
            version = max(version, _FIRST_DEQUANTIZE)
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.domain = ""
        read = [onnx.ValueInfoProto(name=name) for name in inputs]
        graph = onnx.helper.make_graph([alone], "constant", read, [onnx.ValueInfoProto(name=tensor)])
        with np.errstate(all="ignore"):  # what is not finite in the network shows in its responses
            (value,) = ReferenceEvaluator(graph, opsets={"": version}).run(None, dict(inputs))
        return np.asarray(value)


def tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Names of all tensors a node reads, those its subgraphs capture from outside included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        inside = [name for inner in graph.node for name in tensors_read(inner)]
        yield from (name for name in [*inside, *(value.name for value in graph.output)] if name not in own)


def node_key(node: onnx.NodeProto) -> str | None:
    """What a node is known by; None where it makes nothing."""
    return next(filter(None, node.output), None)


def inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a node's subgraphs, and of theirs."""
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
    """A name for a tensor that is added to a network to look at it: none that a network has."""
    return "/".join(("onnx_lowrank:look", *parts))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute, text as str; ``default`` where it is not set."""
    for each in node.attribute:
        if each.name == name:
            own = onnx.AttributeProto()
            own.CopyFrom(each)
            own.ClearField("ref_attr_name")  # means nothing outside of functions
            value = onnx.helper.get_attribute_value(own)
            return value.decode() if isinstance(value, bytes) else value
    return default


def fresh_name(wanted: str, taken: Container[str]) -> str:
    """``wanted``, or with a number behind it where that is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operator set the model uses."""
    return max((each.version for each in model.opset_import if each.domain in STANDARD), default=1)
