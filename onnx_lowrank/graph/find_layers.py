"""Find the nodes that can be factorized, and for every other one that multiplies and adds the reason why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.activations import find_activation
from onnx_lowrank.graph.channel_graph import ChannelGraph
from onnx_lowrank.graph.channel_groups import channel_groups
from onnx_lowrank.graph.fold import SUM_OPERATORS, ChannelAxis, Folded, fold_affine
from onnx_lowrank.graph.index import (
    CONVOLUTIONS,
    MIN_ARITHMETIC_OPSET,
    STANDARD_DOMAINS,
    GraphIndex,
    attribute,
    fresh_name,
    inner_nodes,
    node_key,
)
from onnx_lowrank.graph.parameter_inputs import why_not_constant
from onnx_lowrank.graph.stored import stored_tensor, with_storage
from onnx_lowrank.graph.transposed import fixes_output, reversed_weight, transposed_geometry
from onnx_lowrank.graph.work import inner_shapes, is_counted, multiply_adds, varying_inside, weights_of
from onnx_lowrank.layers.activation import Activation, identity
from onnx_lowrank.layers.layer import Geometry, Layer, SkippedLayer, pointwise

Shape = tuple[int, ...]

LAYER_OPERATORS = CONVOLUTIONS | {"Gemm", "MatMul"}
_FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
_MAX_SPATIAL_AXES = 3
_BLOCKED_DOMAIN = "com.microsoft.nchwc"  # of onnxruntime, on blocks of channels
_FLOAT_BYTES = 4
_DEPTHWISE = "depthwise convolution"


def weighted_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the tensors whose shapes `find_layers` needs: around every layer's node, and operands of sums."""
    constants = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in LAYER_OPERATORS]
    names = [name for node in layers for name in (node.input[0], node.output[0])]
    names += [name for node in model.graph.node if node.op_type in SUM_OPERATORS for name in node.input]
    return [name for name in dict.fromkeys(names) if name not in constants]


def find_layers(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], samples: int = 1
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Divide a model's layers into those that can be factorized and those that stay.

    Args:
        model: the original network; not changed.
        shapes: observed shape of each of `weighted_tensors`; what stays is counted where those of `counted_tensors` are
            there too.
        samples: batch size that the shapes were observed with.

    Returns:
        Layers in topological order, and a SkippedLayer with its reason for every other node that multiplies and adds,
        those in subgraphs too.
    """
    index, all_names = GraphIndex(model), node_names(model)
    channels = ChannelGraph(model, index)
    by_key = _names_by_key(model)
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer} | dict(shapes)
    inside = inner_shapes(model, shapes) | known
    layers: list[Layer] = []
    skipped: list[SkippedLayer] = []
    for node, name in zip(model.graph.node, all_names, strict=True):
        if inner := [each for each in inner_nodes(node) if is_counted(each)]:
            varying, reason = index.varying | varying_inside(node), f"inside the {node.op_type}"
            names = [f"{name}/{each.name or node_key(each)}" for each in inner]
            skipped += [
                _skipped(index, each, inner_name, reason, varying, inside, samples)
                for each, inner_name in zip(inner, names, strict=True)
            ]
        if node.op_type in LAYER_OPERATORS:
            result = _layer_or_reason(index, node, name, shapes, samples)
            if isinstance(result, Layer):
                reads = channel_groups(channels, by_key, node)
                layers.append(with_storage(index, replace(result, reads=reads), node, by_key))
            else:
                skipped.append(_skipped(index, node, name, result, index.varying, known, samples))
        elif is_counted(node):
            skipped.append(
                _skipped(index, node, name, f"{node.op_type} is not supported", index.varying, known, samples)
            )
    return layers, skipped


def find_depthwise(model: onnx.ModelProto, shapes: Mapping[str, Shape], samples: int = 1) -> list[Layer]:
    """Return the depthwise convolutions of a model, one filter for every channel, in topological order.

    They are too thin to be factorized, but can be solved anew for other inputs.

    Args:
        model: the original network; not changed.
        shapes: observed shape of each of `weighted_tensors`.
        samples: batch size that the shapes were observed with.
    """
    index, layers = GraphIndex(model), []
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        weight = index.constant(node.input[1]) if node.op_type == "Conv" and len(node.input) > 1 else None
        if weight is None or node.input[0] not in shapes or len(weight) != attribute(node, "group", 1):
            continue
        reasons = [_why_not(index, node, weight, shapes, samples), _why_quantized(index, node)]
        maps = shapes[node.output[0]][0]
        if reasons == [_DEPTHWISE, None] and maps % samples == 0:
            layer = _built(index, node, name, weight, shapes, samples)
            if isinstance(layer, Layer):
                layers.append(with_storage(index, layer, node, _names_by_key(model)))
    return layers


def node_names(model: onnx.ModelProto) -> list[str]:
    """Return a unique name for every node: its own where no other node has it, else that of its first output."""
    uses = Counter(node.name for node in model.graph.node)
    taken = {name for name, count in uses.items() if name and count == 1}
    names = []
    for number, node in enumerate(model.graph.node):
        name = node.name
        if not name or uses[name] > 1:
            # An output may have the name of another node, and a node may have no output.
            name = fresh_name(node_key(node) or f"{node.op_type}_{number}", taken)
            taken.add(name)
        names.append(name)
    return names


def _names_by_key(model: onnx.ModelProto) -> dict[str | None, str]:
    return {node_key(node): name for node, name in zip(model.graph.node, node_names(model), strict=True)}


def _layer_or_reason(
    index: GraphIndex, node: onnx.NodeProto, name: str, shapes: Mapping[str, Shape], samples: int
) -> Layer | str:
    """Return a node of the `LAYER_OPERATORS` as a layer, or the reason why it stays."""
    weight = index.constant(node.input[1]) if len(node.input) > 1 else None
    if weight is None:
        sparse = len(node.input) > 1 and node.input[1] in index.sparse
        return "its weight is sparse" if sparse else why_not_constant(index, node, 1)
    if node.input[0] not in shapes:
        return "its input is constant"
    reason = _why_not(index, node, weight, shapes, samples) or _why_quantized(index, node)
    return _built(index, node, name, weight, shapes, samples) if reason is None else reason


def _built(
    index: GraphIndex,
    node: onnx.NodeProto,
    name: str,
    weight: NDArray[Any],
    shapes: Mapping[str, Shape],
    samples: int,
) -> Layer | str:
    """Return a node with a constant weight as a layer, with what is folded into it; or why its bias forbids that."""
    response = shapes[node.output[0]]
    filters, is_conv = _filters(node, weight), node.op_type in CONVOLUTIONS
    channels = ChannelAxis(len(filters), len(response) - 2 if is_conv else 0, len(response))
    folded = fold_affine(index, node, filters, channels)
    if folded is None:
        computed = index.constant(node.input[2]) is None
        return why_not_constant(index, node, 2) if computed else "its bias is not one number per filter"
    rows = (prod(response[:-1]) // samples,)
    sizes = (response[2:], shapes[node.input[0]][2:]) if is_conv else (rows, rows)
    layer = _layer(node, name, folded, _activation_and_residual(index, folded.response, channels, shapes), sizes)
    return replace(layer, maps=response[0] // samples) if is_conv else layer


def _filters(node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    """Return the weight with the filters on its first axis; shape (d, c, 1) for a fully connected layer."""
    if node.op_type == "Conv":
        return weight
    if node.op_type == "ConvTranspose":
        return reversed_weight(weight, attribute(node, "group", 1))
    filters: NDArray[Any] = weight if attribute(node, "transB", 0) else weight.T
    with np.errstate(over="ignore"):  # infinite weights are reported when responses are measured
        scaled: NDArray[Any] = filters[:, :, None] * filters.dtype.type(attribute(node, "alpha", 1.0))
    return scaled


def _why_not(
    index: GraphIndex, node: onnx.NodeProto, weight: NDArray[Any], shapes: Mapping[str, Shape], samples: int
) -> str | None:
    """Return why a node with a constant weight is not factorized; None where it can be."""
    if node.domain == _BLOCKED_DOMAIN:
        return (
            f"operator of domain {node.domain}, which onnxruntime optimized for one machine: "
            "give the model from before that, or save it with ORT_ENABLE_BASIC"
        )
    if node.domain not in STANDARD_DOMAINS:
        return f"operator of domain {node.domain}"
    if weight.dtype not in _FLOATS:
        return f"{weight.dtype} weights: only float16, bfloat16, float32 and float64 are factorized"
    if 0 in weight.shape:
        return "it has no channels"
    if node.op_type in CONVOLUTIONS:
        return _why_not_convolution(index, node, weight, shapes, samples)
    if index.opset < MIN_ARITHMETIC_OPSET:
        return f"opset {index.opset} has no Add that onnxruntime knows: convert the model to a newer one"
    return _why_not_dense(node, weight, shapes, samples)


def _why_not_convolution(
    index: GraphIndex, node: onnx.NodeProto, weight: NDArray[Any], shapes: Mapping[str, Shape], samples: int
) -> str | None:
    """Return why a Conv or ConvTranspose is not factorized; None where it can be."""
    is_transposed = node.op_type == "ConvTranspose"
    if not 1 <= weight.ndim - 2 <= _MAX_SPATIAL_AXES:
        return f"{weight.ndim - 2}-D convolution: 1-D to {_MAX_SPATIAL_AXES}-D are factorized"
    group = attribute(node, "group", 1)
    if group != 1 and weight.shape[1] == 1 and (not is_transposed or len(weight) == group):
        return _DEPTHWISE
    if group < 1 or len(weight) % group:
        what = "channels" if is_transposed else "filters"
        return f"{len(weight)} {what} in {group} groups: they do not divide evenly"
    if is_transposed and index.open_sizes and fixes_output(node):
        return "its output has one size (output_shape), but the network's inputs have any: give them fixed sizes"
    maps = shapes[node.output[0]][0]
    if maps % samples:
        return f"its batch is not that of the samples: it has {maps} maps for {samples} samples"
    return None


def _why_not_dense(node: onnx.NodeProto, weight: NDArray[Any], shapes: Mapping[str, Shape], samples: int) -> str | None:
    """Return why a Gemm or MatMul is not factorized; None where it can be."""
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} axes: only matrices are factorized"
    if attribute(node, "transA", 0):
        return "its input is transposed (transA)"
    # Rows are sampled image by image, so every image must have the same number of them.
    if len(shapes[node.input[0]]) < 2 or prod(shapes[node.output[0]][:-1]) % samples:
        return "its input has no axis of samples"
    return None


def _why_quantized(index: GraphIndex, node: onnx.NodeProto) -> str | None:
    """Return the reason why a layer that reads dequantized activations stays; None for any other layer."""
    source = index.producer.get(node.input[0])
    return "quantized (QDQ) layer" if source is not None and source.op_type == "DequantizeLinear" else None


def _skipped(
    index: GraphIndex,
    node: onnx.NodeProto,
    name: str,
    reason: str,
    varying: Container[str],
    shapes: Mapping[str, Shape],
    samples: int,
) -> SkippedLayer:
    """Return a node that stays, with its multiply-adds per sample and its parameters."""
    sizes = {weight: prod(shapes[weight]) for weight in weights_of(node, varying) if weight in shapes}
    stored = tuple(stored_tensor(index, weight, size, _FLOAT_BYTES, name) for weight, size in sizes.items())
    macs = multiply_adds(node, shapes, samples)
    return SkippedLayer(name, node.op_type, reason, macs, sum(sizes.values()), stored)


def _activation_and_residual(
    index: GraphIndex, response: str, channels: ChannelAxis, shapes: Mapping[str, Shape]
) -> tuple[Activation, str | None]:
    """Return the activation that follows a response, and the residual that is added to the response before it."""
    node = index.only_consumer(response)
    if node is not None and node.op_type in SUM_OPERATORS:
        others = [name for name in node.input if name != response]
        activation = find_activation(index, node.output[0], channels)
        summed = len(others) == 1 and len(node.input) == 2 and shapes.get(others[0]) == shapes.get(response)
        # What the next layer sees is the sum, also where nothing bends behind it: errors are relative to that.
        return (activation, others[0]) if summed and others[0] in index.varying else (identity(), None)
    return find_activation(index, response, channels), None


def _layer(
    node: onnx.NodeProto,
    name: str,
    folded: Folded,
    followers: tuple[Activation, str | None],
    sizes: tuple[Shape, Shape],
) -> Layer:
    """Return a layer, given its activation and residual, and the spatial sizes of its response and its input."""
    dense = node.op_type not in CONVOLUTIONS
    activation, residual = followers
    return Layer(
        name=name,
        op=node.op_type,
        weight=folded.weight,
        bias=folded.bias,
        geometry=pointwise(1) if dense else _geometry(node, folded.weight.shape[2:], sizes),
        activation=activation,
        input=node.input[0],
        response=folded.response,
        residual=residual,
        nodes=folded.nodes,
        positions=sizes[0],
        input_size=sizes[1],
        channels_last=dense,
        groups=attribute(node, "group", 1),
    )


def _geometry(node: onnx.NodeProto, kernel: Shape, sizes: tuple[Shape, Shape]) -> Geometry:
    if node.op_type == "ConvTranspose":
        return transposed_geometry(node, kernel, sizes[1], sizes[0])
    axes, auto_pad = len(kernel), attribute(node, "auto_pad", "NOTSET")
    none: Sequence[int] = [0] * (2 * axes)
    return Geometry(
        strides=tuple(attribute(node, "strides", [1] * axes)),
        dilations=tuple(attribute(node, "dilations", [1] * axes)),
        pads=tuple(attribute(node, "pads", none) if auto_pad == "NOTSET" else none),
        auto_pad=auto_pad,
    )
