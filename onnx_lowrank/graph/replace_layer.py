"""One node -> a chain of plain convolutions, or products of matrices, between the same two tensors.

The nodes folded into the layer (BatchNormalization, an added bias) go with it. New weights only: an initializer other
nodes read is never edited; one that nobody reads any more is removed.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.extract import FIRST_IR_WITH_FREE_INITIALIZERS, initializer_input, remove_orphans
from onnx_lowrank.graph.index import fresh_name, names_in_use, tensors_read
from onnx_lowrank.layers.factors import Convolution, FactorChain
from onnx_lowrank.layers.layer import Layer


def replace_layer(model: onnx.ModelProto, layer: Layer, factors: FactorChain) -> None:
    """Put the solved chain in the layer's place, in the model itself.

    Args:
        model: changed in place.
        layer: a layer found in the model, not replaced yet.
        factors: its chain; weights are written in the layer's float type.

    Raises:
        ModelError: a weight overflows the layer's float type.
    """
    graph = model.graph
    taken = names_in_use(model)
    tensor, chain, constants = layer.input, [], []
    for position, convolution in enumerate(factors.convolutions):
        name = fresh_name(f"{layer.name}/lowrank_{position}", taken)
        last = position == len(factors.convolutions) - 1
        output = layer.response if last else fresh_name(f"{name}/output", taken)
        nodes, weights = factor_nodes(convolution, name, (tensor, output), layer, taken)
        chain += nodes
        constants += weights
        tensor = output
    dead = [node for node in graph.node if node.output and node.output[0] in layer.nodes]
    place = list(graph.node).index(dead[0])
    unread = [name for node in dead for name in tensors_read(node)]
    for position in reversed(range(len(graph.node))):
        if graph.node[position].output and graph.node[position].output[0] in layer.nodes:
            del graph.node[position]
    for offset, node in enumerate(chain):
        graph.node.insert(place + offset, node)
    graph.initializer.extend(constants)
    if model.ir_version < FIRST_IR_WITH_FREE_INITIALIZERS:
        graph.input.extend(initializer_input(tensor) for tensor in constants)
    remove_orphans(model, [*unread, *(tensor for tensor in layer.nodes if tensor != layer.response)])


def factor_nodes(
    convolution: Convolution, name: str, ends: tuple[str, str], layer: Layer, taken: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A factor as a Conv, or as a MatMul and an Add where the layer is fully connected, and its initializers.

    Args:
        convolution: weights and geometry.
        name: of the node that carries the weights.
        ends: the tensor it reads and the one it makes.
        layer: whose kind and float type it gets.
        taken: names in use.

    Raises:
        ModelError: a weight overflows the layer's float type.
    """
    weight, bias = _typed(convolution.weight, layer), convolution.bias
    tensors = [numpy_helper.from_array(_matrix(weight) if layer.channels_last else weight, f"{name}/weight")]
    if bias is not None:
        tensors.append(numpy_helper.from_array(_typed(bias, layer), f"{name}/bias"))
    for tensor in tensors:
        tensor.name = fresh_name(tensor.name, taken)
    names = [tensor.name for tensor in tensors]
    if layer.channels_last:
        return _dense_nodes(name, ends, names, taken), tensors
    geometry = convolution.geometry
    place = {"pads": geometry.pads} if geometry.auto_pad == "NOTSET" else {"auto_pad": geometry.auto_pad}
    node = helper.make_node(
        "Conv",
        [ends[0], *names],
        [ends[1]],
        name=name,
        kernel_shape=convolution.weight.shape[2:],
        strides=geometry.strides,
        dilations=geometry.dilations,
        group=convolution.groups,
        **place,
    )
    return [node], tensors


def _matrix(weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Filters (d, c, 1) as the second operand of a product of matrices, (c, d)."""
    return np.ascontiguousarray(weight[:, :, 0].T)


def _dense_nodes(name: str, ends: tuple[str, str], names: list[str], taken: set[str]) -> list[onnx.NodeProto]:
    if len(names) == 1:
        return [helper.make_node("MatMul", [ends[0], names[0]], [ends[1]], name=name)]
    product, added = (fresh_name(f"{name}/{part}", taken) for part in ("product", "add"))
    return [
        helper.make_node("MatMul", [ends[0], names[0]], [product], name=name),
        helper.make_node("Add", [product, names[1]], [ends[1]], name=added),
    ]


def _typed(values: NDArray[np.float64], layer: Layer) -> NDArray[np.floating]:
    """Weights in the layer's float type; numbers too small to be normal there become zero, being slow and useless."""
    limits = ml_dtypes.finfo(layer.weight.dtype)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > limits.max:
        raise ModelError(
            f"{layer.op} '{layer.name}': a solved weight does not fit {layer.weight.dtype}: "
            "leave the layer out with `exclude`, or convert the float32 model"
        )
    typed: NDArray[np.floating] = np.where(np.abs(values) < limits.tiny, 0, values).astype(layer.weight.dtype)
    return typed
