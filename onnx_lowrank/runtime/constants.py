"""Inputs that are always fed the same: numbers that the user gives, or a file that holds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.inputs import TensorSpec, no_input
from onnx_lowrank.settings import Constants

ARRAY_FILES = (".npy", ".npz")


def with_constants(inputs: Sequence[TensorSpec], values: Constants) -> tuple[TensorSpec, ...]:
    """Return the inputs, some of them made constant.

    Args:
        inputs: the model's inputs.
        values: by input name: numbers in the order of the input's axes, of which a single one fills it; an array of
            its shape; or a file with one, ``.npy``, or ``.npz`` with one of the input's name or a single one.

    Raises:
        ModelError: a name is not that of an input, a file cannot be read, values that do not fit, or no input left
            for data.
    """
    unknown = sorted(values.keys() - {spec.name for spec in inputs})
    if unknown:
        raise ModelError(f"`constant_inputs`: {no_input(unknown[0], inputs)}")
    completed = [
        replace(spec, value=_constant(spec, values[spec.name])) if spec.name in values else spec for spec in inputs
    ]
    if inputs and all(spec.value is not None for spec in completed):
        raise ModelError("`constant_inputs`: all inputs are constant, at least one is wanted that samples are fed to")
    return tuple(completed)


def _constant(spec: TensorSpec, values: Sequence[float] | NDArray[Any] | str | os.PathLike[str]) -> NDArray[Any]:
    """Return values in an input's type and shape; an open axis is as long as needed, an open first axis 1."""
    given = _read(Path(values), spec.name) if isinstance(values, str | os.PathLike) else np.asarray(values)
    sizes = _sizes(spec, given)
    of_numbers = given.dtype.kind in "biufV"  # V: the float types of ml_dtypes
    exact = of_numbers and (spec.dtype.kind not in "iu" or np.array_equal(given, given.astype(spec.dtype)))
    if sizes is None or not exact:
        numbers = f"shape {given.shape}" if given.ndim > 1 else ", ".join(map(str, given.ravel()[:4]))
        raise ModelError(
            f"`constant_inputs` {spec.name}: {numbers} found, {spec.dtype} of shape "
            f"{[size or '?' for size in spec.shape]} wanted: give one number for all, or every one"
        )
    value: NDArray[Any] = np.resize(given, sizes).astype(spec.dtype)
    return value


def _sizes(spec: TensorSpec, given: NDArray[Any]) -> list[int] | None:
    """Return the sizes of an input's axes for values that are given, None where these do not fit."""
    # Data may repeat along an open first axis, not the weights of a layer.
    wanted = (
        spec.shape
        if spec.parameter
        else tuple(size or 1 if axis == 0 else size for axis, size in enumerate(spec.shape))
    )
    if given.ndim == len(wanted) and all(size in (None, own) for size, own in zip(wanted, given.shape, strict=True)):
        return list(given.shape)
    if given.ndim > 1:
        return None
    open_axes = [axis for axis, size in enumerate(spec.shape) if axis and size is None]
    sizes = [size or 1 for size in spec.shape]
    if len(open_axes) == 1:
        sizes[open_axes[0]] = max(1, given.size // prod(sizes))
    return sizes if len(open_axes) < 2 and given.size in {1, prod(sizes)} else None


def _read(path: Path, name: str) -> NDArray[Any]:
    """Return the array in a file that is meant for an input.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or has several arrays but none of that name.
    """
    where = f"`constant_inputs` {name}: {path}"
    if path.suffix.lower() not in ARRAY_FILES:
        raise ModelError(f"{where}: one of {', '.join(ARRAY_FILES)} is wanted: save the array with numpy")
    if not path.is_file():
        raise ModelError(f"{where}: no such file: check the path")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            key = name if name in loaded.files or len(loaded.files) != 1 else loaded.files[0]
            found = loaded[key] if key in loaded.files else loaded.files
    except Exception as error:  # NumPy lets errors of zip files and headers through
        raise ModelError(f"{where}: cannot be read ({error}): save it with numpy again") from error
    if isinstance(found, list):
        raise ModelError(f"{where}: holds {', '.join(found) or 'nothing'}: an array named '{name}' is wanted: add it")
    return np.asarray(found)
