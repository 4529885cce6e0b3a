"""Arrays by input name, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.preprocess import shape_text
from onnx_lowrank.calibrate.data.sources import ArraySource
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec


def join_batches(batches: Iterable[Any], inputs: Sequence[TensorSpec]) -> dict[str, ArraySource]:
    """Join batches, each copied as it comes, since a loader may fill the same array again.

    Args:
        batches: as `named_arrays` takes them.
        inputs: the model's inputs.

    Raises:
        CalibrationError: there are none, or one does not fit the inputs or the batch before it.
    """
    parts: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in inputs}
    for number, batch in enumerate(batches, start=1):
        where = f"batch {number}"
        sources = array_sources(named_arrays(batch, inputs, where), inputs, where)
        for name, source in sources.items():
            parts[name].append(source.array.copy())
            first, this = (part.shape[1:] for part in (parts[name][0], parts[name][-1]))
            if this != first:
                raise CalibrationError(
                    f"{where}: input '{name}': samples of shape {this}, before it {first}: give all one shape"
                )
    if not all(parts.values()):
        raise CalibrationError(
            "batches: there are none: give at least one, and a new iterator where this one was read before"
        )
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return array_sources(joined, inputs, "batches")


def named_arrays(batch: Any, inputs: Sequence[TensorSpec], where: str) -> dict[str, NDArray[Any]]:
    """Bring a batch to arrays by name; a bare array belongs to the only input.

    Raises:
        CalibrationError: it is something else.
    """
    bare = not isinstance(batch, Mapping)
    named = {inputs[0].name: batch} if bare and len(inputs) == 1 else {} if bare else batch
    odd = [value for value in named.values() if not hasattr(value, "__array__")] if named else [batch]
    if odd:
        raise CalibrationError(
            f"{where}: {type(odd[0]).__name__} found, {{input name: array}} wanted"
            f"{', or an array' if len(inputs) == 1 else ''}: convert it, arrays with numpy.asarray"
        )
    try:
        return {name: np.asarray(value) for name, value in named.items()}
    except Exception as error:  # tensors on a device, or with gradients
        raise CalibrationError(f"{where}: cannot be made a numpy array ({error}): convert it before") from error


def array_sources(
    arrays: Mapping[str, NDArray[Any]], inputs: Sequence[TensorSpec], where: str
) -> dict[str, ArraySource]:
    """Arrays as samples.

    Args:
        arrays: by input name.
        inputs: the model's inputs.
        where: what to call them.

    Raises:
        CalibrationError: they do not fit the inputs by name, shape or type, or each other by length.
    """
    check_names(arrays, inputs, where)
    for spec in inputs:
        _check_array(arrays[spec.name], spec, f"{where}: input '{spec.name}'")
    check_lengths({spec.name: len(arrays[spec.name]) for spec in inputs}, where)
    return {spec.name: ArraySource(arrays[spec.name], spec, where) for spec in inputs}


def check_names(names: Iterable[str], inputs: Sequence[TensorSpec], where: str) -> None:
    """See that there is something for every input, and for nothing else.

    Raises:
        CalibrationError: there is not.
    """
    found, wanted = sorted(map(str, names)), sorted(spec.name for spec in inputs)
    if found != wanted:
        raise CalibrationError(
            f"{where}: holds {', '.join(found) or 'nothing'}, the model's inputs are {', '.join(wanted)}: "
            "give one array or path for each of them, by name, and no others; "
            "or a constant: `constant_inputs={'NAME': VALUE}`"
        )


def _check_array(array: NDArray[Any], spec: TensorSpec, where: str) -> None:
    sizes = zip(array.shape[1:], spec.shape[1:], strict=False)
    if array.ndim != len(spec.shape) or any(wanted not in (None, found) for found, wanted in sizes):
        raise CalibrationError(
            f"{where}: shape {array.shape} found, {shape_text(spec)} wanted: "
            f"bring the array to the model's layout and size"
        )
    found, wanted = array.dtype.newbyteorder("="), spec.dtype
    if found != wanted and not (_is_float(found) and _is_float(wanted)):
        remedy = "convert the array"
        if found == np.uint8 and np.issubdtype(wanted, np.floating):
            remedy = "pass the images themselves, or scale and convert the array as in training"
        raise CalibrationError(f"{where}: type {found} found, {wanted} wanted: {remedy}")
    if not len(array):
        raise CalibrationError(f"{where}: no samples found, at least one wanted: the first axis counts them")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def check_lengths(lengths: Mapping[str, int], where: str) -> None:
    """See that all inputs have as many samples.

    Raises:
        CalibrationError: they have not.
    """
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CalibrationError(f"{where}: inputs differ in their number of samples ({found}): give all the same")
