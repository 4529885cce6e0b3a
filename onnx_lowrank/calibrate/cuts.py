"""The tensors at the front of a conversion, of all batches: in memory within a bound, beyond it on the disk.

What is on the disk lies in temporary files without a name, one per tensor: they are gone with the last tensor in them,
and with the process, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError

Batch = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Spilled:
    """Where a tensor lies in its file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Cuts:
    """Tensors of all batches.

    Args:
        batches: the tensors to start with, by name.
        most_bytes: kept in memory; what does not fit goes to the disk.

    Attributes:
        spilled_bytes: written to the disk so far.
    """

    def __init__(self, batches: Iterable[Batch], most_bytes: int) -> None:
        self._most, self._used = most_bytes, 0
        self._files: dict[str, IO[bytes]] = {}
        self._batches: list[dict[str, NDArray[Any] | _Spilled]] = []
        self.spilled_bytes = 0
        for batch in batches:
            self._batches.append({})
            self.advance(len(self._batches) - 1, (), batch)

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._batches)

    @property
    def types(self) -> dict[str, np.dtype[Any]]:
        """Element type by name of the tensors that the next batch to be worked on has."""
        return {name: tensor.dtype for name, tensor in self._batches[0].items()}

    def read(self, number: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Tensors of a batch by name."""
        return {name: self._read(name, self._batches[number][name]) for name in names}

    def advance(self, number: int, keep: Collection[str], found: Batch) -> None:
        """Replace a batch's tensors by those of them that are still needed, and new ones.

        Args:
            number: of the batch.
            keep: names of the tensors that stay.
            found: the new ones.

        Raises:
            CalibrationError: the disk is full.
        """
        batch = self._batches[number]
        for name in [name for name in batch if name not in keep]:
            tensor = batch.pop(name)
            if not isinstance(tensor, _Spilled):
                self._used -= tensor.nbytes
        for name, tensor in found.items():
            batch[name] = self._put(name, tensor)
        for name in [name for name in self._files if not any(name in each for each in self._batches)]:
            self._files.pop(name).close()

    def close(self) -> None:
        """Give up all that is on the disk."""
        while self._files:
            self._files.popitem()[1].close()

    def _put(self, name: str, tensor: NDArray[Any]) -> NDArray[Any] | _Spilled:
        if self._used + tensor.nbytes <= self._most:
            self._used += tensor.nbytes
            return tensor
        with _explained():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as a tensor is in it)
            file = self._files[name]
            place = _Spilled(file.seek(0, os.SEEK_END), tensor.dtype, tensor.shape)
            file.write(np.ascontiguousarray(tensor).data)
            file.flush()
        self.spilled_bytes += tensor.nbytes
        return place

    def _read(self, name: str, tensor: NDArray[Any] | _Spilled) -> NDArray[Any]:
        if not isinstance(tensor, _Spilled):
            return tensor
        file = self._files[name]
        file.seek(tensor.offset)
        found: NDArray[Any] = np.empty(tensor.shape, tensor.dtype)
        content = file.read(prod(tensor.shape) * tensor.dtype.itemsize)
        found.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8)
        return found


@contextmanager
def _explained() -> Iterator[None]:
    """Say what it was that did not fit, and where."""
    try:
        yield
    except OSError as error:
        raise CalibrationError(
            f"temporary folder '{tempfile.gettempdir()}': tensors that do not fit into memory cannot be kept there "
            f"({error.strerror}): free some space, name another folder in TMPDIR, raise --memory or lower --samples"
        ) from error
