"""How many axes tensors have, and which of these have size 1 whatever the inputs are.

Axes are counted from the end, -1 is the last one: so broadcasting leaves their numbers as they are. Nothing is taken
from sizes that the model only declares; what is not known is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_lowrank.graph.index import STANDARD_DOMAINS, GraphIndex, attribute

# Operators that compute every element of their output from the same element of their first input.
UNARY = frozenset(
    {
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Clip", "Shrink", "Softplus", "Softsign"),
        *("Sigmoid", "HardSigmoid", "Tanh", "HardSwish", "Swish", "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Abs"),
        *("Neg", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Cast", "Identity", "Dropout"),
    }
)
SUMS = frozenset({"Add", "Sub", "Sum", "Max", "Min", "Mean"})
PRODUCTS = frozenset({"Mul", "Div", "Pow", "PRelu"})
ELEMENTWISE = SUMS | PRODUCTS  # of several operands that are broadcast
GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
REDUCTIONS = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        *("ReduceLogSum", "ReduceLogSumExp"),
    }
)
NORMALIZATIONS = frozenset(  # of what they read, which keeps its shape
    {
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "LRN"),
        *("RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "Softmax", "LogSoftmax"),
    }
)
_RANKS = {"Gemm": 2, "Flatten": 2, "Shape": 1}  # axes of what these make
_AS_MANY = POOLS | {"Pad", "Resize", "Upsample", "Slice", "Concat", "Split"}  # axes as their first input


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor.

    Attributes:
        rank: how many.
        single: those of size 1, counted from the end.
    """

    rank: int
    single: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Entry:
    """One number of a shape that a node is given.

    Attributes:
        value: the number; None where it is computed at run time.
        node: the node that reads the constant that holds it.
        position: of that constant among the node's inputs.
        offset: of the number in the constant.
    """

    value: int | None
    node: onnx.NodeProto
    position: int
    offset: int


class TensorAxes:
    """Axes of all tensors of a graph.

    Args:
        model: not changed.
        index: of its graph.

    Attributes:
        index: of its graph.
        known: axes by tensor name; tensors whose number of axes is not known are left out.
    """

    def __init__(self, model: onnx.ModelProto, index: GraphIndex) -> None:
        self.index = index
        self.known: dict[str, Axes] = {}
        self._shapes: dict[str, tuple[int, ...] | None] = {}
        graph = model.graph
        declared = {each.name: each.type.tensor_type for each in (*graph.input, *graph.value_info)}
        for name, kind in declared.items():
            if kind.HasField("shape") and name not in index.initializers:
                self.known[name] = Axes(len(kind.shape.dim))
        for node in graph.node:
            axes = self._made_by(node) if node.domain in STANDARD_DOMAINS else None
            if axes is not None:
                self.known |= {name: axes for name in node.output if name}

    def of(self, tensor: str) -> Axes | None:
        """Return the axes of a tensor, constants included; None where they are not known."""
        if tensor not in self.known and (shape := self.shape(tensor)) is not None:
            self.known[tensor] = Axes(
                len(shape), frozenset(n - len(shape) for n, size in enumerate(shape) if size == 1)
            )
        return self.known.get(tensor)

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Return the shape of a constant; None for any other tensor."""
        if (stored := stored_constant(self.index, tensor)) is not None:
            return tuple(stored.dims)
        if tensor not in self._shapes:
            value = self.index.constant(tensor)
            self._shapes[tensor] = None if value is None else value.shape
        return self._shapes[tensor]

    def numbers(self, node: onnx.NodeProto, position: int, name: str) -> list[int] | None:
        """Return whole numbers that a node has as an attribute, or as a constant input in newer opsets."""
        if len(node.input) > position and node.input[position]:
            value = self.index.constant(node.input[position])
            return None if value is None else [int(each) for each in np.ravel(value)]
        numbers = attribute(node, name)
        return None if numbers is None else list(numbers)

    def reduced(self, node: onnx.NodeProto) -> frozenset[int] | None:
        """Return the axes that a reduction, or a Squeeze, takes away; None where that is not known."""
        axes = self.of(node.input[0])
        if axes is None:
            return None
        if (numbers := self.numbers(node, 1, "axes")) is not None and numbers:
            return frozenset(from_the_end(numbers, axes.rank))
        if len(node.input) > 1 and node.input[1] and numbers is None:
            return None
        return frozenset() if attribute(node, "noop_with_empty_axes", 0) else frozenset(range(-axes.rank, 0))

    def entries(self, node: onnx.NodeProto, position: int) -> list[Entry] | None:
        """Return the numbers of the shape that a node reads, some of which may be computed; None if not how many."""
        tensor = node.input[position]
        value = self.index.constant(tensor)
        if value is not None:
            return [Entry(int(each), node, position, place) for place, each in enumerate(np.ravel(value))]
        maker = self.index.producer.get(tensor)
        if maker is None or maker.domain not in STANDARD_DOMAINS:
            return None
        if maker.op_type == "Concat":
            if self.index.only_consumer(tensor) is not node:
                return None
            parts = [self.entries(maker, place) for place in range(len(maker.input))]
            return [entry for part in parts for entry in part or ()] if None not in parts else None
        axes = self.of(tensor)
        return [Entry(None, maker, 0, 0)] if axes is not None and axes.rank == 1 and -1 in axes.single else None

    def _made_by(self, node: onnx.NodeProto) -> Axes | None:
        """Return the axes of what a node makes."""
        op = node.op_type
        if op in ELEMENTWISE:
            return _broadcast([self.of(name) for name in node.input])
        if op in _RANKS:
            return Axes(_RANKS[op])
        if op in _RULES:
            return _RULES[op](self, node)
        axes = self.of(node.input[0]) if node.input else None
        if axes is None:
            return None
        if op in UNARY or op in NORMALIZATIONS:
            return axes
        if op in GLOBAL_POOLS:
            return Axes(axes.rank, axes.single | set(range(2 - axes.rank, 0)))
        if op in REDUCTIONS:
            return self._reduction(node, axes)
        return Axes(axes.rank) if op in _AS_MANY else None

    def _reduction(self, node: onnx.NodeProto, axes: Axes) -> Axes | None:
        reduced = self.reduced(node)
        if reduced is None:
            return Axes(axes.rank) if attribute(node, "keepdims", 1) else None
        if attribute(node, "keepdims", 1):
            return Axes(axes.rank, axes.single | reduced)
        return without(axes, reduced)


def stored_constant(index: GraphIndex, tensor: str) -> onnx.TensorProto | None:
    """Return the initializer of a name, or the value of the Constant node that makes it; None for other tensors."""
    stored: onnx.TensorProto | None = index.initializers.get(tensor)
    node = index.producer.get(tensor)
    if stored is None and node is not None and node.op_type == "Constant":
        stored = next((each.t for each in node.attribute if each.name == "value"), None)
    return stored


def from_the_end(numbers: Iterable[int], rank: int) -> list[int]:
    """Return axes counted from the end, given some that may be counted from the beginning."""
    return [number if number < 0 else number - rank for number in numbers]


def without(axes: Axes, gone: frozenset[int]) -> Axes:
    """Return the axes of a tensor without some."""
    left = {axis: axis + sum(each > axis for each in gone) for axis in range(-axes.rank, 0) if axis not in gone}
    return Axes(len(left), frozenset(left[axis] for axis in axes.single if axis in left))


def _broadcast(operands: Sequence[Axes | None]) -> Axes | None:
    every = [each for each in operands if each is not None]
    if len(every) < len(operands) or not every:
        return None
    rank = max(each.rank for each in every)
    single = {axis for axis in range(-rank, 0) if all(axis in each.single or -axis > each.rank for each in every)}
    return Axes(rank, frozenset(single))


def _conv(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    weight = tensors.shape(node.input[1])
    if weight is None:
        return None
    rank, axes = len(weight), tensors.of(node.input[0])
    single = {1 - rank} if weight[0] == 1 else set[int]()
    if axes is not None and not any(attribute(node, "pads", ())):
        single |= {axis for axis in axes.single if axis > 1 - rank and weight[axis] == 1}
    return Axes(rank, frozenset(single))


def _transposed_conv(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    weight = tensors.shape(node.input[1])
    if weight is None:
        return None
    is_single = weight[1] * attribute(node, "group", 1) == 1
    return Axes(len(weight), frozenset({1 - len(weight)} if is_single else ()))


def _matmul(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    first, second = (tensors.of(name) for name in node.input)
    if first is None or second is None or min(first.rank, second.rank) < 2:
        return None
    single = {axis for axis in first.single if axis < -1} if second.rank == 2 else set[int]()
    return Axes(max(first.rank, second.rank), frozenset(single))


def _transpose(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    axes = tensors.of(node.input[0])
    order = attribute(node, "perm") or (list(range(axes.rank))[::-1] if axes else None)
    if order is None:
        return None
    rank = len(order)
    single = axes.single if axes else frozenset[int]()
    return Axes(rank, frozenset(place - rank for place, source in enumerate(order) if source - rank in single))


def _squeeze(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    axes, gone = tensors.of(node.input[0]), tensors.reduced(node)
    is_given = len(node.input) > 1 or attribute(node, "axes") is not None
    return without(axes, gone) if axes is not None and gone is not None and is_given else None


def _unsqueeze(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    axes, numbers = tensors.of(node.input[0]), tensors.numbers(node, 1, "axes")
    if axes is None or numbers is None:
        return None
    rank = axes.rank + len(numbers)
    new = frozenset(from_the_end(numbers, rank))
    old = [axis for axis in range(-rank, 0) if axis not in new]
    return Axes(rank, new | {old[axis] for axis in axes.single})


def _reshape(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    entries = tensors.entries(node, 1) if len(node.input) > 1 else None
    if entries is None:
        return None
    rank = len(entries)
    return Axes(rank, frozenset(place - rank for place, entry in enumerate(entries) if entry.value == 1))


def _gather(tensors: TensorAxes, node: onnx.NodeProto) -> Axes | None:
    data, indices = (tensors.of(name) for name in node.input)
    if data is None or indices is None:
        return None
    return indices if data.rank == 1 else Axes(data.rank + indices.rank - 1)


_RULES: dict[str, Callable[[TensorAxes, onnx.NodeProto], Axes | None]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed_conv,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Gather": _gather,
}
