"""A layer or its chain as a model of its own, to be timed where it would run: in the memory layout of its neighbours.

``input -> convolutions -> Relu -> GlobalAveragePool -> output``. The activation is fused as it would be; the pool reads
the runtime's blocked layout and leaves next to nothing to hand out. What the pool costs, and the input's way into that
layout, is the same for every chain of a layer and for the layer itself, and drops out where they are compared.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_lowrank.graph.replace_layer import factor_nodes
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer

_OPSET, _IR_VERSION = 13, 8


def layer_model(layer: Layer, factors: FactorChain, batch: int) -> onnx.ModelProto:
    """A model that runs a layer's chain alone.

    Args:
        layer: the layer, for its input's shape and its float type.
        factors: the chain.
        batch: samples per run.

    Returns:
        A model with the input ``input`` of shape `input_shape`.
    """
    tensor, nodes, constants = "input", [], []
    for number, convolution in enumerate(factors.convolutions):
        name = f"factor_{number}"
        ends = (tensor, f"{name}/output")
        factor, weights = factor_nodes(convolution, name, ends, layer, set())
        nodes += factor
        constants += weights
        tensor = ends[1]
    nodes.append(helper.make_node("Relu", [tensor], ["activated"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["activated"], ["output"]))
    kind = helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
    read = helper.make_tensor_value_info("input", kind, input_shape(layer, batch))
    made = helper.make_tensor_value_info("output", kind, _pooled_shape(layer, batch))
    graph = helper.make_graph(nodes, "layer", [read], [made], constants)
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)])


def input_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    """Shape of a batch of the layer's inputs."""
    if layer.channels_last:
        return (batch, *layer.input_size, layer.channels)
    return (batch, layer.channels, *layer.input_size)


def _pooled_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    return (batch, *layer.positions, 1) if layer.channels_last else (batch, layer.filters, *[1] * len(layer.kernel))
