"""Find the channels that layers read and that nothing else depends on: what makes them, and what carries them there.

From a tensor a walk goes back to the layers whose filters make the channels, and forward to all that reads them. It
ends with a reason where a channel is part of more than this, as those are that a shortcut shares. Where a Concat, Split
or Slice divides channels, each part is walked by itself.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnx_lowrank.graph.channel_graph import LAYERS, ChannelGraph, Closure, Names, Place, channels_read, said
from onnx_lowrank.graph.channel_members import Channels, Cut, carry, has_rule, is_depthwise, own_bias
from onnx_lowrank.graph.index import CONVOLUTIONS, STANDARD_DOMAINS, attribute, node_key, tensors_read
from onnx_lowrank.graph.joined_channels import DIVIDING, Count, Division, filter_axis
from onnx_lowrank.graph.tensor_axes import ELEMENTWISE, REDUCTIONS, SUMS
from onnx_lowrank.graph.tensors import subgraphs

_MIXING = REDUCTIONS | {
    *("LayerNormalization", "GroupNormalization", "RMSNormalization", "LRN", "MeanVarianceNormalization"),
    *("LpNormalization", "Softmax", "LogSoftmax", "DepthToSpace", "SpaceToDepth"),
}
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SHORTCUT = "a shortcut shares its channels"
_MAX_GATE_NODES = 64  # between the layer that reads pooled channels and the gate that it opens


def find_closures(
    graph: ChannelGraph, names: Names, tensor: str, channels: Channels | None
) -> list[tuple[Closure | str, int, int]]:
    """Return what carries the channels of a tensor, part by part, or the reason why a part has to stay.

    Args:
        graph: the network's.
        names: of all nodes, by `node_key`; for reasons.
        tensor: read by a layer.
        channels: of the tensor.

    Returns:
        Closures or reasons, with the first channel of each part and how many they are, in order.
    """
    found, to_walk = [], [] if channels is None else [(0, channels.count)]
    while to_walk:
        start, count = to_walk.pop()
        key = tensor, start, count
        if key not in graph.found and channels is not None:
            walk = _Walk(graph, names, Closure(count))
            try:
                walk.join(tensor, Place(channels.axis, start, channels.count))
                result = walk.to_the_end()
            except _Divided as division:
                to_walk += [(start, division.after), (start + division.after, count - division.after)]
                continue
            except _Stays as reason:
                result = str(reason)
            # The same for whatever else carries these channels.
            graph.found |= {(name, place.start, count): result for name, place in walk.closure.tensors.items()}
        found.append((graph.found[key], start, count))
    return sorted(found, key=lambda each: each[1])


class _Stays(Exception):  # noqa: N818 - it says how a search ended
    """The channels have to stay; says why."""


class _Divided(Exception):  # noqa: N818
    """Only some of the channels go the same way: the first ``after`` of them."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after


class _Walk:
    """The search for all that carries channels of a tensor."""

    def __init__(self, graph: ChannelGraph, names: Names, closure: Closure) -> None:
        self.closure = closure
        self._graph, self._index, self._tensors, self._names = graph, graph.index, graph.tensors, names
        self._to_go_back: list[str] = []
        self._to_go_on: list[str] = []
        self._visited: set[str | None] = set()  # nodes that carry the channels, by their keys

    def join(self, tensor: str, place: Place) -> None:
        """Add a tensor that carries the channels."""
        if tensor not in self.closure.tensors:
            self.closure.tensors[tensor] = place
            self._to_go_back.append(tensor)
            self._to_go_on.append(tensor)
        elif self.closure.tensors[tensor] != place:
            several = "on two axes" if self.closure.tensors[tensor].axis != place.axis else "in several places"
            raise _Stays(f"'{tensor}' has them {several}")

    def to_the_end(self) -> Closure | str:
        """Visit every node around the tensors, what makes them first: shortcuts are the usual reason to stay."""
        while self._to_go_back or self._to_go_on:
            if self._to_go_back:
                self._go_back(self._to_go_back.pop())
            else:
                self._go_on(self._to_go_on.pop())
        makers = {node_key(node) for node in self.closure.makers}
        gates = [node for node in self.closure.readers if self._opens_a_gate(node, makers)]
        readers = [node for node in self.closure.readers if node not in gates]
        if not readers:
            raise _Stays("only a gate of the same channels reads them")
        readers, gates, made, carried = map(self._in_order, (readers, gates, self.closure.makers, self.closure.carried))
        readers.sort(key=self._reads_pooled)  # one that has many positions to tell channels by comes first
        if node_key(readers[0]) in makers:
            raise _Stays(f"{self._said(readers[0])} makes some of the channels that it reads")
        return replace(self.closure, readers=readers, squeezed=gates, makers=made, carried=carried)

    def _in_order(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        return sorted(nodes, key=lambda node: self._graph.places[node_key(node)])

    def _reads_pooled(self, node: onnx.NodeProto) -> bool:
        """Return whether a reader's input has a single position."""
        axis, axes = self.closure.tensors[node.input[0]].axis, self._tensors.of(node.input[0])
        return axes is not None and set(range(1 - axes.rank, 0)) - {axis} <= axes.single

    def _go_back(self, tensor: str) -> None:
        node = self._index.producer.get(tensor)
        if tensor not in self._index.varying:
            raise _Stays(f"'{tensor}' is constant")
        if node is None:
            raise _Stays(f"made by the network's input '{tensor}'")
        if next(subgraphs(node), None) is not None:
            raise _Stays(f"made inside the {self._said(node)}")
        if node.domain not in STANDARD_DOMAINS or (node.output[0] != tensor and node.op_type != "Split"):
            raise _Stays(f"made by {self._said(node)}")
        if self._is_layer(node):
            self._make(node, self.closure.tensors[tensor])
        elif node.op_type in DIVIDING and (division := self._graph.counts.division(node)) is not None:
            self._divide(division, tensor)
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
            elif node.op_type in DIVIDING and (division := self._graph.counts.division(node)) is not None:
                self._divide(division, tensor)
            else:
                self._follow(node, tensor, made=False)

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        groups = attribute(node, "group", 1)
        return node.op_type in LAYERS and not (groups > 1 and is_depthwise(self._tensors, node, groups))

    def _make(self, node: onnx.NodeProto, place: Place) -> None:
        """Note that a layer's filters make the channels."""
        weight = self._tensors.shape(node.input[1])
        if weight is None or (node.op_type not in CONVOLUTIONS and len(weight) != 2):
            raise _Stays(f"made by {self._said(node)}, whose weight is not constant")
        if attribute(node, "group", 1) != 1:
            raise _Stays(f"made by {self._said(node)} in groups")
        fits = place.axis == (1 - len(weight) if node.op_type in CONVOLUTIONS else -1)
        if not fits:
            raise _Stays(f"its channels are positions of what {self._said(node)} makes")
        if weight[filter_axis(node)] != place.total:
            made = f"{weight[filter_axis(node)]} that {self._said(node)} makes"
            raise _Stays(f"its {place.total} channels are not the {made}")
        bias = own_bias(self._tensors, node, place.total)
        if bias is None:
            raise _Stays(f"made by {self._said(node)}, whose bias is not one number per filter")
        self.closure.makers.append(node)
        self._cut(place.start, Cut(node, 1, filter_axis(node)), *bias)

    def _read(self, node: onnx.NodeProto, tensor: str) -> None:
        """Note that a layer reads the channels."""
        place, read = self.closure.tensors[tensor], channels_read(self._tensors, node)
        if read != Channels(place.axis, place.total) or node.input[0] != tensor:
            raise _Stays(f"also read by {self._said(node)}")
        self.closure.readers.append(node)
        self._cut(place.start, Cut(node, 1, 1 - filter_axis(node)))

    def _divide(self, division: Division, tensor: str) -> None:
        """Follow the channels between a tensor and its parts, from either."""
        axis, whole = self.closure.tensors[tensor].axis, division.channels
        if axis != whole.axis:
            raise _Stays(self._mixes(division.node, made=False))
        if tensor == division.whole:
            start = self.closure.tensors[tensor].start
        else:
            beside = [part.start for part in division.parts if part.tensor == tensor]
            if len(beside) > 1:
                raise _Stays(f"'{division.whole}' has them in several places")
            start = beside[0] + self.closure.tensors[tensor].start
            self.join(division.whole, Place(axis, start, whole.count))
        end = start + self.closure.channels
        for part in division.parts:
            bounds = [each for each in (part.start, part.start + part.count) if start < each < end]
            if bounds:
                raise _Divided(bounds[0] - start)
            if part.start <= start < part.start + part.count:
                self.join(part.tensor, Place(axis, start - part.start, part.count))
        self.closure.counts.extend((division.whole, each) for each in division.counts)
        if division.node.op_type == "Split":
            self.closure.splits.append(division)

    def _follow(self, node: onnx.NodeProto, tensor: str, *, made: bool) -> None:
        """Follow the channels through a node, from the tensor that it makes or from one that it reads."""
        if node_key(node) in self._visited:
            return
        self._visited.add(node_key(node))
        place = self.closure.tensors[tensor]
        further = [name for name in node.output[1:] if name in self._index.consumers or name in self._index.outputs]
        if node.op_type in ELEMENTWISE:
            self._combine(node, place)
            return
        source = self._source(node, place) if made else place.axis
        reads_once = made or [place for place, name in enumerate(node.input) if name == tensor] == [0]
        carried = carry(self._tensors, node, Channels(source, place.total)) if reads_once else None
        if carried is None:
            raise _Stays(self._mixes(node, made=made))
        if further:
            raise _Stays(f"another output of {self._said(node)} is read")
        self.join(node.input[0], place._replace(axis=source))
        self.join(node.output[0], place._replace(axis=carried.axis))
        self._cut(place.start, *carried.cuts)
        every = range(place.total)
        self.closure.counts.extend((node.output[0], Count(each, place.total, every)) for each in carried.counts)
        if node.op_type == "Conv":
            self.closure.carried.append(node)

    def _source(self, node: onnx.NodeProto, made: Place) -> int:
        """Return the axis of a node's first input that it hands on as the given one; that one where it is not known."""
        axis = made.axis
        axes = self._tensors.of(node.input[0]) if node.input else None
        sources: list[int] = [axis, *range(-axes.rank, 0)] if axes is not None else []
        for source in sources:
            if axes is not None and source in axes.single:
                continue
            carried = carry(self._tensors, node, Channels(source, made.total))
            if carried is not None and carried.axis == axis:
                return source
        return axis

    def _combine(self, node: onnx.NodeProto, place: Place) -> None:
        """Follow the channels through a sum or product with constants, or with tensors that carry them too."""
        axis = place.axis
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
            if size not in {1, place.total}:
                raise _Stays(f"{self._said(node)} has {size} numbers for {place.total} channels")
            if size != 1:
                self._cut(place.start, Cut(node, position, axis))
        for name in (*carrying, node.output[0]):
            self.join(name, place)

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
            if not any(self.closure.tensors[tensor].axis in each for each in read) and not is_output:
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

    def _cut(self, start: int, *cuts: Cut) -> None:
        """Note constants that follow the channels, the first of which is the given one of theirs."""
        for cut in cuts:
            sources = self._index.sources(cut.node.input[cut.position]) or []
            makers = [self._index.producer[name] for name in sources if name in self._index.producer]
            if any(maker.op_type == "DequantizeLinear" for maker in makers):
                raise _Stays(f"{self._said(cut.node)} has quantized weights")
            self.closure.cuts.append(replace(cut, start=start))

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
        return said(node, self._names)
