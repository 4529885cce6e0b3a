"""Balancing of the factors of a layer, channel by channel, which does not change what they compute together.

A solved chain may have small filters in front of large ones. A gradient step then moves the small filters far too
much, and the learning rate has to be small for the sake of a few channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx
import torch
from torch import Tensor

_ITERATIONS = 20  # several, as the middle one of three factors has two neighbours

# Axes of a weight that go through the channels it makes and those it reads.
_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0)}


class Pair(NamedTuple):
    """Two convolutions, one behind the other.

    Attributes:
        first: name of the weight of the first.
        bias: name of its bias; None where it has none.
        second: name of the weight of the second.
        made: axis of the first weight that goes through the channels in between.
        read: axis of the second weight that does.
    """

    first: str
    bias: str | None
    second: str
    made: int = 0
    read: int = 1


def factor_pairs(graph: onnx.GraphProto) -> list[Pair]:
    """Return the ungrouped convolutions that directly follow each other.

    Args:
        graph: of the converted network. Only weights are taken that are initializers with a single reader.
    """
    return list(_pairs(graph))


@torch.no_grad()
def balance(state: Mapping[str, Tensor], pairs: list[Pair], keys: Mapping[str, str]) -> None:
    """Scale the channels between factors so that the filters on both sides of a channel have the same norm.

    Args:
        state: the weights, changed in place.
        pairs: names of the weights.
        keys: of ``state``, by name.
    """
    for _ in range(_ITERATIONS):
        for first, bias, second, made, read in pairs:
            writer, reader = state[keys[first]].movedim(made, 0), state[keys[second]].movedim(read, 0)
            norms = writer.flatten(1).norm(dim=1), reader.flatten(1).norm(dim=1)
            scale = (norms[1] / norms[0]).sqrt()
            scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)  # channels of zeros stay so
            writer *= scale.reshape(-1, *[1] * (writer.ndim - 1))
            reader /= scale.reshape(-1, *[1] * (reader.ndim - 1))
            if bias is not None:
                state[keys[bias]] *= scale


def _pairs(graph: onnx.GraphProto) -> Iterator[Pair]:
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    initializers = {tensor.name for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node if _is_plain_convolution(node)}
    for node in graph.node:
        before = producers.get(node.input[0]) if _is_plain_convolution(node) else None
        if before is None or readers[before.output[0]] > 1:
            continue
        weights = [*before.input[1:], node.input[1]]
        if all(name in initializers and readers[name] == 1 for name in weights):
            bias = before.input[2] if len(before.input) > 2 else None
            yield Pair(before.input[1], bias, node.input[1], _AXES[before.op_type][0], _AXES[node.op_type][1])


def _is_plain_convolution(node: onnx.NodeProto) -> bool:
    is_grouped = any(attribute.name == "group" and attribute.i != 1 for attribute in node.attribute)
    return node.op_type in _AXES and not node.domain and not is_grouped
