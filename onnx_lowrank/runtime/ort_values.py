"""onnxruntime's own tensors: results kept where a session runs, and weights handed to it without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.tensors import is_external, values
from onnx_lowrank.runtime.library import load_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    **{name: np.dtype(name) for name in ("float16", "bool", *_INTEGERS)},
}


def numpy_type(ort_type: str) -> np.dtype[Any] | None:
    """Return the element type of a tensor of numbers; None for text, sequences, maps and types that NumPy lacks.

    Args:
        ort_type: a type as onnxruntime writes it, such as ``tensor(float)``.
    """
    return _NUMPY_TYPES.get(ort_type.removeprefix("tensor(").removesuffix(")"))


@dataclass(frozen=True, eq=False)
class Resident:
    """A tensor that stays where sessions run, such as in the memory of a GPU.

    Attributes:
        value: onnxruntime's own.
    """

    value: onnxruntime.OrtValue

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type.

        Raises:
            TypeError: the tensor does not hold numbers.
        """
        dtype = numpy_type(self.value.data_type())
        if dtype is None:
            raise TypeError(f"NumPy has no type for {self.value.data_type()}")
        return dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(prod(self.value.shape())) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """Return a copy in the CPU's memory."""
        return np.array(self.value.numpy())


def external_initializers(model: onnx.ModelProto) -> dict[str, onnxruntime.OrtValue]:
    """Return the initializers whose values are in files, by name; sessions of one model share them."""
    make = load_onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type
    external = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    return {tensor.name: make(values(tensor), tensor.data_type) for tensor in external}
