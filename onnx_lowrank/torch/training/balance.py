"""Factors of a layer brought to the same size, channel by channel: what they do together stays the same.

A solved chain may have small filters in front of large ones. Then a step moves what is before the large ones far too
much, and the learning rate has to be small for the sake of a few channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx
import torch
from torch import Tensor

_ROUNDS = 20  # a factor in the middle of three has two neighbours

Pair = tuple[str, str | None, str]  # weight and bias of the first convolution, weight of the second


def factor_pairs(graph: onnx.GraphProto) -> list[Pair]:
    """Convolutions of one group that follow each other with nothing between them.

    Args:
        graph: as it was converted; its weights are initializers that nothing else reads.
    """
    return list(_pairs(graph))


@torch.no_grad()
def balance(state: Mapping[str, Tensor], pairs: list[Pair], keys: Mapping[str, str]) -> None:
    """Scale the channels between factors so that what makes one and what reads it have the same norm.

    Args:
        state: the weights, changed in place.
        pairs: names of the weights.
        keys: of ``state``, by name.
    """
    for _ in range(_ROUNDS):
        for first, bias, second in pairs:
            makes, reads = state[keys[first]], state[keys[second]]
            norms = makes.flatten(1).norm(dim=1), reads.transpose(0, 1).flatten(1).norm(dim=1)
            scale = (norms[1] / norms[0]).sqrt()
            scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)  # channels that are nothing stay so
            makes *= scale.reshape(-1, *[1] * (makes.ndim - 1))
            reads /= scale.reshape(1, -1, *[1] * (reads.ndim - 2))
            if bias is not None:
                state[keys[bias]] *= scale


def _pairs(graph: onnx.GraphProto) -> Iterator[Pair]:
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    held = {tensor.name for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if _is_plain(node)}
    for node in graph.node:
        before = makers.get(node.input[0]) if _is_plain(node) else None
        if before is None or reads[before.output[0]] > 1:
            continue
        weights = [*before.input[1:], node.input[1]]
        if all(name in held and reads[name] == 1 for name in weights):
            yield before.input[1], before.input[2] if len(before.input) > 2 else None, node.input[1]


def _is_plain(node: onnx.NodeProto) -> bool:
    grouped = any(each.name == "group" and each.i != 1 for each in node.attribute)
    return node.op_type == "Conv" and not node.domain and not grouped
