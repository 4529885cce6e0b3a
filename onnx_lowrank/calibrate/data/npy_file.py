"""An array in an ``.npy`` file, read sample by sample: what does not fit into memory can be used all the same."""

from __future__ import annotations

import weakref
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.linalg.array_file import ArrayFile


class NpyFile:
    """An array in a file, of which rows are read.

    Args:
        path: of the file.

    Attributes:
        shape: of the array; rows on the first axis.
        dtype: of its numbers.

    Raises:
        ValueError: no such file, not an array, or Python objects in it.
        EOFError: the file is shorter than its header says.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        stream = path.open("rb")
        weakref.finalize(self, stream.close)  # open as long as this lives
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, self._columns_first, self.dtype = read_header(stream)
        if any(size < 0 for size in self.shape):
            raise ValueError(f"its header says shape {self.shape}")
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects, numbers are wanted")
        self._start = stream.tell()
        size, wanted = stream.seek(0, 2), self._start + prod(self.shape) * self.dtype.itemsize
        if size < wanted:
            raise EOFError(f"it has {size} bytes, {wanted} are wanted")
        self._file = ArrayFile(stream)
        self._all: NDArray[Any] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Read rows.

        Args:
            rows: a slice or indices, as of an array.

        Raises:
            CalibrationError: they are not in the file any more.
        """
        if self._columns_first:  # the numbers of a row are all over the file
            self._all = self.whole() if self._all is None else self._all
            return self._all[rows]
        numbers = np.arange(len(self))[rows]
        array: NDArray[Any] = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        row_bytes = array[:1].nbytes if len(numbers) else 0
        for row, number in enumerate(numbers.tolist()):
            self._read_into(array[row : row + 1], number * row_bytes)
        return array

    def whole(self) -> NDArray[Any]:
        """Read all of it.

        Raises:
            CalibrationError: it is not in the file any more.
        """
        array: NDArray[Any] = np.empty(self.shape[::-1] if self._columns_first else self.shape, self.dtype)
        self._read_into(array, 0)
        return array.T if self._columns_first else array

    def _read_into(self, array: NDArray[Any], offset: int) -> None:
        try:
            self._file.read_into(array, self._start + offset)
        except (EOFError, OSError) as error:
            raise CalibrationError(
                f"{self._path}: cannot be read any more ({error}), and was whole when it was opened: leave it alone "
                "until the run has ended"
            ) from error
