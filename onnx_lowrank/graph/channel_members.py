"""Operators that keep channels apart: on which axis they hand them on, and which of their constants follow them.

Every channel of the output is computed from the same channel of the input, so that a channel that nothing reads can be
left out on both sides. Axes are counted from the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from onnx_lowrank.graph.draws import is_taken_out
from onnx_lowrank.graph.index import attribute
from onnx_lowrank.graph.tensor_axes import GLOBAL_POOLS, POOLS, REDUCTIONS, UNARY, Entry, TensorAxes, from_the_end

_TRAINING_INPUT = 2  # of Dropout
_STATISTICS = range(1, 5)  # inputs of BatchNormalization: scale, offset, mean, variance
_FLOATS = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
)  # that Cast may convert to


@dataclass(frozen=True)
class Cut:
    """A constant with channels on one of its axes.

    Attributes:
        node: that reads it.
        position: among the node's inputs.
        axis: from the beginning, or negative from the end.
        start: of the channels looked at on that axis.
    """

    node: onnx.NodeProto
    position: int
    axis: int
    start: int = 0


@dataclass(frozen=True)
class Channels:
    """Channels of a tensor.

    Attributes:
        axis: that counts them, from the end.
        count: how many they are, at least 2.
    """

    axis: int
    count: int


@dataclass(frozen=True)
class Carried:
    """How a node hands channels on.

    Attributes:
        axis: of its output, counted from the end.
        cuts: its constants that follow the channels.
        counts: numbers in constants that are the number of channels.
    """

    axis: int
    cuts: tuple[Cut, ...] = ()
    counts: tuple[Entry, ...] = ()


def carry(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    """Return how a node hands the channels of its first input on; None where it mixes them, or that is not known.

    Args:
        tensors: of the graph.
        node: of a standard operator, with one input that depends on the network's inputs.
        channels: of that input.
    """
    rule = _RULES.get(node.op_type)
    return rule(tensors, node, channels) if rule is not None else None


def has_rule(node: onnx.NodeProto) -> bool:
    """Return whether there are nodes of the same operator that keep channels apart."""
    return node.op_type in _RULES


def is_depthwise(tensors: TensorAxes, node: onnx.NodeProto, channels: int) -> bool:
    """Return whether a node is a convolution with one filter for each of its channels."""
    if node.op_type != "Conv" or attribute(node, "group", 1) != channels:
        return False
    weight = tensors.shape(node.input[1])
    return weight is not None and weight[:2] == (channels, 1)


def _is_second(tensors: TensorAxes, node: onnx.NodeProto, axis: int) -> bool:
    """Return whether an axis of a node's first input is its second one, where most operators expect the channels."""
    axes = tensors.of(node.input[0])
    return axes is not None and axes.rank + axis == 1


def _unary(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    if node.op_type == "Cast" and attribute(node, "to") not in _FLOATS:
        return None
    if node.op_type == "Dropout" and len(node.input) > _TRAINING_INPUT and node.input[_TRAINING_INPUT]:
        training = tensors.index.constant(node.input[_TRAINING_INPUT])
        if (training is None or training.any()) and not is_taken_out(tensors.index, node):
            return None
    return Carried(channels.axis)


def _normalization(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    is_batch = node.op_type == "BatchNormalization"
    positions = _STATISTICS if is_batch else range(1, 3)
    trains = is_batch and (attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1))
    if trains or not _is_second(tensors, node, channels.axis) or len(node.input) <= max(positions):
        return None
    if any(tensors.shape(node.input[position]) != (channels.count,) for position in positions):
        return None
    return Carried(channels.axis, tuple(Cut(node, position, -1) for position in positions))


def _depthwise(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    if not is_depthwise(tensors, node, channels.count):
        return None
    weight = tensors.shape(node.input[1]) or ()
    if channels.axis != 1 - len(weight):
        return None
    bias = own_bias(tensors, node, channels.count)
    return None if bias is None else Carried(channels.axis, (Cut(node, 1, -len(weight)), *bias))


def own_bias(tensors: TensorAxes, node: onnx.NodeProto, channels: int) -> tuple[Cut, ...] | None:
    """Return the third input of a Conv or Gemm as what has to be cut; None where it is not constant.

    A bias of one number for all channels of a Gemm stays as it is.
    """
    if len(node.input) < 3 or not node.input[2]:
        return ()
    shape = tensors.shape(node.input[2])
    if shape is None or (shape and shape[-1] not in {1, channels}):
        return None
    return (Cut(node, 2, -1),) if shape and shape[-1] == channels else ()


def _pool(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    return Carried(channels.axis) if _is_second(tensors, node, channels.axis) else None


def _reduction(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    reduced = tensors.reduced(node)
    if reduced is None or channels.axis in reduced:
        return None
    if node.op_type not in {"Squeeze"} and attribute(node, "keepdims", 1):
        return Carried(channels.axis)
    return Carried(channels.axis + sum(each > channels.axis for each in reduced))


def _unsqueeze(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes, numbers = tensors.of(node.input[0]), tensors.numbers(node, 1, "axes")
    if axes is None or numbers is None:
        return None
    rank = axes.rank + len(numbers)
    new = set(from_the_end(numbers, rank))
    old = [each for each in range(-rank, 0) if each not in new]
    return Carried(old[channels.axis]) if -len(old) <= channels.axis else None


def _transpose(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes = tensors.of(node.input[0])
    if axes is None:
        return None
    order = attribute(node, "perm") or list(range(axes.rank))[::-1]
    return Carried(order.index(axes.rank + channels.axis) - axes.rank)


def _flatten(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    # That one input is left of every channel shows in their number, which is compared with that of the filters.
    return Carried(-1) if _is_second(tensors, node, channels.axis) and attribute(node, "axis", 1) == 1 else None


def _reshape(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes = tensors.of(node.input[0])
    entries = tensors.entries(node, 1)
    if axes is None or entries is None or len(entries) < 2 or attribute(node, "allowzero", 0):
        return None
    if channels.axis == -1 and entries[-1].value == channels.count:  # rows, put together in another way
        return Carried(-1, counts=(entries[-1],))
    count = entries[1]
    if not _is_second(tensors, node, channels.axis) or count.value not in {-1, 0, channels.count}:
        return None
    counts = (count,) if count.value == channels.count else ()
    if entries[0].value == 0 and count.value != -1:  # both axes are copied
        return Carried(1 - len(entries), counts=counts)
    others = set(range(-axes.rank, 0)) - {-axes.rank, channels.axis}
    # One row is left of a sample where there is a single position; one of many could be a position.
    one_row = others <= axes.single or (len(entries) == 2 and entries[0].value in {0, 1})
    if not one_row or any(entry.value != 1 for entry in entries[2:]):
        return None
    return Carried(1 - len(entries), counts=counts)


def _pad(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes, pads = tensors.of(node.input[0]), tensors.numbers(node, 1, "pads")
    if axes is None or pads is None:
        return None
    has_axes = len(node.input) > 3 and node.input[3]
    padded = tensors.numbers(node, 3, "axes") if has_axes else list(range(axes.rank))
    if padded is None or len(pads) != 2 * len(padded):
        return None
    ends = zip(from_the_end(padded, axes.rank), pads[: len(padded)], pads[len(padded) :], strict=True)
    widened = any(each == channels.axis and (before or after) for each, before, after in ends)
    return None if widened else Carried(channels.axis)


def _slice(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes = tensors.of(node.input[0])
    numbers = tensors.numbers(node, 3, "axes")
    if axes is None or numbers is None:
        return None
    return Carried(channels.axis) if channels.axis not in from_the_end(numbers, axes.rank) else None


def _resize(tensors: TensorAxes, node: onnx.NodeProto, channels: Channels) -> Carried | None:
    axes = tensors.of(node.input[0])
    crops = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    fits = attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
    if axes is None or crops or fits:
        return None
    resized = from_the_end(attribute(node, "axes", range(axes.rank)), axes.rank)
    if channels.axis not in resized:
        return Carried(channels.axis)
    place = resized.index(channels.axis)
    position = 1 if len(node.input) <= 2 else 2
    if len(node.input) > 3 and node.input[3]:
        sizes = tensors.entries(node, 3)
        is_kept = sizes is not None and len(sizes) > place and sizes[place].value == channels.count
        return Carried(channels.axis, counts=(sizes[place],)) if sizes is not None and is_kept else None
    if len(node.input) > 1:
        scales = tensors.index.constant(node.input[position]) if node.input[position] else None
    else:
        scales = attribute(node, "scales")
    return Carried(channels.axis) if scales is not None and len(scales) > place and scales[place] == 1 else None


Rule = Callable[[TensorAxes, onnx.NodeProto, Channels], Carried | None]

_RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalization),
    **dict.fromkeys((*POOLS, *GLOBAL_POOLS), _pool),
    **dict.fromkeys((*REDUCTIONS, "Squeeze"), _reduction),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Conv": _depthwise,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
}
