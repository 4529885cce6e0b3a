"""One node -> a chain of plain convolutions between the same two tensors.

The nodes folded into the layer (BatchNormalization, an added bias) go with it. New weights only: an initializer other
nodes read is never edited; one that nobody reads any more is removed.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.factors import Convolution, Factors
from onnx_lowrank.graph import (
    FIRST_IR_WITH_FREE_INITIALIZERS,
    fresh_name,
    initializer_input,
    reads,
    remove_orphans,
)
from onnx_lowrank.layer import Layer


def replace_layer(model: onnx.ModelProto, layer: Layer, factors: Factors) -> None:
    """Put the solved chain in the layer's place, in the model itself.

    Args:
        model: changed in place.
        layer: a layer found in the model, not replaced yet.
        factors: its chain; weights are written in the layer's float type.

    Raises:
        ModelError: a weight overflows the layer's float type.
    """
    graph = model.graph
    taken = {name for node in graph.node for name in [node.name, *node.input, *node.output]}
    taken |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    tensor, chain, constants = layer.input, [], []
    for position, convolution in enumerate(factors.convolutions):
        name = fresh_name(f"{layer.name}/lowrank_{position}", taken)
        last = position == len(factors.convolutions) - 1
        output = layer.response if last else fresh_name(f"{name}/output", taken)
        node, weights = conv_node(convolution, name, tensor, output, layer, taken)
        chain.append(node)
        constants += weights
        tensor = output
    dead = [node for node in graph.node if node.output and node.output[0] in layer.nodes]
    place = list(graph.node).index(dead[0])
    unread = [name for node in dead for name in reads(node)]
    for position in reversed(range(len(graph.node))):
        if graph.node[position].output and graph.node[position].output[0] in layer.nodes:
            del graph.node[position]
    for offset, node in enumerate(chain):
        graph.node.insert(place + offset, node)
    graph.initializer.extend(constants)
    if model.ir_version < FIRST_IR_WITH_FREE_INITIALIZERS:
        graph.input.extend(initializer_input(tensor) for tensor in constants)
    remove_orphans(model, [*unread, *(tensor for tensor in layer.nodes if tensor != layer.response)])


def conv_node(
    convolution: Convolution, name: str, tensor: str, output: str, layer: Layer, taken: set[str]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """A convolution as a node, and its initializers.

    Args:
        convolution: weights and geometry.
        name: of the node.
        tensor: what it reads.
        output: what it makes.
        layer: whose float type the weights get.
        taken: names in use.

    Raises:
        ModelError: a weight overflows the layer's float type.
    """
    weights = [numpy_helper.from_array(_typed(convolution.weight, layer), fresh_name(f"{name}/weight", taken))]
    if convolution.bias is not None:
        weights.append(numpy_helper.from_array(_typed(convolution.bias, layer), fresh_name(f"{name}/bias", taken)))
    geometry = convolution.geometry
    place = {"pads": geometry.pads} if geometry.auto_pad == "NOTSET" else {"auto_pad": geometry.auto_pad}
    node = helper.make_node(
        "Conv",
        [tensor, *(each.name for each in weights)],
        [output],
        name=name,
        kernel_shape=convolution.weight.shape[2:],
        strides=geometry.strides,
        dilations=geometry.dilations,
        **place,
    )
    return node, weights


def _typed(values: NDArray[np.float64], layer: Layer) -> NDArray[np.floating]:
    """Weights in the layer's float type; numbers too small to be normal there become zero, being slow and useless."""
    limits = np.finfo(layer.weight.dtype)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > limits.max:
        raise ModelError(
            f"{layer.op} '{layer.name}': a solved weight does not fit {layer.weight.dtype}: "
            "leave the layer out with --exclude, or convert the float32 model"
        )
    return np.where(np.abs(values) < limits.tiny, 0, values).astype(layer.weight.dtype)
