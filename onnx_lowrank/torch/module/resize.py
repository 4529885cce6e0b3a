"""Resize, exactly as ONNX defines it: PyTorch's interpolation has two of its eight coordinate transformations.

Every axis is resized on its own: each output pixel has a coordinate in the input, which lies between two pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from typing import Any

import onnx
import torch
from torch import Tensor

from onnx_lowrank.errors import ModelError
from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.indexing import numbers
from onnx_lowrank.torch.module.layers import Operation

_TRANSFORMATIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def resize(node: onnx.NodeProto, opset: int) -> Operation:
    """Return the operation of Resize from opset 10 on, nearest or linear.

    Raises:
        ModelError: the node uses an unsupported mode.
    """
    given = attributes(node)
    mode, rounding = given.get("mode", "nearest"), given.get("nearest_mode", "round_prefer_floor")
    transformation = given.get("coordinate_transformation_mode", "half_pixel")
    if opset < 11:  # it has no such attributes
        transformation, rounding = "asymmetric", "floor"
    unsupported = [name for name in ("antialias", "exclude_outside") if given.get(name)]
    if mode not in {"nearest", "linear"} or transformation not in _TRANSFORMATIONS or unsupported:
        kind = ", ".join([mode, transformation, *unsupported])
        raise ModelError(
            f"Resize '{node.name or node.output[0]}': {kind}: only nearest and linear resizing "
            "can be trained through, without antialiasing or regions: export it so"
        )

    def run(x: Tensor, *settings: Any) -> Tensor:
        scales, sizes = _scales_and_sizes(settings, opset)
        axes = given.get("axes", range(x.ndim))
        for number, axis in enumerate(axis % x.ndim for axis in axes):
            size = x.shape[axis]
            out = sizes[number] if sizes is not None else floor(size * float(scales[number]))
            if out != size:
                scale = out / size if sizes is not None else float(scales[number])
                coordinates = _coordinates(transformation, torch.arange(out, device=x.device), scale, size, out)
                x = _interpolated(x, axis, coordinates, mode, rounding)
        return x

    return run


def _scales_and_sizes(settings: Sequence[Any], opset: int) -> tuple[Any, Any]:
    """Return scales and sizes, one of them None."""
    if opset < 11:
        return settings[0], None
    _, scales, sizes = (*settings, None, None, None)[:3]
    return scales, numbers(sizes) or None


def _coordinates(transformation: str, x: Tensor, scale: float, size: int, out: int) -> Tensor:
    """Return the coordinates in the input of output pixels.

    Args:
        transformation: as ONNX names it.
        x: indices of the output pixels, shape (out,).
        scale: output size / input size.
        size: of the input.
        out: size of the output.
    """
    match transformation:
        case "half_pixel":
            return (x + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            return size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / scale - 0.5 if out > 1 else 0 * x
        case "align_corners":
            return x * (size - 1) / (out - 1) if out > 1 else 0 * x
        case _:  # asymmetric
            return x / scale


def _interpolated(x: Tensor, axis: int, coordinates: Tensor, mode: str, rounding: str) -> Tensor:
    """Sample a tensor along an axis at the given coordinates."""
    last = x.shape[axis] - 1
    if mode == "nearest":
        return x.index_select(axis, _NEAREST[rounding](coordinates).clamp(0, last).long())
    coordinates = coordinates.clamp(0, last)
    low = coordinates.floor()
    weight = (coordinates - low).to(x.dtype).reshape([-1 if dim == axis else 1 for dim in range(x.ndim)])
    below, above = low.long(), (low + 1).clamp(max=last).long()
    return torch.lerp(x.index_select(axis, below), x.index_select(axis, above), weight)
