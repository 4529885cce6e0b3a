"""A graph as walks along its channels see it, and what they find: the tensors and nodes around a group of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx

from onnx_lowrank.graph.channel_members import Channels, Cut, is_depthwise
from onnx_lowrank.graph.index import (
    CONVOLUTIONS,
    MIN_ARITHMETIC_OPSET,
    STANDARD_DOMAINS,
    GraphIndex,
    attribute,
    node_key,
)
from onnx_lowrank.graph.joined_channels import ChannelCounts, Count, Division, filter_axis
from onnx_lowrank.graph.tensor_axes import ELEMENTWISE, GLOBAL_POOLS, POOLS, SUMS, UNARY, TensorAxes

Names = Mapping[str | None, str]

LAYERS = CONVOLUTIONS | {"Gemm", "MatMul"}
_ONE_INPUT = UNARY | POOLS | GLOBAL_POOLS | {"BatchNormalization", "InstanceNormalization"}


class ChannelGraph:
    """A graph as walks along its channels see it; for all of its layers.

    Args:
        model: not changed.
        index: of its graph.

    Attributes:
        index: of its graph.
        tensors: axes of its tensors.
        counts: channels of its tensors.
        origins: tensor name -> the tensors that it is computed from channel by channel, back to layers and shortcuts.
        places: place of every node in the graph, by `node_key`.
        found: what walks from channels of a tensor have come to, by the tensor, the first channel and how many.
    """

    def __init__(self, model: onnx.ModelProto, index: GraphIndex) -> None:
        self.index = index
        self.tensors = TensorAxes(model, index)
        self.counts = ChannelCounts(model, self.tensors)
        self.places = {node_key(node): place for place, node in enumerate(model.graph.node)}
        self.origins: dict[str, frozenset[str]] = {}
        self.found: dict[tuple[str, int, int], Closure | str] = {}
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


class Place(NamedTuple):
    """Where a tensor has the channels of a group.

    Attributes:
        axis: that counts channels, from the end.
        start: the group's first one.
        total: how many the tensor has.
    """

    axis: int
    start: int
    total: int


@dataclass(frozen=True)
class Closure:
    """The tensors that carry a group of channels, and the nodes around them.

    Attributes:
        channels: how many, m.
        tensors: by name, where they have the channels.
        makers: nodes whose filters make the channels.
        carried: depthwise convolutions.
        readers: layers that read the channels, the one that chooses how many first, then all but those for a gate.
        squeezed: layers that read them for a gate of the same channels.
        cuts: constants with the channels on one of their axes, with the first channel.
        counts: numbers in constants that follow the number of channels.
        splits: nodes that split a tensor with the channels.
    """

    channels: int
    tensors: dict[str, Place] = field(default_factory=dict)
    makers: list[onnx.NodeProto] = field(default_factory=list)
    carried: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    squeezed: list[onnx.NodeProto] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    counts: list[tuple[str, Count]] = field(default_factory=list)
    splits: list[Division] = field(default_factory=list)


def why_not_read_alike(graph: ChannelGraph, node: onnx.NodeProto) -> str | None:
    """Return why a layer does not read its channels in a way that allows to leave some out; None where it does."""
    read = channels_read(graph.tensors, node)
    if read is None:
        return "it is not a plain convolution or product of matrices"
    if read.count < 2:
        return "it reads a single channel"
    if graph.index.opset < MIN_ARITHMETIC_OPSET:
        return f"opset {graph.index.opset} broadcasts in ways of its own: convert the model to a newer one"
    return None


def said(node: onnx.NodeProto, names: Names) -> str:
    """Return a node as reasons name it."""
    return f"{node.op_type} '{names[node_key(node)]}'"


def channels_read(tensors: TensorAxes, node: onnx.NodeProto) -> Channels | None:
    """Return the channels that a layer reads; None where it does not read all of them alike."""
    weight = tensors.shape(node.input[1]) if node.op_type in LAYERS else None
    if weight is None or attribute(node, "group", 1) != 1 or attribute(node, "transA", 0):
        return None
    if node.op_type in CONVOLUTIONS:
        return Channels(1 - len(weight), weight[1 - filter_axis(node)])
    return Channels(-1, weight[1 - filter_axis(node)]) if len(weight) == 2 else None
