"""Seeded positions, and the small graph that gathers them so that only sampled rows leave the network.

Rows are gathered from flat views, which works for every opset, layout and number of axes, by indices that are fed.

A response is few numbers: ``Gather(Reshape(tensor, [-1]), base + channel * step)``. A patch is many, so the channels
are moved to the end and gathered all at once: ``Gather(Reshape(Transpose(tensor), [-1, c]), place)``. That is several
times faster, and moving them costs nothing where onnxruntime has to leave its own layout anyhow.

| code    | meaning                                            | shape         |
|---------|----------------------------------------------------|---------------|
| base    | flat index of channel 0 at each sampled position   | (N, P, 1)     |
| step    | to the next channel: 1 where they come last,       |               |
|         | else the number of positions of the tensor         |               |
| place   | image and position of each kernel point of a patch | (N, P, kw, K) |
| inside  | whether it is inside the image                     | (N, P, kw, K) |

N images, P positions per image, kw kernel points along the last axis, K along the others. A patch comes kernel column
by kernel column, channels last, since that is how it is worked on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.graph.builder import GraphBuilder
from onnx_lowrank.graph.index import probe_name
from onnx_lowrank.layers.layer import Layer


@dataclass(frozen=True, eq=False)
class Tap:
    """Nodes to add to a graph so that it hands out sampled rows.

    Attributes:
        nodes: to run behind the graph's own.
        constants: initializers they read.
        inputs: further graph inputs they read: indices, fed per batch.
        output: the graph output with the rows, shape (N, P, d) of responses, (N, P, kw, K, c) of patches.
    """

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto]
    inputs: Sequence[onnx.ValueInfoProto]
    output: onnx.ValueInfoProto


def response_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Feeds for a `response_tap`: positions of shape (N, P) of one batch."""
    image = np.arange(len(positions))[:, None] * (layer.filters * prod(layer.positions))
    place = positions * layer.filters if layer.channels_last else positions
    return {probe_name(layer.name, "positions"): (image + place)[:, :, None]}


def response_tap(layer: Layer, tensor: str, element_type: int) -> Tap:
    """Gather rows of ``tensor``, which has the shape of the layer's response, (N, d, height, width).

    Args:
        layer: whose response it is.
        tensor: the response, or a residual of the same shape.
        element_type: ONNX element type of the tensor.
    """
    graph, name = GraphBuilder(), partial(probe_name, layer.name, "response", tensor)
    step = 1 if layer.channels_last else prod(layer.positions)
    positions = graph.input(probe_name(layer.name, "positions"), TensorProto.INT64)
    flat_shape = graph.constant(name("flat_shape"), np.array([-1]))
    offsets = graph.constant(name("offsets"), np.arange(layer.filters).reshape(1, 1, -1) * step)
    flat = graph.node("Reshape", [tensor, flat_shape], name("flat"))
    indices = graph.node("Add", [positions, offsets], name("index"))
    graph.output(graph.node("Gather", [flat, indices], name("rows")), element_type)
    return _tap(graph)


def _tap(builder: GraphBuilder) -> Tap:
    graph = builder.export().graph
    return Tap(graph.node, graph.initializer, graph.input, graph.output[0])


def patch_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Feeds for a `patch_tap`: positions of shape (N, P) of one batch. What is not inside the image reads its edge."""
    place, _ = _kernel_points(layer, positions)
    image = np.arange(len(positions))[:, None, None, None] * prod(layer.input_size)
    return {probe_name(layer.name, "patches"): image + place}


def patch_tap(layer: Layer, element_type: int) -> Tap:
    """Gather the layer's input patches, shape (N, P, kw, K, c); `as_patches` brings them into their usual shape.

    Args:
        layer: the layer; its ``input`` tensor is read.
        element_type: ONNX element type of that tensor.
    """
    graph, name, axes = GraphBuilder(), partial(probe_name, layer.name, "input"), len(layer.input_size)
    indices = graph.input(probe_name(layer.name, "patches"), TensorProto.INT64)
    flat_shape = graph.constant(name("flat_shape"), np.array([-1, layer.channels]))
    tensor = layer.input
    if not layer.channels_last:
        tensor = graph.node("Transpose", [tensor], name("moved"), perm=[0, *range(2, axes + 2), 1])
    flat = graph.node("Reshape", [tensor, flat_shape], name("flat"))
    graph.output(graph.node("Gather", [flat, indices], patch_rows(layer)), element_type)
    return _tap(graph)


def as_patches(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """What a `patch_tap` hands out as patches, shape (n, c, kh, kw): another look at the same memory."""
    return np.swapaxes(rows.reshape(-1, layer.kernel[-1], *layer.kernel[:-1], layer.channels), 1, -1)


def clear_outside(rows: NDArray[Any], layer: Layer, positions: Ints) -> None:
    """Put zeros where a patch hangs over the edge of the image.

    Args:
        rows: what a `patch_tap` handed out; changed.
        layer: the layer.
        positions: those of the rows, shape (N, P).
    """
    _, inside = _kernel_points(layer, positions)
    if not inside.all():
        rows[~inside] = 0


def _kernel_points(layer: Layer, positions: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where every kernel point of every patch lies in its image, and whether it is inside; shape (N, P, kw, K)."""
    axes, inside = [], np.ones((), bool)
    outputs = np.unravel_index(positions, layer.positions)
    kernel = np.unravel_index(np.arange(prod(layer.kernel)), layer.kernel)
    geometry, pads = layer.geometry, leading_pads(layer)
    for axis, size in enumerate(layer.input_size):
        place = outputs[axis][:, :, None] * geometry.strides[axis] - pads[axis]
        place = place + kernel[axis] * geometry.dilations[axis]
        inside = inside & (place >= 0) & (place < size)
        axes.append(np.clip(place, 0, size - 1))
    by_column = (*positions.shape, -1, layer.kernel[-1])
    flat = np.ravel_multi_index(tuple(axes), layer.input_size)
    place, inside = (np.swapaxes(each.reshape(by_column), 2, 3) for each in (flat, inside))
    return place, inside


def patch_rows(layer: Layer) -> str:
    """Name of what a `patch_tap` hands out."""
    return probe_name(layer.name, "input", "rows")


def leading_pads(layer: Layer) -> tuple[int, ...]:
    """Zeros before each spatial axis, ``auto_pad`` resolved for the size the layer's input has."""
    geometry = layer.geometry
    if geometry.auto_pad not in {"SAME_UPPER", "SAME_LOWER"}:
        return geometry.pads[: len(layer.kernel)]
    pads = []
    for axis, kernel in enumerate(layer.kernel):
        reach = (kernel - 1) * geometry.dilations[axis] + 1
        steps = (layer.positions[axis] - 1) * geometry.strides[axis]
        total = max(0, steps + reach - layer.input_size[axis])
        pads.append(total // 2 if geometry.auto_pad == "SAME_UPPER" else total - total // 2)
    return tuple(pads)
