"""Read arrays from files that are not mapped.

A mapped file that somebody else cuts short ends the process with SIGBUS, without a word. Read in parts, it is an error
like any other.
"""

from __future__ import annotations

import io
import threading
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray


class ArrayFile:
    """An open file that arrays are read from; safe to read from several threads.

    Args:
        stream: the file, open for reading as bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = cast("io.BufferedIOBase", stream)  # whose `readinto` typing.BinaryIO does not know
        self._lock = threading.Lock()

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Read an array from an offset in bytes.

        Raises:
            EOFError: the file ends before the array does.
            OSError: the disk fails.
        """
        array: NDArray[Any] = np.empty(shape, dtype)
        self.read_into(array, offset)
        return array

    def read_into(self, array: NDArray[Any], offset: int) -> None:
        """Fill an array whose numbers lie behind each other; raises as `read`."""
        left: memoryview = array.reshape(-1).view(np.uint8).data
        with self._lock:
            self._stream.seek(offset)
            while left:
                count = self._stream.readinto(left)
                if not count:
                    raise EOFError(f"ends after {self._stream.seek(0, 2)} bytes, {offset + array.nbytes} are wanted")
                left = left[count:]
