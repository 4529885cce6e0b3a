"""Build the nodes that gather sampled rows inside the network, so that only these rows leave it.

Rows are gathered from flattened tensors, which works for every opset, layout and number of axes. The indices are fed
as inputs.

A row of a response is small: ``Gather(Reshape(tensor, [-1]), base + channel * step)``. A patch is large, so the
channels are moved to the end and gathered together: ``Gather(Reshape(Transpose(tensor), [-1, c]), point)``. That is
several times faster, and the transposition costs nothing where onnxruntime has to leave its own layout anyway.

A tap on a response that an activation or a sum follows costs far more than its rows: onnxruntime fuses both with the
convolution, and cannot where the response itself is wanted; its tensors leave the blocked layout and enter it again.
The response of a 1 x 1 convolution is therefore computed anew, from the rows of its input at the sampled positions.

| code    | meaning                                            | shape         |
|---------|----------------------------------------------------|---------------|
| base    | flat index of channel 0 at each sampled position   | (N, P, 1)     |
| step    | to the next channel: 1 where they come last,       |               |
|         | else the number of positions of the tensor         |               |
| point   | map and position of each kernel point of a patch   | (N, P, kw, K) |
| inside  | whether the point is inside the image              | (N, P, kw, K) |

N samples, P positions in the maps of a sample, kw kernel points along the last axis, K along the others. A patch is
ordered kernel column by kernel column, channels last, since the solvers work on it in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.graph.builder import GraphBuilder
from onnx_lowrank.graph.index import probe_name
from onnx_lowrank.layers.layer import Layer

_PRODUCTS_PER_VALUE = (
    100  # multiply-adds in the time that a value takes to leave the blocked layout, and enter it again
)


@dataclass(frozen=True, eq=False)
class Tap:
    """Nodes to add to a graph so that it returns sampled rows.

    Attributes:
        nodes: to run after the graph's own.
        constants: initializers that they read.
        inputs: further graph inputs that they read: indices, fed per batch.
        output: the graph output with the rows, shape (N, P, d) of responses, (N, P, kw, K, c) of patches.
    """

    nodes: Sequence[onnx.NodeProto]
    constants: Sequence[onnx.TensorProto]
    inputs: Sequence[onnx.ValueInfoProto]
    output: onnx.ValueInfoProto


@contextmanager
def explained_failures(layers: Iterable[Layer]) -> Iterator[None]:
    """Name the layer where onnxruntime fails in a tap: that is no fault of the network.

    Args:
        layers: those whose taps run.

    Raises:
        CalibrationError: a tap fails.
    """
    try:
        yield
    except ModelError as error:
        tapped = [layer for layer in layers if f"'{probe_name(layer.name)}/" in str(error)]
        if not tapped:
            raise
        layer = max(tapped, key=lambda layer: len(layer.name))
        raise CalibrationError(
            f"{layer.op} '{layer.name}': the rows that calibration gathers from it are not there, its tensors vary in "
            f"size from sample to sample: leave it out with `exclude` ({error})"
        ) from error


def response_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Return the feeds of a `response_tap` for positions of shape (N, P) of one batch."""
    number, position = _maps(layer, positions)
    base = number * (layer.filters * prod(layer.positions))
    base += position * layer.filters if layer.channels_last else position
    return {probe_name(layer.name, "positions"): base[:, :, None]}


def response_tap(layer: Layer, tensor: str, element_type: int) -> Tap:
    """Return a tap that gathers rows of ``tensor``, which has the shape of the layer's response, (N, d, height, width).

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
    flat = graph.node("Reshape", [tensor, flat_shape], name("flat"), name=name("flat"))
    indices = graph.node("Add", [positions, offsets], name("index"))
    graph.output(graph.node("Gather", [flat, indices], name("rows"), name=name("rows")), element_type)
    return _tap(graph)


def is_computed_anew(layer: Layer, per_sample: int) -> bool:
    """Return whether a response is better computed from rows of the input than taken from the network.

    Args:
        layer: whose response it is.
        per_sample: number of rows sampled of every sample.
    """
    pointwise = layer.op == "Conv" and prod(layer.kernel) == 1 and layer.groups == 1 and not any(layer.geometry.pads)
    exact = layer.weight.dtype == np.float32 and layer.compressed is None
    fused = layer.activation.name != "identity" or layer.residual is not None
    return pointwise and exact and fused and per_sample * layer.channels < _PRODUCTS_PER_VALUE * layer.rows


def product_indices(layer: Layer, positions: Ints) -> dict[str, NDArray[Any]]:
    """Return the feeds of a `product_tap` for positions (N, P) of one batch."""
    (indices,) = patch_indices(layer, positions).values()
    return {probe_name(layer.name, "points"): indices[:, :, 0, 0]}


def product_tap(layer: Layer) -> Tap:
    """Return a tap that computes rows of a layer's response, shape (N, P, d), from rows of its input.

    Args:
        layer: one that `is_computed_anew`; its ``input`` tensor is read.
    """
    graph, name = GraphBuilder(), partial(probe_name, layer.name, "response", layer.response)
    indices = graph.input(probe_name(layer.name, "points"), TensorProto.INT64)
    points = graph.node("Gather", [_flat(graph, layer, name), indices], name("points"), name=name("points"))
    weight = graph.constant(name("weight"), layer.weight.reshape(layer.filters, -1).T)
    product = graph.node("MatMul", [points, weight], name("product"), name=name("product"))
    bias = graph.constant(name("bias"), layer.bias.astype(np.float32))
    graph.output(graph.node("Add", [product, bias], name("rows"), name=name("rows")), TensorProto.FLOAT)
    return _tap(graph)


def _flat(graph: GraphBuilder, layer: Layer, name: Callable[[str], str]) -> str:
    """Add nodes that make rows of channels of a layer's input; return the name of their tensor."""
    shape = graph.constant(name("flat_shape"), np.array([-1, layer.channels]))
    tensor = layer.input
    if not layer.channels_last:
        perm = [0, *range(2, len(layer.input_size) + 2), 1]
        tensor = graph.node("Transpose", [tensor], name("moved"), perm=perm)
    return graph.node("Reshape", [tensor, shape], name("flat"))


def _tap(builder: GraphBuilder) -> Tap:
    graph = builder.export().graph
    return Tap(graph.node, graph.initializer, graph.input, graph.output[0])


class KernelPoints(NamedTuple):
    """Where the kernel points of sampled patches lie; for all images at once, since it is the same in any batch.

    Attributes:
        point: position in the map, that of the nearest point inside for one outside, shape (N, P, kw, K).
        inside: whether it is inside of the image, same shape.
    """

    point: Ints
    inside: NDArray[np.bool_]

    def part(self, images: slice) -> KernelPoints:
        """Return those of some of the images."""
        return KernelPoints(self.point[images], self.inside[images])


def patch_indices(layer: Layer, positions: Ints, points: KernelPoints | None = None) -> dict[str, NDArray[Any]]:
    """Return the feeds of a `patch_tap` for positions (N, P) of one batch, and their points if they are known.

    Points outside the image read its edge.
    """
    number, _ = _maps(layer, positions)
    point, _ = points or kernel_points(layer, positions)
    return {probe_name(layer.name, "patches"): number[:, :, None, None] * prod(layer.input_size) + point}


def _maps(layer: Layer, positions: Ints) -> tuple[Ints, Ints]:
    """Return in which map of a batch each position of a sample lies, and where in that map; shape (N, P) both."""
    samples, run = len(positions), layer.run or layer.rows
    before = np.arange(samples)[:, None] * run
    return np.divmod(positions // run * (samples * run) + before + positions % run, prod(layer.positions))


def patch_tap(layer: Layer, element_type: int) -> Tap:
    """Return a tap that gathers the layer's input patches, shape (N, P, kw, K, c); see `as_patches`.

    Args:
        layer: the layer; its ``input`` tensor is read.
        element_type: ONNX element type of that tensor.
    """
    graph, name = GraphBuilder(), partial(probe_name, layer.name, "input")
    indices = graph.input(probe_name(layer.name, "patches"), TensorProto.INT64)
    flat = _flat(graph, layer, name)
    graph.output(graph.node("Gather", [flat, indices], patch_rows(layer), name=patch_rows(layer)), element_type)
    return _tap(graph)


def as_patches(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Return the rows of a `patch_tap` as patches, shape (n, c, kh, kw): a view of the same memory."""
    return np.swapaxes(rows.reshape(-1, layer.kernel[-1], *layer.kernel[:-1], layer.channels), 1, -1)


def clear_outside(rows: NDArray[Any], layer: Layer, points: KernelPoints) -> None:
    """Set the parts of patches that lie outside the image to zero.

    Args:
        rows: output of a `patch_tap`; changed in place.
        layer: the layer.
        points: of these rows.
    """
    geometry = layer.geometry
    if not (geometry.transposed or any(geometry.pads) or geometry.auto_pad.startswith("SAME")):
        return
    if not points.inside.all():
        rows[~points.inside] = 0


def kernel_points(layer: Layer, positions: Ints) -> KernelPoints:
    """Return where the kernel points of patches at positions of shape (N, P) lie.

    Of a transposed convolution, the points between the neighbours of its input are outside too.
    """
    axes, inside = [], np.ones((), bool)
    outputs = np.unravel_index(positions % prod(layer.positions), layer.positions)
    kernel = np.unravel_index(np.arange(prod(layer.kernel)), layer.kernel)
    geometry, pads = layer.geometry, leading_pads(layer)
    for axis, size in enumerate(layer.input_size):
        stride, dilation = geometry.strides[axis], geometry.dilations[axis]
        if geometry.transposed:
            last = (layer.kernel[axis] - 1) * dilation
            point, between = np.divmod(outputs[axis][:, :, None] + pads[axis] - last + kernel[axis] * dilation, stride)
            inside = inside & (between == 0)
        else:
            point = outputs[axis][:, :, None] * stride - pads[axis] + kernel[axis] * dilation
        inside = inside & (point >= 0) & (point < size)
        axes.append(np.clip(point, 0, size - 1))
    by_column = (*positions.shape, -1, layer.kernel[-1])
    flat = np.ravel_multi_index(tuple(axes), layer.input_size)
    point, inside = (np.swapaxes(array.reshape(by_column), 2, 3) for array in (flat, inside))
    return KernelPoints(point, inside)


def patch_rows(layer: Layer) -> str:
    """Return the name of the output of a `patch_tap`."""
    return probe_name(layer.name, "input", "rows")


def leading_pads(layer: Layer) -> tuple[int, ...]:
    """Return the zeros before each spatial axis, ``auto_pad`` resolved for the size of the layer's input."""
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
