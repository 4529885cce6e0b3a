"""Check arrays against the model's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.calibrate.data.preprocess import shape_text
from onnx_lowrank.calibrate.data.sources import ArraySource
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec


def join_batches(
    batches: Iterable[Any], inputs: Sequence[TensorSpec], constants: Sequence[TensorSpec] = ()
) -> dict[str, ArraySource]:
    """Concatenate batches; each is copied at once, since a loader may reuse its arrays.

    Args:
        batches: arrays, or mappings of input names to arrays; see `named_arrays`.
        inputs: the model's inputs that are not constant.
        constants: those that are.

    Raises:
        CalibrationError: there are none, or one does not match the inputs or the batch before it.
    """
    parts: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in inputs}
    for number, batch in enumerate(batches, start=1):
        where = f"batch {number}"
        sources = array_sources(without_constants(named_arrays(batch, inputs, where), constants, where), inputs, where)
        for name, source in sources.items():
            parts[name].append(np.array(source.array))
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
    """Return the arrays of a batch by input name.

    Args:
        batch: a mapping of input names to arrays, or a bare array where there is a single input.
        inputs: the model's inputs.
        where: how error messages call the batch.

    Raises:
        CalibrationError: the batch is of another type.
    """
    bare = {inputs[0].name: batch} if len(inputs) == 1 else {}
    named = batch if isinstance(batch, Mapping) else bare
    invalid = [value for value in named.values() if not hasattr(value, "__array__")] if named else [batch]
    if invalid:
        raise CalibrationError(
            f"{where}: {type(invalid[0]).__name__} found, {{input name: array}} wanted"
            f"{', or an array' if len(inputs) == 1 else ''}: convert it, arrays with numpy.asarray"
        )
    try:
        return {name: np.asarray(value) for name, value in named.items()}
    except Exception as error:  # tensors on a device, or with gradients
        raise CalibrationError(f"{where}: cannot be made a numpy array ({error}): convert it before") from error


def array_sources(
    arrays: Mapping[str, NDArray[Any] | NpyFile], inputs: Sequence[TensorSpec], where: str
) -> dict[str, ArraySource]:
    """Return arrays as sources of samples.

    Args:
        arrays: by input name, shape (samples, ...).
        inputs: the model's inputs.
        where: how error messages call the arrays.

    Raises:
        CalibrationError: the arrays do not match the inputs in name, shape or type, or each other in length.
    """
    check_names(arrays, inputs, where)
    arrays = {**arrays, **{spec.name: _samples_first(arrays[spec.name], spec) for spec in inputs}}
    for spec in inputs:
        _check_array(arrays[spec.name], spec, f"{where}: input '{spec.name}'")
    check_lengths({spec.name: len(arrays[spec.name]) for spec in inputs}, where)
    return {spec.name: ArraySource(arrays[spec.name], spec, where) for spec in inputs}


def _samples_first(array: NDArray[Any] | NpyFile, spec: TensorSpec) -> NDArray[Any] | NpyFile:
    """Return an array with samples on the first axis, where it is as the model itself takes it."""
    own = spec.own_shape
    as_in_model = array.ndim == len(own) and all(
        size in (None, given) for given, size in zip(array.shape, own, strict=True)
    )
    if spec.samples_axis == 0 or not as_in_model:
        return array
    array = array.whole() if isinstance(array, NpyFile) else array
    return array[None] if spec.samples_axis is None else np.moveaxis(array, spec.samples_axis, 0)


def without_constants(
    arrays: Mapping[str, NDArray[Any]], constants: Sequence[TensorSpec], where: str
) -> dict[str, NDArray[Any]]:
    """Return arrays without those of constant inputs, which must hold the constant.

    Raises:
        CalibrationError: one holds other numbers.
    """
    values = {spec.name: spec.value for spec in constants if spec.value is not None}
    for name, array in arrays.items():
        if name in values and not _is_constant(array, values[name]):
            constant = values[name].tolist() if values[name].size == 1 else f"of shape {values[name].shape}"
            raise CalibrationError(
                f"{where}: input '{name}': other numbers than its constant {constant} found: give one of "
                "both, and the same number for all samples"
            )
    return {name: array for name, array in arrays.items() if name not in values}


def _is_constant(array: NDArray[Any], value: NDArray[Any]) -> bool:
    """Return whether an array has a constant's values, or one number per sample that is the constant's."""
    if array.shape != value.shape and (array.ndim > 1 or value.size > 1 or not array.size):
        return False
    return bool((array.astype(value.dtype) == (value if array.shape == value.shape else value.ravel())).all())


def check_names(names: Iterable[str], inputs: Sequence[TensorSpec], where: str) -> None:
    """Check that the names are those of the inputs.

    Raises:
        CalibrationError: a name is missing or is not that of an input.
    """
    given, expected = sorted(map(str, names)), sorted(spec.name for spec in inputs)
    if given != expected:
        raise CalibrationError(
            f"{where}: holds {', '.join(given) or 'nothing'}, the model's inputs are {', '.join(expected)}: "
            f"give one array or path for each of them, by name, and no others; or {constant_hint(inputs)}"
        )


def constant_hint(inputs: Sequence[TensorSpec]) -> str:
    """Return how to make an input constant, as messages show it: a weight of a layer by name, if there is one."""
    weight = next((spec.name for spec in inputs if spec.parameter), None)
    if weight is None:
        return "a constant: `constant_inputs={'NAME': VALUE}`"
    return f"a constant where it is a weight of a layer: `constant_inputs={{'{weight}': 'FILE'}}`"


def _check_array(array: NDArray[Any] | NpyFile, spec: TensorSpec, where: str) -> None:
    sizes = zip(array.shape[1:], spec.shape[1:], strict=False)
    if array.ndim != len(spec.shape) or any(expected not in (None, size) for size, expected in sizes):
        raise CalibrationError(
            f"{where}: shape {array.shape} found, {shape_text(spec)} wanted: "
            f"bring the array to the model's layout and size"
        )
    dtype, expected_dtype = array.dtype.newbyteorder("="), spec.dtype
    if dtype != expected_dtype and not (_is_float(dtype) and _is_float(expected_dtype)):
        remedy = "convert the array"
        if dtype == np.uint8 and np.issubdtype(expected_dtype, np.floating):
            remedy = "pass the images themselves, or scale and convert the array as in training"
        raise CalibrationError(f"{where}: type {dtype} found, {expected_dtype} wanted: {remedy}")
    if not len(array):
        raise CalibrationError(f"{where}: no samples found, at least one wanted: the first axis counts them")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def check_lengths(lengths: Mapping[str, int], where: str) -> None:
    """Check that all inputs have the same number of samples.

    Raises:
        CalibrationError: they have not.
    """
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CalibrationError(f"{where}: inputs differ in their number of samples ({counts}): give all the same")
