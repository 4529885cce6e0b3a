"""Read the statistics of the responses of the first convolution from the BatchNormalization that follows it."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.graph.index import GraphIndex, attribute
from onnx_lowrank.layers.input_statistics import InputStatistics

_LAYOUT_OPERATORS = ("Identity", "Transpose", "Cast")  # mostly from channels last to channels first


def read_input_statistics(model: onnx.ModelProto, name: str) -> InputStatistics | None:
    """Read the statistics that a network stores of the responses of the convolution that reads an input.

    Args:
        model: a model whose BatchNormalization is not folded.
        name: name of the input.

    Returns:
        Weights of the convolution and statistics of its responses; None where another operator reads the input first,
        or there are no statistics.
    """
    graph = GraphIndex(model)
    node = graph.only_consumer(name)
    while node is not None and node.op_type in _LAYOUT_OPERATORS:
        node = graph.only_consumer(node.output[0])
    if node is None or node.op_type != "Conv":
        return None
    normalization = graph.only_consumer(node.output[0])
    if normalization is None or normalization.op_type != "BatchNormalization":
        return None
    weight, statistics = graph.constant(node.input[1]), [graph.constant(each) for each in normalization.input[3:5]]
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if weight is None or bias is None or weight.ndim != 4 or any(each is None for each in statistics):
        return None
    if attribute(node, "group", 1) != 1 or not _is_plain(node):
        return None
    mean, variance = (np.asarray(each, dtype=np.float64) for each in statistics)
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    down, across = attribute(node, "strides", [1, 1])
    return InputStatistics(
        np.asarray(weight, dtype=np.float64), (down, across), ((top, bottom), (left, right)), mean - bias, variance
    )


def _is_plain(node: onnx.NodeProto) -> bool:
    """Return whether a convolution has explicit padding and no dilation."""
    return attribute(node, "auto_pad", "NOTSET") == "NOTSET" and set(attribute(node, "dilations", [1, 1])) == {1}
