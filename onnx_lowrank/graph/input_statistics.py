"""The convolution that reads the images, where BatchNormalization behind it still has its statistics."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.graph.index import GraphIndex, attribute
from onnx_lowrank.layers.input_statistics import InputStatistics

_ON_THE_WAY = ("Identity", "Transpose", "Cast")  # from channels last, in most cases


def read_input_statistics(model: onnx.ModelProto, name: str) -> InputStatistics | None:
    """Read the statistics that a network stores of the responses of the convolution that reads an input.

    Args:
        model: a model whose BatchNormalization is not folded.
        name: of the input.

    Returns:
        Its weights, and the statistics behind it; None where another operator reads the input first, or there are no
        statistics.
    """
    graph = GraphIndex(model)
    node = graph.only_consumer(name)
    while node is not None and node.op_type in _ON_THE_WAY:
        node = graph.only_consumer(node.output[0])
    behind = None if node is None or node.op_type != "Conv" else graph.only_consumer(node.output[0])
    if node is None or behind is None or behind.op_type != "BatchNormalization":
        return None
    weight, numbers = graph.constant(node.input[1]), [graph.constant(each) for each in behind.input[3:5]]
    bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if weight is None or bias is None or weight.ndim != 4 or any(each is None for each in numbers):
        return None
    if attribute(node, "group", 1) != 1 or not _is_plain(node):
        return None
    mean, variance = (np.asarray(each, dtype=np.float64) for each in numbers)
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    down, across = attribute(node, "strides", [1, 1])
    return InputStatistics(
        np.asarray(weight, dtype=np.float64), (down, across), ((top, bottom), (left, right)), mean - bias, variance
    )


def _is_plain(node: onnx.NodeProto) -> bool:
    return attribute(node, "auto_pad", "NOTSET") == "NOTSET" and set(attribute(node, "dilations", [1, 1])) == {1}
