"""A model whose inputs have the shapes that it is fed, as converters want it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph import read_model
from onnx_lowrank.graph.write import save_model

_MAX_SHAPE_VALUES = 1_000  # numbers of an initializer that may be a shape or an axis, which shape inference reads


@dataclass(frozen=True)
class FixedModel:
    """A model on disk whose inputs have fixed shapes.

    Attributes:
        where: what to call it in error messages.
        file: its path.
        feeds: what its inputs are fed, in the order of the graph.
        output_shapes: by name of its outputs that are tensors, in the order of the graph; None where it depends on
            values, or is not known.
    """

    where: str
    file: Path
    feeds: Mapping[str, NDArray[Any]]
    output_shapes: Mapping[str, tuple[int, ...] | None]

    def in_onnx_shape(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Return an output as ONNX has it: runtimes may add or drop axes of size 1."""
        shape = self.output_shapes[name]
        return values if shape is None or np.prod(shape) != values.size else values.reshape(shape)


def write_fixed(model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> FixedModel:
    """Write a model with the shapes of a batch of inputs.

    Args:
        model: the network; not changed.
        feeds: arrays by input name.
        folder: where to write ``model.onnx``, and its weights where they are too large for one file.

    Raises:
        ModelError: the model cannot be read.
        OutputError: it cannot be written.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(read_model(model) if isinstance(model, Path) else model)
    held = {tensor.name for tensor in fixed.graph.initializer} - feeds.keys()
    inputs = [value for value in fixed.graph.input if value.name not in held]
    for value in inputs:
        _set_shape(value, feeds[value.name].shape)
    del fixed.graph.input[:]  # IR version 3 lists initializers among them, which some converters take for inputs
    fixed.graph.input.extend(inputs)
    del fixed.graph.value_info[:]  # its open axes are no longer open
    fixed.ir_version = max(fixed.ir_version, 4)
    shapes = _output_shapes(fixed)
    for value in fixed.graph.output:
        if (shape := shapes.get(value.name)) is not None:
            _set_shape(value, shape)
    file = folder / "model.onnx"
    save_model(fixed, file)
    ordered = {value.name: np.ascontiguousarray(feeds[value.name]) for value in inputs}
    return FixedModel(str(model) if isinstance(model, Path) else "model", file, ordered, shapes)


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    shape_proto = value.type.tensor_type.shape
    del shape_proto.dim[:]
    for size in shape:
        shape_proto.dim.add(dim_value=size)


def _output_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...] | None]:
    """Infer the shapes of the outputs without the weights, which may be too large to be copied to and fro."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for value in light.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    large = [tensor for tensor in light.graph.initializer if np.prod(tensor.dims) > _MAX_SHAPE_VALUES]
    for tensor in large:
        light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        light.graph.initializer.remove(tensor)
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    tensors = [value for value in inferred.graph.output if value.type.HasField("tensor_type")]
    return {value.name: _known_shape(value) for value in tensors}


def _known_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dimension.dim_value > 0 for dimension in tensor.shape.dim):
        return None
    return tuple(dimension.dim_value for dimension in tensor.shape.dim)
