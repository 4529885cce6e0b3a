"""Resize, exactly as ONNX defines it: PyTorch's own interpolation knows two of its eight ways to place pixels.

Every axis by itself: for each output position a place in the input, from it the two neighbours and their weights.
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

_PLACES: dict[str, Callable[[Tensor, float, int, int], Tensor]] = {
    "half_pixel": lambda x, scale, _, __: (x + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda x, scale, size, out: size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, _, out: (x + 0.5) / scale - 0.5 if out > 1 else 0 * x,
    "align_corners": lambda x, _, size, out: x * (size - 1) / (out - 1) if out > 1 else 0 * x,
    "asymmetric": lambda x, scale, _, __: x / scale,
}
_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def resize(node: onnx.NodeProto, opset: int) -> Operation:
    """Resize of opset 10 and newer, nearest and linear.

    Raises:
        ModelError: it is of a kind that is not known here.
    """
    given = attributes(node)
    mode, rounding = given.get("mode", "nearest"), given.get("nearest_mode", "round_prefer_floor")
    way = given.get("coordinate_transformation_mode", "half_pixel")
    if opset < 11:  # which has no choice
        way, rounding = "asymmetric", "floor"
    odd = [name for name in ("antialias", "exclude_outside") if given.get(name)]
    if mode not in {"nearest", "linear"} or way not in _PLACES or odd:
        raise ModelError(
            f"Resize '{node.name or node.output[0]}': {', '.join([mode, way, *odd])}: only nearest and linear resizing "
            "can be trained through, without antialiasing or regions: export it so"
        )

    def run(x: Tensor, *settings: Any) -> Tensor:
        scales, sizes = _goals(settings, opset)
        axes = given.get("axes", range(x.ndim))
        for number, axis in enumerate(axis % x.ndim for axis in axes):
            size = x.shape[axis]
            out = sizes[number] if sizes is not None else floor(size * float(scales[number]))
            if out != size:
                scale = out / size if sizes is not None else float(scales[number])
                x = _along(x, axis, _PLACES[way](torch.arange(out, device=x.device), scale, size, out), mode, rounding)
        return x

    return run


def _goals(settings: Sequence[Any], opset: int) -> tuple[Any, Any]:
    """Scales and sizes, one of them None."""
    if opset < 11:
        return settings[0], None
    _, scales, sizes = (*settings, None, None, None)[:3]
    return scales, numbers(sizes) or None


def _along(x: Tensor, axis: int, places: Tensor, mode: str, rounding: str) -> Tensor:
    last = x.shape[axis] - 1
    if mode == "nearest":
        return x.index_select(axis, _NEAREST[rounding](places).clamp(0, last).long())
    places = places.clamp(0, last)
    low = places.floor()
    weight = (places - low).to(x.dtype).reshape([-1 if each == axis else 1 for each in range(x.ndim)])
    below, above = low.long(), (low + 1).clamp(max=last).long()
    return torch.lerp(x.index_select(axis, below), x.index_select(axis, above), weight)
