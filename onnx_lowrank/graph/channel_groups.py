"""Find the channels that a layer reads and nothing else does: what makes them, and what carries them there.

From the layer's input a walk goes back to the layers whose filters make the channels, and forward to all that reads
them. It ends with a reason where a channel is part of more than this, as those are that a shortcut shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from onnx_lowrank.graph.channel_members import (
    Channels,
    Cut,
    carry,
    has_rule,
    is_depthwise,
    own_bias,
)
from onnx_lowrank.graph.index import (
    MIN_ARITHMETIC_OPSET,
    STANDARD_DOMAINS,
    GraphIndex,
    attribute,
    node_key,
    tensors_read,
)
from onnx_lowrank.graph.tensor_axes import (
    ELEMENTWISE,
    GLOBAL_POOLS,
    POOLS,
    REDUCTIONS,
    SUMS,
    UNARY,
    Entry,
    TensorAxes,
)
from onnx_lowrank.graph.tensors import subgraphs
from onnx_lowrank.layers.channel_group import ChannelGroup

Names = Mapping[str | None, str]

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_ONE_INPUT = UNARY | POOLS | GLOBAL_POOLS | {"BatchNormalization", "InstanceNormalization"}
_MIXING = REDUCTIONS | {
    *("LayerNormalization", "GroupNormalization", "RMSNormalization", "LRN", "MeanVarianceNormalization"),
    *("LpNormalization", "Softmax", "LogSoftmax", "DepthToSpace", "SpaceToDepth"),
}
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SHORTCUT = "a shortcut shares its channels"
_MAX_GATE_NODES = 64  # between the layer that reads pooled channels and the gate that it opens


class ChannelGraph:
    """A graph as `channel_group` looks at it; for all of its layers.

    Args:
        model: not changed.
        index: of its graph.

    Attributes:
        index: of its graph.
        tensors: axes of its tensors.
        origins: tensor name -> the tensors that it is computed from channel by channel, back to layers and shortcuts.
        places: place of every node in the graph, by `node_key`.
    """

    def __init__(self, model: onnx.ModelProto, index: GraphIndex) -> None:
        self.index = index
        self.tensors = TensorAxes(model, index)
        self.places = {node_key(node): place for place, node in enumerate(model.graph.node)}
        self.origins: dict[str, frozenset[str]] = {}
        for node in model.graph.node:
            origin = self._origin(node)
            self.origins |= {name: origin or frozenset({name}) for name in node.output if name}

    def _origin(self, node: onnx.NodeProto) -> frozenset[str] | None:
        """Return what a node that keeps channels apart computes them from; None for shortcuts and other nodes."""
        if node.domain not in STANDARD_DOMAINS:
            return None
        if node.op_type in _ONE_INPUT or (node.op_type == "Conv" and self._is_depthwise(node)):
            return self.origins.get(node.input[0])
        if node.op_type not in ELEMENTWISE:
            return None
        operands = [self.origins.get(name, frozenset({name})) for name in node.input if name in self.index.varying]
        every = frozenset[str]().union(*operands)
        # A sum of what one layer makes with what it was computed from, as in GELU's polynomial, is no shortcut.
        return None if node.op_type in SUMS and not any(each == every for each in operands) else every

    def _is_depthwise(self, node: onnx.NodeProto) -> bool:
        return is_depthwise(self.tensors, node, attribute(node, "group", 1))


@dataclass(frozen=True)
class Closure:
    """The tensors that carry a group of channels, and the nodes around them.

    Attributes:
        channels: how many, m.
        tensors: name -> axis of the channels, counted from the end.
        makers: nodes whose filters make the channels.
        carried: depthwise convolutions.
        readers: the layer that reads the channels, then those that read them pooled, for a gate.
        cuts: constants with the channels on one of their axes.
        counts: numbers in constants that are the number of channels.
    """

    channels: int
    tensors: dict[str, int] = field(default_factory=dict)
    makers: list[onnx.NodeProto] = field(default_factory=list)
    carried: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    counts: list[Entry] = field(default_factory=list)


def channel_group(graph: ChannelGraph, names: Names, node: onnx.NodeProto) -> ChannelGroup | str:
    """Return the channels that a layer reads as a group that may be left out, or the reason why they have to stay.

    Args:
        graph: the network's.
        names: of all nodes, by `node_key`.
        node: a Conv, Gemm or MatMul with a constant weight.
    """
    closure = find_closure(graph, names, node)
    if isinstance(closure, str):
        return closure
    makers, carried, squeezed = (
        tuple(names[node_key(each)] for each in nodes)
        for nodes in (closure.makers, closure.carried, closure.readers[1:])
    )
    return ChannelGroup(closure.channels, makers, carried, squeezed)


def find_closure(graph: ChannelGraph, names: Names, node: onnx.NodeProto) -> Closure | str:
    """Return the tensors and nodes of the group that a layer reads, or the reason why its channels have to stay.

    Args:
        graph: the network's.
        names: of all nodes, by `node_key`; for reasons.
        node: a Conv, Gemm or MatMul with a constant weight.
    """
    read = _channels_read(graph.tensors, node)
    if read is None:
        return "it is not a plain convolution or product of matrices"
    channels, axis = read
    if channels < 2:
        return "it reads a single channel"
    if graph.index.opset < MIN_ARITHMETIC_OPSET:
        return f"opset {graph.index.opset} broadcasts in ways of its own: convert the model to a newer one"
    walk = _Walk(graph, names, node, Closure(channels))
    try:
        walk.join(node.input[0], axis)
        walk.to_the_end()
    except _Stays as reason:
        return str(reason)
    return walk.closure


class _Stays(Exception):  # noqa: N818 - it says how a search ended
    """The channels have to stay; says why."""


class _Walk:
    """The search for all that carries a layer's channels."""

    def __init__(self, graph: ChannelGraph, names: Names, layer: onnx.NodeProto, closure: Closure) -> None:
        self.closure = closure
        self._graph, self._index, self._tensors = graph, graph.index, graph.tensors
        self._names, self._layer = names, layer
        self._to_go_back: list[str] = []
        self._to_go_on: list[str] = []
        self._visited: set[str | None] = set()  # nodes that carry the channels, by their keys

    def join(self, tensor: str, axis: int) -> None:
        """Add a tensor that carries the channels on an axis."""
        if tensor not in self.closure.tensors:
            self.closure.tensors[tensor] = axis
            self._to_go_back.append(tensor)
            self._to_go_on.append(tensor)
        elif self.closure.tensors[tensor] != axis:
            raise _Stays(f"'{tensor}' has them on two axes")

    def to_the_end(self) -> None:
        """Visit every node around the tensors, what makes them first: shortcuts are the usual reason to stay."""
        while self._to_go_back or self._to_go_on:
            if self._to_go_back:
                self._go_back(self._to_go_back.pop())
            else:
                self._go_on(self._to_go_on.pop())
        makers = {node_key(node) for node in self.closure.makers}
        if node_key(self._layer) in makers:
            raise _Stays("it makes some of the channels that it reads")
        for node in self.closure.readers[1:]:
            if not self._opens_a_gate(node, makers):
                raise _Stays(f"also read by {self._said(node)}")
        for nodes in (self.closure.makers, self.closure.carried):
            nodes.sort(key=lambda node: self._graph.places[node_key(node)])

    def _go_back(self, tensor: str) -> None:
        node = self._index.producer.get(tensor)
        if node is None:
            raise _Stays(f"made by the network's input '{tensor}'")
        if next(subgraphs(node), None) is not None:
            raise _Stays(f"made inside the {self._said(node)}")
        if node.domain not in STANDARD_DOMAINS or node.output[0] != tensor:
            raise _Stays(f"made by {self._said(node)}")
        if self._is_layer(node):
            self._make(node, self.closure.tensors[tensor])
        else:
            self._follow(node, tensor, made=True)

    def _go_on(self, tensor: str) -> None:
        if tensor in self._index.outputs:
            raise _Stays(f"an output of the network: '{tensor}'")
        for node in self._index.consumers.get(tensor, []):
            if list(tensors_read(node)).count(tensor) > list(node.input).count(tensor):
                raise _Stays(f"also read inside the {self._said(node)}")
            if node.domain not in STANDARD_DOMAINS:
                raise _Stays(f"also read by {self._said(node)}")
            if node.op_type == "Shape":
                self._measure(node, tensor)
            elif self._is_layer(node):
                self._read(node, tensor)
            else:
                self._follow(node, tensor, made=False)

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _LAYERS and not is_depthwise(self._tensors, node, self.closure.channels)

    def _make(self, node: onnx.NodeProto, axis: int) -> None:
        """Note that a layer's filters make the channels."""
        weight, place = self._tensors.shape(node.input[1]), _filter_axis(node)
        if weight is None or (node.op_type != "Conv" and len(weight) != 2):
            raise _Stays(f"made by {self._said(node)}, whose weight is not constant")
        if attribute(node, "group", 1) != 1:
            raise _Stays(f"made by {self._said(node)} in groups")
        fits = axis == (1 - len(weight) if node.op_type == "Conv" else -1)
        if not fits:
            raise _Stays(f"its channels are positions of what {self._said(node)} makes")
        if weight[place] != self.closure.channels:
            made = f"{weight[place]} that {self._said(node)} makes"
            raise _Stays(f"its {self.closure.channels} channels are not the {made}")
        bias = own_bias(self._tensors, node, self.closure.channels)
        if bias is None:
            raise _Stays(f"made by {self._said(node)}, whose bias is not one number per filter")
        self.closure.makers.append(node)
        self._cut(Cut(node, 1, place), *bias)

    def _read(self, node: onnx.NodeProto, tensor: str) -> None:
        """Note that a layer reads the channels: the one that the walk began at, or one that reads them pooled."""
        axis, axes = self.closure.tensors[tensor], self._tensors.of(tensor)
        is_first = node_key(node) == node_key(self._layer)
        is_pooled = axes is not None and set(range(1 - axes.rank, 0)) - {axis} <= axes.single
        fits = _channels_read(self._tensors, node) == (self.closure.channels, axis) and node.input[0] == tensor
        if not fits or not (is_first or is_pooled):
            raise _Stays(f"also read by {self._said(node)}")
        self.closure.readers.insert(0 if is_first else len(self.closure.readers), node)
        self._cut(Cut(node, 1, _input_axis(node)))

    def _follow(self, node: onnx.NodeProto, tensor: str, *, made: bool) -> None:
        """Follow the channels through a node, from the tensor that it makes or from one that it reads."""
        if node_key(node) in self._visited:
            return
        self._visited.add(node_key(node))
        axis = self.closure.tensors[tensor]
        further = [name for name in node.output[1:] if name in self._index.consumers or name in self._index.outputs]
        if node.op_type in ELEMENTWISE:
            self._combine(node, axis)
            return
        source = self._source(node, axis) if made else axis
        reads_once = made or [place for place, name in enumerate(node.input) if name == tensor] == [0]
        carried = carry(self._tensors, node, Channels(source, self.closure.channels)) if reads_once else None
        if carried is None:
            raise _Stays(self._mixes(node, made=made))
        if further:
            raise _Stays(f"another output of {self._said(node)} is read")
        self.join(node.input[0], source)
        self.join(node.output[0], carried.axis)
        self._cut(*carried.cuts)
        self.closure.counts.extend(carried.counts)
        if node.op_type == "Conv":
            self.closure.carried.append(node)

    def _source(self, node: onnx.NodeProto, axis: int) -> int:
        """Return the axis of a node's first input that it hands on as the given one; that one where it is not known."""
        axes = self._tensors.of(node.input[0]) if node.input else None
        sources: list[int] = [axis, *range(-axes.rank, 0)] if axes is not None else []
        for source in sources:
            if axes is not None and source in axes.single:
                continue
            carried = carry(self._tensors, node, Channels(source, self.closure.channels))
            if carried is not None and carried.axis == axis:
                return source
        return axis

    def _combine(self, node: onnx.NodeProto, axis: int) -> None:
        """Follow the channels through a sum or product with constants, or with tensors that carry them too."""
        carrying = list(dict.fromkeys(name for name in node.input if self._may_carry(name, axis)))
        if not carrying or (node.op_type == "PRelu" and node.input[1] in self._index.varying):
            raise _Stays(f"{self._said(node)} may mix channels")
        if len(carrying) > 1 and node.op_type in SUMS and self._graph.origins[node.output[0]] == {node.output[0]}:
            is_sum = node.op_type in {"Add", "Sub", "Sum"}
            raise _Stays(_SHORTCUT if is_sum else f"{self._said(node)} compares them with others")
        for position, name in enumerate(node.input):
            if name in self._index.varying:
                continue
            shape = self._tensors.shape(name)
            if shape is None:
                raise _Stays(f"{self._said(node)} reads '{name}', which is not constant")
            size = shape[axis] if len(shape) >= -axis else 1
            if size not in {1, self.closure.channels}:
                raise _Stays(f"{self._said(node)} has {size} numbers for {self.closure.channels} channels")
            if size != 1:
                self._cut(Cut(node, position, axis))
        for name in (*carrying, node.output[0]):
            self.join(name, axis)

    def _may_carry(self, tensor: str, axis: int) -> bool:
        """Return whether an operand has more than one entry on the channels' axis, as far as is known."""
        if tensor not in self._index.varying:
            return False
        axes = self._tensors.of(tensor)
        return axes is None or (axes.rank >= -axis and axis not in axes.single)

    def _measure(self, node: onnx.NodeProto, tensor: str) -> None:
        """Make sure that of a tensor's shape only other sizes are read than the number of channels."""
        axes = self._tensors.of(tensor)
        if axes is not None:
            places = list(range(-axes.rank, 0))[attribute(node, "start", 0) : attribute(node, "end", axes.rank)]
            readers = self._index.consumers.get(node.output[0], [])
            read = [self._sizes_read(reader, node.output[0], places) for reader in readers]
            is_output = node.output[0] in self._index.outputs
            if not any(self.closure.tensors[tensor] in each for each in read) and not is_output:
                return
        raise _Stays(f"{self._said(node)} reads how many there are")

    def _sizes_read(self, node: onnx.NodeProto, shape: str, places: list[int]) -> list[int]:
        """Return the axes whose sizes a node takes from a shape; all of them where that is not known."""
        values = [self._index.constant(name) for name in node.input[1:]]
        if node.input[0] != shape or not values or any(value is None for value in values):
            return places
        numbers = [[int(each) for each in value.ravel()] for value in values if value is not None]
        if node.op_type == "Gather":
            return [places[each] for each in numbers[0]]
        if node.op_type == "Slice":
            step = numbers[3][0] if len(numbers) > 3 else 1
            return places[numbers[0][0] : numbers[1][0] : step]
        return places

    def _cut(self, *cuts: Cut) -> None:
        """Note constants that follow the channels."""
        for cut in cuts:
            sources = self._index.sources(cut.node.input[cut.position]) or []
            makers = [self._index.producer[name] for name in sources if name in self._index.producer]
            if any(maker.op_type == "DequantizeLinear" for maker in makers):
                raise _Stays(f"{self._said(cut.node)} has quantized weights")
            self.closure.cuts.append(cut)

    def _opens_a_gate(self, node: onnx.NodeProto, makers: set[str | None]) -> bool:
        """Return whether all that is computed from what a layer makes goes through makers of the group."""
        to_visit, visited = [node], {node_key(node)}
        while to_visit and len(visited) <= _MAX_GATE_NODES:
            current = to_visit.pop()
            if node_key(current) in makers:
                continue
            readers = [each for name in current.output for each in self._index.consumers.get(name, [])]
            if not readers or not self._index.outputs.isdisjoint(current.output):
                return False
            to_visit += [each for each in readers if node_key(each) not in visited]
            visited.update(node_key(each) for each in readers)
        return not to_visit

    def _mixes(self, node: onnx.NodeProto, *, made: bool) -> str:
        said = self._said(node)
        if node.op_type in _QUANTIZING:
            return f"quantized by {said}"
        if node.op_type == "Concat":
            return f"{said} joins them with others"
        if node.op_type in _MIXING:
            return f"{said} mixes channels"
        if has_rule(node):
            return f"{said} may mix channels"
        return f"made by {said}" if made else f"also read by {said}"

    def _said(self, node: onnx.NodeProto) -> str:
        return f"{node.op_type} '{self._names[node_key(node)]}'"


def _channels_read(tensors: TensorAxes, node: onnx.NodeProto) -> tuple[int, int] | None:
    """Return how many channels a layer reads, and on which axis; None where it does not read all of them alike."""
    weight = tensors.shape(node.input[1]) if node.op_type in _LAYERS else None
    if weight is None or attribute(node, "group", 1) != 1 or attribute(node, "transA", 0):
        return None
    if node.op_type == "Conv":
        return weight[1], 1 - len(weight)
    return (weight[_input_axis(node)], -1) if len(weight) == 2 else None


def _filter_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that counts its filters."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _input_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that counts the channels that it reads."""
    return 1 - _filter_axis(node)
