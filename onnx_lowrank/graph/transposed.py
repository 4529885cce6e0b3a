"""Read and write transposed convolutions as convolutions of an input with zeros between neighbours.

    y[o] = sum over i s + k t - p = o of w[k] x[i]

with o, i positions of output and input, k that of the kernel; s, t, p stride, dilation and pad.

A kernel point reads backwards from the output, so that the kernel of the convolution is that of ONNX reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.index import attribute
from onnx_lowrank.layers.layer import Geometry

Shape = tuple[int, ...]


def reversed_weight(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """Return the weight of a ConvTranspose as that of a convolution, or the other way round.

    Args:
        weight: shape (c, d / groups, kh, kw) of a ConvTranspose, (d, c / groups, kh, kw) of a convolution.
        groups: equal parts of the channels.

    Returns:
        Shape (d, c / groups, kh, kw) or (c, d / groups, kh, kw); kernels are reversed.
    """
    first, second, *kernel = weight.shape
    grouped = weight.reshape(groups, first // groups, second, *kernel).swapaxes(1, 2)
    backwards = np.flip(grouped, tuple(range(3, grouped.ndim)))
    return np.ascontiguousarray(backwards.reshape(groups * second, first // groups, *kernel))


def transposed_geometry(node: onnx.NodeProto, kernel: Shape, input_size: Shape, output_size: Shape) -> Geometry:
    """Return the geometry of a ConvTranspose, its pads as numbers where the node leaves them to ``auto_pad``.

    Args:
        node: the ConvTranspose.
        kernel: kernel size, (kh, kw).
        input_size: spatial size of its input.
        output_size: spatial size of its output.
    """
    axes = len(kernel)
    strides, dilations = (tuple(attribute(node, name, [1] * axes)) for name in ("strides", "dilations"))
    more = tuple(attribute(node, "output_padding", [0] * axes))
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    if auto_pad == "NOTSET" and not fixes_output(node):
        none: Sequence[int] = [0] * (2 * axes)
        return Geometry(strides, dilations, tuple(attribute(node, "pads", none)), output_padding=more)
    numbers = zip(input_size, strides, kernel, dilations, more, output_size, strict=True)
    cut = [(size - 1) * stride + (k - 1) * step + 1 + added - goal for size, stride, k, step, added, goal in numbers]
    halves = [each // 2 for each in cut]
    rest = [each - half for each, half in zip(cut, halves, strict=True)]
    pads = (*halves, *rest) if auto_pad == "SAME_UPPER" else (*rest, *halves)
    return Geometry(strides, dilations, pads, output_padding=more)


def fixes_output(node: onnx.NodeProto) -> bool:
    """Return whether a ConvTranspose gives the size of its output, from which its pads follow."""
    return bool(attribute(node, "output_shape", ()))
