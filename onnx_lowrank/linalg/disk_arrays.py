"""Arrays that do not fit into memory, in temporary files without a name.

Such a file is gone when it is closed, and with the process, however that ends.
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


class ScratchFile:
    """A temporary file that arrays are put into, one behind the other.

    Raises:
        CalibrationError: the disk is full; by `append` too.
    """

    def __init__(self) -> None:
        with _explained():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as an array is in it)

    def append(self, array: NDArray[Any]) -> int:
        """Put an array in; returns the byte that it starts at."""
        with _explained():
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        return offset

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """An array that was put in, or a stretch of one."""
        found: NDArray[Any] = np.empty(shape, dtype)
        self._file.seek(offset)
        self._file.readinto(found.reshape(-1).view(np.uint8).data)
        return found

    def close(self) -> None:
        """Give up all that is in it."""
        self._file.close()


@dataclass(frozen=True, eq=False)
class SpilledRows:
    """An array in a `ScratchFile` that is read a stretch of rows at a time, as ``rows[first:last]``.

    Attributes:
        file: where it lies, from the first byte on.
        whole: shape in the file; rows on the first axis.
        dtype: of its numbers.
        channels: which of the second axis are looked at.
    """

    file: ScratchFile
    whole: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: slice = field(default_factory=lambda: slice(None))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is looked at."""
        return (self.whole[0], len(range(*self.channels.indices(self.whole[1]))), *self.whole[2:])

    def __len__(self) -> int:
        """Count the rows."""
        return self.whole[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read rows that follow each other."""
        first, last, _ = rows.indices(len(self))
        size = prod(self.whole[1:]) * self.dtype.itemsize
        return self.file.read(first * size, self.dtype, (max(0, last - first), *self.whole[1:]))[:, self.channels]

    def of(self, channels: slice) -> SpilledRows:
        """The same rows, some of the channels of the layer."""
        return replace(self, channels=channels)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what it was that did not fit, and where."""
    try:
        yield
    except OSError as error:
        raise CalibrationError(
            f"temporary folder '{tempfile.gettempdir()}': tensors that do not fit into memory cannot be kept there "
            f"({error.strerror}): free some space, name another folder in TMPDIR, raise `memory` or lower `samples`"
        ) from error
