"""Seeded positions, and the small graph that gathers them so that only sampled rows leave the network.

A tensor is gathered through its flat view, which works for every opset, layout and number of axes:
``Gather(Reshape(tensor, [-1]), base + channel * step)``. The base indices say image and position; they are fed.

| code    | meaning                                          | shape           |
|---------|--------------------------------------------------|-----------------|
| base    | flat index of channel 0 at each sampled position | (N, P, 1) or    |
|         |                                                  | (N, P, kw, 1, K)|
| step    | to the next channel: 1 where they come last,     |                 |
|         | else the number of positions of the tensor       |                 |
| inside  | 1 where a patch element is inside the image      | (N, P, kw, 1, K)|

N images, P positions per image, kw kernel points along the last axis, K along the others. A patch comes kernel column
by kernel column, since that is how it is worked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.graph import own_name
from onnx_lowrank.layer import Layer

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tap:
    """Nodes to add to a graph so that it hands out sampled rows.

    Attributes:
        nodes: to run behind the graph's own.
        constants: initializers they read.
        inputs: further graph inputs they read: indices, fed per batch.
        output: the graph output with the rows, shape (N, P, d) of responses, (N, P, kw, c, K) of patches.
    """

    nodes: list[onnx.NodeProto]
    constants: list[onnx.TensorProto]
    inputs: list[onnx.ValueInfoProto]
    output: onnx.ValueInfoProto


def draw_positions(generator: np.random.Generator, images: int, size: int, count: int) -> Ints:
    """Positions for every image, drawn without replacement; all of them where there are not more than ``count``.

    Args:
        generator: source of randomness.
        images: number of images N.
        size: positions an image has, height * width.
        count: positions wanted per image.

    Returns:
        Flat positions, ascending within an image, shape (N, min(count, size)).
    """
    if count >= size:
        return np.tile(np.arange(size), (images, 1))
    drawn = [generator.choice(size, count, replace=False, shuffle=False) for _ in range(images)]
    return np.sort(np.array(drawn, dtype=np.int64).reshape(images, count), axis=1)


def response_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Feeds for a `response_tap`: positions of shape (N, P) of one batch."""
    image = np.arange(len(positions))[:, None] * (layer.filters * prod(layer.positions))
    place = positions * layer.filters if layer.channels_last else positions
    return {own_name(layer.name, "positions"): (image + place)[:, :, None]}


def response_tap(layer: Layer, tensor: str, element_type: int) -> Tap:
    """Gather rows of ``tensor``, which has the shape of the layer's response, (N, d, height, width).

    Args:
        layer: whose response it is.
        tensor: the response, or a residual of the same shape.
        element_type: ONNX element type of the tensor.
    """
    parts = ("flat_shape", "offsets", "flat", "index", "rows")
    flat_shape, offsets, flat, index, rows = (own_name(layer.name, "response", tensor, part) for part in parts)
    step = 1 if layer.channels_last else prod(layer.positions)
    channel_offsets = np.arange(layer.filters).reshape(1, 1, -1) * step
    return Tap(
        nodes=[
            helper.make_node("Reshape", [tensor, flat_shape], [flat]),
            helper.make_node("Add", [own_name(layer.name, "positions"), offsets], [index]),
            helper.make_node("Gather", [flat, index], [rows]),
        ],
        constants=[
            numpy_helper.from_array(np.array([-1]), flat_shape),
            numpy_helper.from_array(channel_offsets, offsets),
        ],
        inputs=[helper.make_tensor_value_info(own_name(layer.name, "positions"), TensorProto.INT64, None)],
        output=helper.make_tensor_value_info(rows, element_type, None),
    )


def patch_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Feeds for a `patch_tap`: positions of shape (N, P) of one batch."""
    axes, inside = [], np.ones((), bool)
    outputs = np.unravel_index(positions, layer.positions)
    kernel = np.unravel_index(np.arange(prod(layer.kernel)), layer.kernel)
    geometry, pads = layer.geometry, leading_pads(layer)
    for axis, size in enumerate(layer.input_size):
        place = outputs[axis][:, :, None] * geometry.strides[axis] - pads[axis]
        place = place + kernel[axis] * geometry.dilations[axis]
        inside = inside & (place >= 0) & (place < size)
        axes.append(np.clip(place, 0, size - 1))
    image = np.arange(len(positions))[:, None, None] * (layer.channels * prod(layer.input_size))
    flat = np.ravel_multi_index(tuple(axes), layer.input_size)
    base = image + (flat * layer.channels if layer.channels_last else flat)
    by_column = (*positions.shape, -1, layer.kernel[-1])
    base, inside = (np.swapaxes(each.reshape(by_column), 2, 3)[:, :, :, None] for each in (base, inside))
    return {
        own_name(layer.name, "patches"): np.ascontiguousarray(base),
        own_name(layer.name, "inside"): inside.astype(layer.weight.dtype, order="C"),
    }


def patch_tap(layer: Layer, element_type: int) -> Tap:
    """Gather the layer's input patches, shape (N, P, kw, c, K), zeros where a patch hangs over the edge.

    `as_patches` makes of them what they are.

    Args:
        layer: the layer; its ``input`` tensor is read.
        element_type: ONNX element type of that tensor.
    """
    parts = ("flat_shape", "offsets", "flat", "index", "gathered")
    flat_shape, offsets, flat, index, gathered = (own_name(layer.name, "input", part) for part in parts)
    rows = patch_rows(layer)
    step = 1 if layer.channels_last else prod(layer.input_size)
    channel_offsets = np.arange(layer.channels).reshape(1, 1, 1, -1, 1) * step
    return Tap(
        nodes=[
            helper.make_node("Reshape", [layer.input, flat_shape], [flat]),
            helper.make_node("Add", [own_name(layer.name, "patches"), offsets], [index]),
            helper.make_node("Gather", [flat, index], [gathered]),
            helper.make_node("Mul", [gathered, own_name(layer.name, "inside")], [rows]),
        ],
        constants=[
            numpy_helper.from_array(np.array([-1]), flat_shape),
            numpy_helper.from_array(channel_offsets, offsets),
        ],
        inputs=[
            helper.make_tensor_value_info(own_name(layer.name, "patches"), TensorProto.INT64, None),
            helper.make_tensor_value_info(own_name(layer.name, "inside"), element_type, None),
        ],
        output=helper.make_tensor_value_info(rows, element_type, None),
    )


def as_patches(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """What a `patch_tap` hands out as patches, shape (n, c, kh, kw): another look at the same memory."""
    columns = rows.reshape(-1, layer.kernel[-1], layer.channels, *layer.kernel[:-1])
    return np.moveaxis(columns, 1, -1)


def patch_rows(layer: Layer) -> str:
    """Name of what a `patch_tap` hands out."""
    return own_name(layer.name, "input", "rows")


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
