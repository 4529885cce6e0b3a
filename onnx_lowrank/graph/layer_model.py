"""A layer or its chain as a model of its own, to be timed in the memory layout that it has among its neighbours.

``input -> convolutions -> Relu -> GlobalAveragePool -> output``. The activation is fused as in the network; the pool
reads the runtime's blocked layout and leaves a small output. The cost of the pool and of bringing the input into that
layout is the same for the layer and for all its chains, and cancels out where they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx
from onnx import helper

from onnx_lowrank.graph.builder import GraphBuilder, add_chain
from onnx_lowrank.layers.chain_shapes import chain_shapes
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors


def layer_model(layer: Layer, factors: FactorChain, batch: int) -> onnx.ModelProto:
    """Return a model that runs a layer's chain alone.

    Args:
        layer: the layer, for its input's shape and its float type.
        factors: the chain.
        batch: samples per run.

    Returns:
        A model with the input ``input`` of shape `input_shape` and the output ``output``.
    """
    graph = GraphBuilder(name="layer")
    graph.input("input", _element_type(layer), input_shape(layer, factors, batch))
    _add_part(graph, layer, factors, batch, ("factor", "input", "output"))
    return graph.export()


def layers_model(parts: Sequence[Part]) -> onnx.ModelProto:
    """Return a model of several chains of random weights side by side, each with an output of its own.

    Args:
        parts: chains; those with inputs of the same shape and type read the same input.

    Returns:
        A model with the inputs of `input_name` and the outputs ``output0``, ``output1``, ...
    """
    graph = GraphBuilder(name="layers")
    inputs = {part.input_name: part for part in parts}
    for name, part in inputs.items():
        graph.input(name, _element_type(part.layer), part.input_shape)
    for number, part in enumerate(parts):
        names = f"part{number}", part.input_name, f"output{number}"
        _add_part(graph, part.layer, random_factors(part.layer, part.plan), part.batch, names)
    return graph.export()


@dataclass(frozen=True, eq=False)
class Part:
    """A layer's chain as a part of a model.

    Attributes:
        layer: the layer.
        plan: of its chain.
        batch: samples per run.
    """

    layer: Layer
    plan: LayerPlan
    batch: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what it reads."""
        first = chain_shapes(self.layer, self.plan)[0]
        return _input_shape(self.layer, first.weight[1] * first.groups, self.batch)

    @property
    def input_name(self) -> str:
        """Name of the input that it reads, which says type and shape."""
        return "_".join(["input", str(self.layer.weight.dtype), *map(str, self.input_shape)])

    @property
    def input_bytes(self) -> int:
        """Bytes of what it reads."""
        return prod(self.input_shape) * self.layer.weight.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.layer.weight.itemsize * sum(prod(shape.weight) for shape in chain_shapes(self.layer, self.plan))


def _add_part(graph: GraphBuilder, layer: Layer, factors: FactorChain, batch: int, names: tuple[str, str, str]) -> None:
    """Add a chain, its activation and the pool; ``names`` are those of its nodes, its input and its output."""
    prefix, source, output = names
    rows = replace(layer, op="MatMul") if layer.op == "Gemm" else layer  # the pool wants an axis that Gemm has not
    response, activated = f"{prefix}/response", f"{prefix}/activated"
    add_chain(graph, rows, factors, prefix, (source, response))
    graph.node("Relu", [response], activated)
    graph.node("GlobalAveragePool", [activated], output)
    graph.output(output, _element_type(layer), _pooled_shape(layer, batch))


def input_shape(layer: Layer, factors: FactorChain, batch: int) -> tuple[int, ...]:
    """Return the shape of a batch of what a layer's chain reads."""
    return _input_shape(layer, int(factors.convolutions[0].weight.shape[1]) * layer.groups, batch)


def _input_shape(layer: Layer, channels: int, batch: int) -> tuple[int, ...]:
    return (batch, *layer.input_size, channels) if layer.channels_last else (batch, channels, *layer.input_size)


def _pooled_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    return (batch, *layer.positions, 1) if layer.channels_last else (batch, layer.filters, *[1] * len(layer.kernel))


def _element_type(layer: Layer) -> int:
    return int(helper.np_dtype_to_tensor_dtype(layer.weight.dtype))
