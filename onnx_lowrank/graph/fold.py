"""What is linear right behind a layer belongs to it: BatchNormalization, an added bias, a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.index import GraphIndex, attribute

SUMS = frozenset({"Add", "Sum"})  # the latter of two, as Caffe2 exports


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer with its linear followers folded in.

    Attributes:
        weight: shape (d, c, kh, kw), the model's float type.
        bias: shape (d,).
        response: tensor that carries the result.
        nodes: first outputs of the layer and of every node folded into it.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    response: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Along:
    """What broadcasts along the channel axis alone of a response.

    Attributes:
        filters: channels d.
        behind: axes behind the channel axis.
        rank: axes of the response.
    """

    filters: int
    behind: int
    rank: int

    @property
    def second(self) -> bool:
        """Whether the channel axis is the second one, where BatchNormalization looks for it."""
        return self.rank - self.behind == 2

    def fits(self, value: NDArray[Any]) -> bool:
        """Whether a constant has one number per channel, and lies along the channel axis."""
        shape = (self.filters, *[1] * self.behind)
        leading = value.ndim - len(shape)
        return 0 <= leading <= self.rank - len(shape) and value.shape == (*[1] * leading, *shape)

    def values(self, value: NDArray[Any]) -> NDArray[np.float64] | None:
        """A constant as shape (d,), a single number repeated; None where it does not lie along the channel axis."""
        if value.size == 1 and value.ndim <= self.rank:
            return np.full(self.filters, float(value.reshape(())))
        return value.astype(np.float64).reshape(self.filters) if self.fits(value) else None


@np.errstate(all="ignore")  # what is not finite in the network shows in its responses
def fold_affine(index: GraphIndex, node: onnx.NodeProto, weight: NDArray[Any], along: Along) -> Folded | None:
    """Fold all per-channel scales and offsets that follow a layer into its weight and bias.

    Computed in float64, returned in the weight's type.

    Args:
        index: the model's graph.
        node: a Conv, Gemm or MatMul node.
        weight: its constant weight, shape (d, c, kh, kw); of a fully connected layer (d, c, 1).
        along: where the channels of its response lie.

    Returns:
        The folded layer; None where its own bias is not constant, or not one number per channel.
    """
    scale, offset = np.ones(along.filters), _own_bias(index, node, along)
    if offset is None:
        return None
    tensor, nodes = node.output[0], [node.output[0]]
    while (follower := index.only_consumer(tensor)) is not None:
        step = _affine(index, follower, tensor, along)
        if step is None:
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
        tensor = follower.output[0]
        nodes.append(tensor)
    scaled = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Folded(scaled.astype(weight.dtype), offset.astype(weight.dtype), tensor, tuple(nodes))


def _own_bias(index: GraphIndex, node: onnx.NodeProto, along: Along) -> NDArray[np.float64] | None:
    """The third input, shape (d,), zeros where there is none; None where it is not constant or no bias by channel."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(along.filters)
    value = index.constant(node.input[2])
    if value is None or node.op_type == "Conv":
        return None if value is None else value.astype(np.float64)
    return along.values(value.astype(np.float64) * attribute(node, "beta", 1.0))


def _affine(
    index: GraphIndex, node: onnx.NodeProto, tensor: str, along: Along
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Scale and offset per channel, each shape (d,), of a node that does nothing else; None for any other."""
    if node.op_type == "BatchNormalization" and node.input[0] == tensor and along.second:
        return _batch_normalization(index, node)
    if node.op_type not in {*SUMS, "Mul"}:
        return None
    others = [name for name in node.input if name != tensor]
    value = index.constant(others[0]) if len(others) == 1 and len(node.input) == 2 else None
    values = None if value is None else along.values(value)
    if values is None:
        return None
    ones, zeros = np.ones(along.filters), np.zeros(along.filters)
    return (ones, values) if node.op_type in SUMS else (values, zeros)


def _batch_normalization(
    index: GraphIndex, node: onnx.NodeProto
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if attribute(node, "training_mode", 0) or any(node.output[1:]):
        return None
    values = [index.constant(name) for name in node.input[1:5]]
    if any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale
