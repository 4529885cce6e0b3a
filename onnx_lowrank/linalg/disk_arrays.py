"""Arrays that do not fit into memory, in unnamed temporary files.

Such a file vanishes when it is closed, and with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.linalg.array_file import ArrayFile


class ScratchFile:
    """A temporary file that arrays are appended to.

    Raises:
        CalibrationError: the disk is full; also raised by `append`.
    """

    def __init__(self) -> None:
        with _explain_full_disk():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as an array is in it)
        self._arrays = ArrayFile(self._file)

    def append(self, array: NDArray[Any]) -> int:
        """Append an array, and return its offset in bytes."""
        with _explain_full_disk():
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        return offset

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Read an array, or a contiguous part of one, from an offset in bytes.

        Raises:
            CalibrationError: the disk fails.
        """
        try:
            return self._arrays.read(offset, dtype, shape)
        except (EOFError, OSError) as error:
            raise CalibrationError(
                f"temporary folder '{tempfile.gettempdir()}': tensors that were written there cannot be read any more "
                f"({error}): name another folder in TMPDIR, or raise `memory`"
            ) from error

    def close(self) -> None:
        """Close the file and delete its arrays."""
        self._file.close()


@dataclass(frozen=True, eq=False)
class SpilledRows:
    """An array in a `ScratchFile` that is read some rows at a time, as ``rows[first:last]``.

    Attributes:
        file: holds the array from its first byte on.
        whole: shape in the file; rows on the first axis.
        dtype: of its numbers.
        channels: part of the second axis that is read.
    """

    file: ScratchFile
    whole: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: slice | NDArray[np.int64] = field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part that is read."""
        return (self.whole[0], len(np.arange(self.whole[1])[self.channels]), *self.whole[2:])

    def __len__(self) -> int:
        """Count the rows."""
        return self.whole[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read consecutive rows."""
        first, last, _ = rows.indices(len(self))
        size = prod(self.whole[1:]) * self.dtype.itemsize
        return self.file.read(first * size, self.dtype, (max(0, last - first), *self.whole[1:]))[:, self.channels]

    def of(self, channels: slice | NDArray[np.int64]) -> SpilledRows:
        """Return the same rows with some of the channels of the layer."""
        return replace(self, channels=channels)


@contextmanager
def _explain_full_disk() -> Iterator[None]:
    """Raise an error that says what did not fit, and where."""
    try:
        yield
    except OSError as error:
        raise CalibrationError(
            f"temporary folder '{tempfile.gettempdir()}': tensors that do not fit into memory cannot be kept there "
            f"({error.strerror}): free some space, name another folder in TMPDIR, raise `memory` or lower `samples`"
        ) from error
