"""A module against plain onnxruntime, for the same inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.torch import OnnxModule, to_torch
from tests.helpers import Feeds, run

Array = NDArray[Any]
SINGLE = 1e-6  # of one operator in float32, relative to the largest number; many sums are up to 5e-7 off
WHOLE = 1e-5  # of a network in float32; those here are up to 2e-6 off


def one_node(
    op: str,
    inputs: dict[str, Array],
    constants: dict[str, Array] | None = None,
    *,
    opset: int = 17,
    order: Iterable[str] | None = None,
    outputs: int = 1,
    made: Any = np.float32,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node: ``inputs`` are given when it runs, ``constants`` are held; `order` may leave some out."""
    constants = constants or {}
    names = [f"y{number}" for number in range(outputs)]
    node = helper.make_node(op, list(order or [*inputs, *constants]), names, name="only", **attributes)
    values = [
        # Shapes stay open, but how many settings there are has to be known.
        helper.make_tensor_value_info(
            name, _code(array.dtype), array.shape if array.dtype.kind == "i" else _open(array)
        )
        for name, array in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, _code(made), None) for name in names]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", values, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _code(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _open(array: Array) -> list[None]:
    return [None] * array.ndim


def outputs_of(module: torch.nn.Module, *inputs: Array) -> list[Array]:
    """What a module makes of arrays, as arrays."""
    with torch.no_grad():
        found = module(*(torch.from_numpy(np.array(each)) for each in inputs))
    return [each.detach().numpy() for each in as_tuple(found)]


def as_tuple(found: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def assert_same(model: onnx.ModelProto, feeds: Feeds, most: float = SINGLE, module: OnnxModule | None = None) -> None:
    """Every output of the module has the shape, the type and the values that onnxruntime finds.

    ``most`` is the difference relative to the largest number of the output, or to 1 where all are smaller.
    """
    wanted = run(model, feeds)
    found = outputs_of(module or to_torch(model), *feeds.values())
    assert len(wanted) == len(found)
    for (name, want), have in zip(wanted.items(), found, strict=True):
        assert have.shape == want.shape, name
        assert have.dtype == want.dtype, name
        if not want.size:
            continue
        assert np.isfinite(want).all(), f"{name}: says nothing"
        difference = np.abs(want.astype(np.float64) - have.astype(np.float64)).max()
        assert difference <= most * max(1.0, float(np.abs(want.astype(np.float64)).max())), name
