"""Slice, Gather and Split.

Those of the library index with lists, which PyTorch has announced to read in another way, or remember the first size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.layers import Operation

_FAR = 2**31


def slicing(node: onnx.NodeProto) -> Operation:
    """Slice; its bounds are attributes before opset 10, inputs since."""
    given = attributes(node)

    def run(x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
        starts, ends = numbers(given.get("starts", starts)), numbers(given.get("ends", ends))
        places = numbers(given.get("axes", axes)) or list(range(len(starts)))
        strides = numbers(steps) or [1] * len(starts)
        cuts, turned = [slice(None)] * x.ndim, []
        for start, end, axis, step in zip(starts, ends, places, strides, strict=True):
            if step > 0:
                cuts[axis] = slice(_within(start), _within(end), _within(step))
            else:
                cuts[axis] = _turned(start, end, step, x.shape[axis])
                turned.append(axis)
        return x[tuple(cuts)].flip(turned)

    return run


def splitting(node: onnx.NodeProto) -> Operation:
    """Split: into parts of given sizes, or into as many equal ones as there are outputs, the last one the smallest."""
    given = attributes(node)
    axis, count = given.get("axis", 0), given.get("num_outputs", len(node.output))

    def run(x: Tensor, split: Any = None) -> tuple[Tensor, ...]:
        sizes = numbers(given.get("split", split))
        if not sizes:
            part = -(-x.shape[axis] // count)
            sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
        return tuple(x.split(sizes, axis))

    return run


def gathering(node: onnx.NodeProto) -> Operation:
    """Gather; indices may be negative."""
    axis = attributes(node).get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        place = axis % x.ndim
        indices = indices.to(x.device).long()
        flat = indices.reshape(-1)
        flat = flat + x.shape[place] * (flat < 0)
        return x.index_select(place, flat).reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])

    return run


def numbers(values: Sequence[Any] | Tensor | None) -> list[Any]:
    """Whole numbers of Python; sizes that are symbols, to an exporter, stay symbols."""
    if values is None:
        return []
    return [each if isinstance(each, int | torch.SymInt) else int(each) for each in values]


def _within(bound: Any) -> Any:
    """A bound in the range that PyTorch reads; exporters write the largest integers there are."""
    return min(max(bound, -_FAR), _FAR) if isinstance(bound, int) else bound


def _turned(start: int, end: int, step: int, size: int) -> slice:
    """What a negative step takes, from the other end: PyTorch knows positive steps only."""
    first = min(max(start + size * (start < 0), 0), size - 1)
    last = min(max(end + size * (end < 0), -1), size - 1)
    taken = range(first, last, step)
    return slice(taken[-1], taken[0] + 1, -step) if taken else slice(0, 0)
