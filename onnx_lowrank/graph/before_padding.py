"""Layers as they would be without the Pad node in front of them, which onnxruntime fuses with a convolution.

It cannot where the padded tensor itself is wanted, and then copies the whole of it. Patches can be gathered from the
tensor before the Pad as well: its zeros count among the layer's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.graph.index import STANDARD_DOMAINS, GraphIndex, attribute
from onnx_lowrank.layers.layer import Layer


def before_padding(model: onnx.ModelProto, layers: Iterable[Layer]) -> list[Layer]:
    """Return layers with the input that a Pad node in front of them reads, and its zeros among their pads.

    For sampling only: their nodes still read the padded tensor.

    Args:
        model: the network that they are in.
        layers: some of its layers; those without such a node are returned as they are.
    """
    index = GraphIndex(model)
    return [_before_padding(index, layer) for layer in layers]


def _before_padding(index: GraphIndex, layer: Layer) -> Layer:
    """Return a layer before the Pad node in front of it, or as it is where there is none that it could do itself."""
    node, geometry = index.producer.get(layer.input), layer.geometry
    if node is None or layer.op != "Conv" or geometry.auto_pad not in {"NOTSET", "VALID"}:
        return layer
    zeros = _zeros(index, node)
    axes = 2 + len(layer.kernel)  # of samples, of channels, and the spatial ones
    if zeros is None or len(zeros) != 2 * axes or min(zeros) < 0:
        return layer
    before, after = zeros[2:axes], zeros[axes + 2 :]
    if sum(before) + sum(after) != sum(zeros):  # samples or channels are added
        return layer
    sizes = np.subtract(layer.input_size, np.add(before, after)).tolist()
    pads = np.add(geometry.pads, before + after).tolist()
    geometry = replace(geometry, auto_pad="NOTSET", pads=tuple(pads))
    return replace(layer, input=node.input[0], input_size=tuple(sizes), geometry=geometry)


def _zeros(index: GraphIndex, node: onnx.NodeProto) -> list[int] | None:
    """Return how many zeros a Pad node puts before every axis, then after every axis; None for any other node."""
    is_pad = node.op_type == "Pad" and node.domain in STANDARD_DOMAINS
    if not is_pad or attribute(node, "mode", "constant") != "constant":
        return None
    if len(node.input) == 1:  # up to opset 10
        numbers = attribute(node, "pads")
        return None if numbers is None or attribute(node, "value", 0.0) != 0 else list(numbers)
    _, pads, value, axes = [*node.input, "", ""][:4]
    numbers, filled = index.constant(pads), index.constant(value) if value else np.zeros(1)
    if axes or numbers is None or filled is None or filled.any():
        return None
    return [int(each) for each in numbers.ravel()]
