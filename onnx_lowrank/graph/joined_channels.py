"""How many channels tensors have, and which of them come through Concat, Split and Slice.

Axes are counted from the end. Nothing is taken from sizes that the model only declares, but those of its inputs, which
onnxruntime insists on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import onnx

from onnx_lowrank.graph.channel_members import Channels, carry
from onnx_lowrank.graph.index import CONVOLUTIONS, STANDARD_DOMAINS, GraphIndex, attribute
from onnx_lowrank.graph.tensor_axes import ELEMENTWISE, NORMALIZATIONS, Entry, TensorAxes, from_the_end

DIVIDING = frozenset({"Concat", "Split", "Slice"})
_SIZES = 1  # input of Split
_STARTS, _ENDS, _AXES, _STEPS = range(1, 5)  # inputs of Slice


@dataclass(frozen=True)
class Part:
    """Consecutive channels of a tensor that are a tensor of their own.

    Attributes:
        tensor: its name.
        start: of its channels in the whole.
        count: how many they are.
    """

    tensor: str
    start: int
    count: int


@dataclass(frozen=True)
class Count:
    """A number that falls where channels are left out.

    Attributes:
        entry: where it stands.
        value: the number, counted from the beginning where it is a place.
        channels: range of channels that it counts.
    """

    entry: Entry
    value: int
    channels: range


@dataclass(frozen=True)
class Division:
    """A tensor whose channels are those of others, one after the other.

    Attributes:
        node: that joins the parts, or makes them of the whole.
        whole: name of the tensor.
        channels: of the whole.
        parts: in order; they may leave channels of the whole out.
        counts: numbers that follow the channels, but for the sizes of a Split.
    """

    node: onnx.NodeProto
    whole: str
    channels: Channels
    parts: tuple[Part, ...]
    counts: tuple[Count, ...] = ()


class ChannelCounts:
    """Channels of all tensors of a graph, as far as weights tell.

    Args:
        model: not changed.
        tensors: axes of its tensors.

    Attributes:
        known: channels by tensor name.
    """

    def __init__(self, model: onnx.ModelProto, tensors: TensorAxes) -> None:
        self._tensors = tensors
        self._divisions: dict[str, Division | None] = {}
        self.known: dict[str, Channels] = dict(_of_inputs(tensors.index))
        for node in model.graph.node:
            if node.domain in STANDARD_DOMAINS and node.input and node.output:
                self.known |= self._made_by(node)

    def division(self, node: onnx.NodeProto) -> Division | None:
        """Return how a Concat, Split or Slice divides channels; None where it does not, or that is not known."""
        key = node.output[0]
        if key not in self._divisions:
            rules = {"Concat": self._concat, "Split": self._split, "Slice": self._slice}
            self._divisions[key] = rules[node.op_type](node)
        return self._divisions[key]

    def _made_by(self, node: onnx.NodeProto) -> dict[str, Channels]:
        """Return the channels of what a node makes."""
        if node.op_type in DIVIDING and (division := self.division(node)) is not None:
            if division.whole in node.output:
                return {division.whole: division.channels}
            return {part.tensor: Channels(division.channels.axis, part.count) for part in division.parts}
        channels = self._of_output(node)
        return {} if channels is None else {node.output[0]: channels}

    def _of_output(self, node: onnx.NodeProto) -> Channels | None:
        if node.op_type in {*CONVOLUTIONS, "Gemm", "MatMul"}:
            return filters_of(self._tensors, node)
        if node.op_type in ELEMENTWISE:
            operands = [self.known[name] for name in node.input if name in self.known]
            return max(operands, key=lambda each: each.count, default=None)
        read = self.known.get(node.input[0])
        if node.op_type in NORMALIZATIONS:
            return read
        carried = None if read is None or node.op_type in {"Concat", "Split"} else carry(self._tensors, node, read)
        return None if carried is None or read is None else Channels(carried.axis, read.count)

    def _concat(self, node: onnx.NodeProto) -> Division | None:
        read = [self.known.get(name) or self._constant(name, node) for name in node.input]
        axes = self._tensors.of(node.output[0])
        if None in read or axes is None:
            return None
        every = [each for each in read if each is not None]
        (axis,) = from_the_end([attribute(node, "axis", 1)], axes.rank)
        if {each.axis for each in every} != {axis}:
            return None
        parts = _parts(node.input, [each.count for each in every])
        return Division(node, node.output[0], Channels(axis, parts[-1].start + parts[-1].count), parts)

    def _constant(self, tensor: str, node: onnx.NodeProto) -> Channels | None:
        """Return the channels of a constant that is joined to tensors."""
        shape = self._tensors.shape(tensor) if tensor not in self._tensors.index.varying else None
        if not shape:
            return None
        (axis,) = from_the_end([attribute(node, "axis", 1)], len(shape))
        return Channels(axis, shape[axis])

    def _split(self, node: onnx.NodeProto) -> Division | None:
        read, axes = self.known.get(node.input[0]), self._tensors.of(node.input[0])
        if read is None or axes is None or from_the_end([attribute(node, "axis", 0)], axes.rank) != [read.axis]:
            return None
        sizes = self._tensors.numbers(node, _SIZES, "split")
        if sizes is None and len(node.input) > _SIZES and node.input[_SIZES]:
            return None
        if sizes is None:
            each = -(-read.count // len(node.output))
            sizes = [each] * (len(node.output) - 1)
            sizes.append(read.count - sum(sizes))
        fits = len(sizes) == len(node.output) and sum(sizes) == read.count and min(sizes) > 0
        return Division(node, node.input[0], read, _parts(node.output, sizes)) if fits else None

    def _slice(self, node: onnx.NodeProto) -> Division | None:
        read, axes = self.known.get(node.input[0]), self._tensors.of(node.input[0])
        if read is None or axes is None or len(node.input) <= _ENDS:  # of an old opset, with attributes
            return None
        given = len(node.input) > _AXES and node.input[_AXES]
        starts, ends = (self._tensors.entries(node, place) for place in (_STARTS, _ENDS))
        numbers = self._tensors.numbers(node, _AXES, "axes") if given else list(range(len(starts or [])))
        stepped = len(node.input) > _STEPS and node.input[_STEPS]
        steps = self._tensors.numbers(node, _STEPS, "steps") if stepped else [1] * len(starts or [])
        if not starts or not ends or numbers is None or steps is None:
            return None
        sliced = from_the_end(numbers, axes.rank)
        if read.axis not in sliced:
            return None
        place = sliced.index(read.axis)
        bounds = [starts[place], ends[place]]
        if steps[place] != 1 or any(each.value is None or each.node is not node for each in bounds):
            return None
        first, last, _ = slice(*(each.value for each in bounds)).indices(read.count)
        if first >= last:
            return None
        counts = tuple(Count(entry, value, range(value)) for entry, value in zip(bounds, (first, last), strict=True))
        return Division(node, node.input[0], read, (Part(node.output[0], first, last - first),), counts)


def filters_of(tensors: TensorAxes, node: onnx.NodeProto) -> Channels | None:
    """Return the channels that a layer with a constant weight makes."""
    weight = tensors.shape(node.input[1]) if len(node.input) > 1 else None
    if weight is None:
        return None
    if node.op_type in CONVOLUTIONS:
        groups = attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
        return Channels(1 - len(weight), groups * weight[filter_axis(node)])
    return Channels(-1, weight[filter_axis(node)]) if len(weight) == 2 else None


def filter_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that counts its filters, of each group where it is a transposed one."""
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)) else 1


def _parts(tensors: Sequence[str], sizes: Sequence[int]) -> tuple[Part, ...]:
    starts = accumulate(sizes, initial=0)
    return tuple(Part(name, start, size) for name, start, size in zip(tensors, starts, sizes, strict=False))


def _of_inputs(index: GraphIndex) -> dict[str, Channels]:
    """Return the channels of the inputs of a graph that are maps, where their number is fixed."""
    found = {}
    for name, value in index.inputs.items():
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 2 and dims[1].dim_value:
            found[name] = Channels(1 - len(dims), dims[1].dim_value)
    return found
