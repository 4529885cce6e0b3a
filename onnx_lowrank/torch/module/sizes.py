"""Arithmetic of shapes: Shape, and the operators between it and a Reshape.

Sizes are Python numbers in NumPy arrays, never tensors. So a device need not wait for them, and torch.export, to which
an open batch is a symbol, can trace the arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import floor
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.graph.tensors import values
from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.weights import Constant, tensor_of

Sizes = NDArray[np.object_]


def shape_of(node: onnx.NodeProto) -> Callable[[Tensor], Sizes]:
    """Return the operation of Shape."""
    given = attributes(node)
    part = slice(given.get("start", 0), given.get("end"))
    return lambda x: sizes(list(x.shape)[part])


def arithmetic(node: onnx.NodeProto) -> Callable[..., Sizes] | None:
    """Return an operator as a function of sizes; None if it has no such form.

    The function takes arrays of numbers, and None for omitted inputs.
    """
    given = attributes(node)
    axes = given.get("axes")
    functions: dict[str, Callable[..., Any]] = {
        "Identity": lambda x: x,
        "Cast": np.frompyfunc(
            torch.sym_float if _to_float(given.get("to", onnx.TensorProto.FLOAT)) else torch.sym_int, 1, 1
        ),
        "Floor": np.frompyfunc(_floor, 1, 1),
        "Add": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "Div": np.frompyfunc(_quotient, 2, 1),
        "Gather": lambda x, indices: np.take(x, indices.astype(np.int64), given.get("axis", 0)),
        "Concat": lambda *parts: np.concatenate(parts, given["axis"]),
        "Unsqueeze": lambda x, axes=axes: np.expand_dims(x, _axes(axes)),
        "Squeeze": lambda x, axes=axes: np.squeeze(x, None if axes is None else _axes(axes)),
        "Slice": lambda x, starts=None, ends=None, _=None, steps=None: _cut(
            x, given.get("starts", starts), given.get("ends", ends), steps
        ),
    }
    function = functions.get(node.op_type)
    return None if function is None else lambda *inputs: sizes(function(*inputs))


def as_tensor(numbers: Sizes, like: Tensor) -> Tensor:
    """Return sizes as a tensor.

    Args:
        numbers: the sizes.
        like: a tensor on the same device.
    """
    return torch.tensor(numbers.tolist(), device=like.device)


def sizes(numbers: Any) -> Sizes:
    """Return an array of Python numbers, which NumPy would convert to machine integers by itself."""
    result = np.empty(np.shape(numbers), dtype=object)
    result[...] = numbers
    return result


def constant_of_shape(node: onnx.NodeProto, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """Return the operation of ConstantOfShape; floating-point values get the type of the module."""
    value = attributes(node).get("value")
    single = torch.zeros(1) if value is None else tensor_of(values(value))
    kind = dtype if dtype is not None and single.is_floating_point() else single.dtype
    return lambda shape: torch.full(shape.tolist(), single.item(), dtype=kind, device=shape.device)


def _to_float(kind: int) -> bool:
    return Constant.is_float_type(kind)


def _floor(number: Any) -> Any:
    return float(floor(number)) if isinstance(number, float) else torch.sym_float(torch.sym_int(number))


def _quotient(a: Any, b: Any) -> Any:
    """Divide as ONNX does: integers are truncated towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b


def _axes(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _cut(x: Sizes, starts: Any, ends: Any, steps: Any) -> Sizes:
    return x[int(starts[0]) : int(ends[0]) : 1 if steps is None else int(steps[0])]
