"""Fold linear nodes that follow a layer into its weight and bias: BatchNormalization, an added bias, a scale.

A layer's own bias, the third input of Conv, ConvTranspose and Gemm, is read here too (`_own_bias`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.index import CONVOLUTIONS, GraphIndex, attribute

SUM_OPERATORS = frozenset({"Add", "Sum"})  # Sum of two tensors, as Caffe2 exports it
AFFINE_OPERATORS = SUM_OPERATORS | {"Sub", "Mul", "Div"}  # with one operand constant


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer with its linear followers folded in.

    Attributes:
        weight: shape (d, c, kh, kw), the model's float type.
        bias: shape (d,).
        response: name of the tensor that carries the result.
        nodes: first outputs of the layer and of every node folded into it.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    response: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ChannelAxis:
    """The channel axis of a response: tells which constants have one number per channel.

    Attributes:
        channels: channels of the response, d.
        trailing: number of axes after the channel axis.
        rank: number of axes of the response.
    """

    channels: int
    trailing: int
    rank: int

    @property
    def is_second(self) -> bool:
        """Whether the channel axis is the second one, as BatchNormalization requires."""
        return self.rank - self.trailing == 2

    def fits(self, value: NDArray[Any]) -> bool:
        """Return whether a constant has one number per channel, and broadcasts along the channel axis."""
        leading = value.ndim - 1 - self.trailing
        fits = 0 <= leading < self.rank - self.trailing
        return fits and value.shape == (*[1] * leading, self.channels, *[1] * self.trailing)

    def values(self, value: NDArray[Any]) -> NDArray[np.float64] | None:
        """Return a constant as shape (d,), a single number repeated; None where it is not one number per channel."""
        if value.size == 1 and value.ndim <= self.rank:
            return np.full(self.channels, float(value.reshape(())))
        return value.astype(np.float64).reshape(self.channels) if self.fits(value) else None


@np.errstate(all="ignore")  # numbers that are not finite are reported when responses are measured
def fold_affine(index: GraphIndex, node: onnx.NodeProto, weight: NDArray[Any], axis: ChannelAxis) -> Folded | None:
    """Fold all per-channel scales and offsets that follow a layer into its weight and bias.

    Computed in float64, returned in the weight's type.

    Args:
        index: the model's graph.
        node: a Conv, ConvTranspose, Gemm or MatMul node.
        weight: its constant weight, shape (d, c, kh, kw); of a fully connected layer (d, c, 1).
        axis: the channel axis of its response.

    Returns:
        The folded layer; None where its own bias is not constant, or not one number per channel.
    """
    scale, offset = np.ones(axis.channels), _own_bias(index, node, axis)
    if offset is None:
        return None
    tensor, nodes = node.output[0], [node.output[0]]
    while (follower := index.only_consumer(tensor)) is not None:
        affine = _affine(index, follower, tensor, axis)
        if affine is None:
            break
        factor, summand = affine
        scale, offset = scale * factor, offset * factor + summand
        tensor = follower.output[0]
        nodes.append(tensor)
    scaled = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Folded(scaled.astype(weight.dtype), offset.astype(weight.dtype), tensor, tuple(nodes))


def _own_bias(index: GraphIndex, node: onnx.NodeProto, axis: ChannelAxis) -> NDArray[np.float64] | None:
    """Return the third input, shape (d,), zeros where there is none; None where it is not one constant per channel."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(axis.channels)
    value = index.constant(node.input[2])
    if value is None:
        return None
    if node.op_type in CONVOLUTIONS:
        return value.astype(np.float64)
    return axis.values(value.astype(np.float64) * attribute(node, "beta", 1.0))


def _affine(
    index: GraphIndex, node: onnx.NodeProto, tensor: str, axis: ChannelAxis
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return scale and offset, shape (d,) each, of a node that scales and shifts channels; None for any other node."""
    if node.op_type == "BatchNormalization" and node.input[0] == tensor and axis.is_second:
        return _batch_normalization(index, node)
    if node.op_type not in AFFINE_OPERATORS:
        return None
    others = [name for name in node.input if name != tensor]
    value = index.constant(others[0]) if len(others) == 1 and len(node.input) == 2 else None
    values = None if value is None else axis.values(value)
    if values is None:
        return None
    ones, zeros = np.ones(axis.channels), np.zeros(axis.channels)
    is_first = node.input[0] == tensor
    match node.op_type:
        case "Mul":
            return values, zeros
        case "Div":
            return (1 / values, zeros) if is_first and values.all() else None
        case "Sub":
            return (ones, -values) if is_first else (-ones, values)
        case _:
            return ones, values


def _batch_normalization(
    index: GraphIndex, node: onnx.NodeProto
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return scale and offset of a BatchNormalization; None where its statistics are not constant."""
    if attribute(node, "training_mode", 0) or any(node.output[1:]):
        return None
    values = [index.constant(name) for name in node.input[1:5]]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale
