"""Slice, Gather and Split.

Those of onnx2pytorch index with lists, whose meaning PyTorch is about to change, or remember the first size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.layers import Operation

_MAX_BOUND = 2**31


def slicing(node: onnx.NodeProto) -> Operation:
    """Return the operation of Slice; its bounds are attributes before opset 10, inputs since."""
    given = attributes(node)

    def run(x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Tensor:
        starts, ends = numbers(given.get("starts", starts)), numbers(given.get("ends", ends))
        sliced = numbers(given.get("axes", axes)) or list(range(len(starts)))
        strides = numbers(steps) or [1] * len(starts)
        slices, reversed_axes = [slice(None)] * x.ndim, []
        for start, end, axis, step in zip(starts, ends, sliced, strides, strict=True):
            if step > 0:
                slices[axis] = slice(_clamped(start), _clamped(end), _clamped(step))
            else:
                slices[axis] = _reversed(start, end, step, x.shape[axis])
                reversed_axes.append(axis)
        return x[tuple(slices)].flip(reversed_axes)

    return run


def splitting(node: onnx.NodeProto) -> Operation:
    """Return the operation of Split: parts of given sizes, or an equal part per output, the last one the smallest."""
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
    """Return the operation of Gather; indices may be negative."""
    axis = attributes(node).get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        dim = axis % x.ndim
        indices = indices.to(x.device).long()
        flat = indices.reshape(-1)
        flat = flat + x.shape[dim] * (flat < 0)
        return x.index_select(dim, flat).reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])

    return run


def numbers(values: Sequence[Any] | Tensor | None) -> list[Any]:
    """Return Python integers; symbolic sizes of torch.export stay symbolic."""
    if values is None:
        return []
    return [value if isinstance(value, int | torch.SymInt) else int(value) for value in values]


def _clamped(bound: Any) -> Any:
    """Return a bound in the range that PyTorch accepts; exporters write INT64_MAX for "to the end"."""
    return min(max(bound, -_MAX_BOUND), _MAX_BOUND) if isinstance(bound, int) else bound


def _reversed(start: int, end: int, step: int, size: int) -> slice:
    """Return a slice of the same elements with a positive step, as PyTorch has no negative ones."""
    first = min(max(start + size * (start < 0), 0), size - 1)
    last = min(max(end + size * (end < 0), -1), size - 1)
    indices = range(first, last, step)
    return slice(indices[-1], indices[0] + 1, -step) if indices else slice(0, 0)
