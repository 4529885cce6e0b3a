"""What is linear right behind a convolution belongs to it: BatchNormalization, an added bias, a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph import GraphIndex, attribute


@dataclass(frozen=True, eq=False)
class Folded:
    """A convolution with its linear followers folded in.

    Attributes:
        weight: shape (d, c, kh, kw), the model's float type.
        bias: shape (d,).
        response: tensor that carries the result.
        nodes: first outputs of the convolution and of every node folded into it.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    response: str
    nodes: tuple[str, ...]


def fold_affine(index: GraphIndex, conv: onnx.NodeProto, weight: NDArray[Any]) -> Folded | None:
    """Fold all per-channel scales and offsets that follow a convolution into its weight and bias.

    Computed in float64, returned in the weight's type.

    Args:
        index: the model's graph.
        conv: a Conv node.
        weight: its constant weight, shape (d, c, kh, kw).

    Returns:
        The folded convolution; None where the convolution's own bias is not constant.
    """
    filters = weight.shape[0]
    bias: NDArray[Any] | None = np.zeros(filters)
    if len(conv.input) > 2 and conv.input[2]:
        bias = index.constant(conv.input[2])
    if bias is None:
        return None
    scale, offset = np.ones(filters), bias.astype(np.float64)
    tensor, nodes = conv.output[0], [conv.output[0]]
    while (node := index.only_consumer(tensor)) is not None:
        step = _affine(index, node, tensor, weight)
        if step is None:
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
        tensor = node.output[0]
        nodes.append(tensor)
    scaled = weight.astype(np.float64) * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Folded(scaled.astype(weight.dtype), offset.astype(weight.dtype), tensor, tuple(nodes))


def _affine(
    index: GraphIndex, node: onnx.NodeProto, tensor: str, weight: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Scale and offset per channel, each shape (d,), of a node that does nothing else; None for any other."""
    if node.op_type == "BatchNormalization" and node.input[0] == tensor:
        return _batch_normalization(index, node)
    if node.op_type not in {"Add", "Mul"}:
        return None
    others = [name for name in node.input if name != tensor]
    value = index.constant(others[0]) if len(others) == 1 else None
    values = None if value is None else _per_channel(value, weight)
    if values is None:
        return None
    return (np.ones(len(weight)), values) if node.op_type == "Add" else (values, np.zeros(len(weight)))


def _per_channel(value: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64] | None:
    """A constant that broadcasts along the channel axis alone of what ``weight`` makes, as shape (d,)."""
    filters, axes = len(weight), weight.ndim - 2
    if value.size == 1 and value.ndim <= axes + 2:
        return np.full(filters, float(value.reshape(())))
    if value.ndim in {axes + 1, axes + 2} and value.size == filters and value.shape[-axes - 1] == filters:
        return value.astype(np.float64).reshape(filters)
    return None


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
