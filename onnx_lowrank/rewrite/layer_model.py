"""A layer or its chain as a model of its own, to be timed where it would run: in the memory layout of its neighbours.

``input -> convolutions -> Relu -> GlobalAveragePool -> output``. The activation is fused as it would be; the pool reads
the runtime's blocked layout and leaves next to nothing to hand out. What the pool costs, and the input's way into that
layout, is the same for every chain of a layer and for the layer itself, and drops out where they are compared.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_lowrank.factors import Factors
from onnx_lowrank.layer import Layer
from onnx_lowrank.rewrite.replace_layer import conv_node

_OPSET, _IR_VERSION = 13, 8


def layer_model(layer: Layer, factors: Factors, batch: int) -> onnx.ModelProto:
    """A model that runs a layer's chain alone.

    Args:
        layer: the layer, for its input's shape and its float type.
        factors: the chain.
        batch: samples per run.

    Returns:
        A model with the input ``input`` of shape (batch, c, height, width).
    """
    tensor, nodes, constants = "input", [], []
    for number, convolution in enumerate(factors.convolutions):
        node, weights = conv_node(convolution, f"conv_{number}", tensor, f"conv_{number}/output", layer, set())
        nodes.append(node)
        constants += weights
        tensor = node.output[0]
    nodes.append(helper.make_node("Relu", [tensor], ["activated"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["activated"], ["output"]))
    kind = helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
    shape = [batch, layer.channels, *layer.input_size]
    read = helper.make_tensor_value_info("input", kind, shape)
    made = helper.make_tensor_value_info("output", kind, [batch, layer.filters, 1, 1])
    graph = helper.make_graph(nodes, "layer", [read], [made], constants)
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])
