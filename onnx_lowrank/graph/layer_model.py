"""A layer or its chain as a model of its own, to be timed in the memory layout that it has among its neighbours.

``input -> convolutions -> Relu -> GlobalAveragePool -> output``. The activation is fused as in the network; the pool
reads the runtime's blocked layout and leaves a small output. The cost of the pool and of bringing the input into that
layout is the same for the layer and for all its chains, and cancels out where they are compared.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper

from onnx_lowrank.graph.builder import GraphBuilder, add_chain
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer


def layer_model(layer: Layer, factors: FactorChain, batch: int) -> onnx.ModelProto:
    """Return a model that runs a layer's chain alone.

    Args:
        layer: the layer, for its input's shape and its float type.
        factors: the chain.
        batch: samples per run.

    Returns:
        A model with the input ``input`` of shape `input_shape` and the output ``output``.
    """
    element_type = helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
    graph = GraphBuilder(name="layer")
    graph.input("input", element_type, input_shape(layer, factors, batch))
    rows = replace(layer, op="MatMul") if layer.op == "Gemm" else layer  # the pool wants an axis that Gemm has not
    add_chain(graph, rows, factors, "factor", ("input", "response"))
    graph.node("Relu", ["response"], "activated")
    graph.node("GlobalAveragePool", ["activated"], "output")
    graph.output("output", element_type, _pooled_shape(layer, batch))
    return graph.export()


def input_shape(layer: Layer, factors: FactorChain, batch: int) -> tuple[int, ...]:
    """Return the shape of a batch of what a layer's chain reads."""
    channels = int(factors.convolutions[0].weight.shape[1]) * layer.groups
    return (batch, *layer.input_size, channels) if layer.channels_last else (batch, channels, *layer.input_size)


def _pooled_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    return (batch, *layer.positions, 1) if layer.channels_last else (batch, layer.filters, *[1] * len(layer.kernel))
