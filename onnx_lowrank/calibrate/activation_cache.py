"""The tensors at the front of a conversion, of all batches.

They are kept where the network runs, within a bound; beyond it in memory, within another; beyond that on the disk.
There each tensor has a temporary file of its own, which is gone with the last batch of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.linalg.disk_arrays import ScratchFile
from onnx_lowrank.runtime.ort_values import Resident

Tensor = NDArray[Any] | Resident
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Spilled:
    """Where a tensor lies in its file."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ActivationCache:
    """Tensors of all batches.

    Args:
        batches: the tensors to start with, by name.
        most_bytes: kept in memory; what does not fit goes to the disk.
        most_resident: bytes kept where the network runs, of the tensors that are there.

    Attributes:
        spilled_bytes: written to the disk so far.
    """

    def __init__(self, batches: Iterable[Batch], most_bytes: int, most_resident: int = 0) -> None:
        self._most, self._used = most_bytes, 0
        self._most_resident, self._resident = most_resident, 0
        self._files: dict[str, ScratchFile] = {}
        self._batches: list[dict[str, Tensor | _Spilled]] = []
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

    def read(self, number: int, names: Iterable[str]) -> dict[str, Tensor]:
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
            self._forget(batch.pop(name))
        for name, tensor in found.items():
            batch[name] = self._put(name, tensor)
        for name in [name for name in self._files if not any(name in each for each in self._batches)]:
            self._files.pop(name).close()

    def reserve(self, size: int) -> bool:
        """Take bytes of the bound for something else, if they are free; `release` gives them back."""
        fits = self._used + size <= self._most
        self._used += size if fits else 0
        return fits

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        self._used -= size

    def excess(self, keep: Collection[str], size: int) -> int:
        """How many bytes would go to the disk if the tensors of ``keep`` stayed and others of ``size`` bytes came."""
        return max(0, self._used + self.growth(keep, size) - self._most)

    def growth(self, keep: Collection[str], size: int) -> int:
        """How many bytes more would be in memory then, were there room for all."""
        gone = sum(
            tensor.nbytes
            for batch in self._batches
            for name, tensor in batch.items()
            if name not in keep and isinstance(tensor, np.ndarray)
        )
        return max(0, size - (self._most_resident - self._resident)) - gone

    def close(self) -> None:
        """Give up all that is on the disk."""
        while self._files:
            self._files.popitem()[1].close()

    def _put(self, name: str, tensor: Tensor) -> Tensor | _Spilled:
        if isinstance(tensor, Resident):
            if self._resident + tensor.nbytes <= self._most_resident:
                self._resident += tensor.nbytes
                return tensor
            tensor = tensor.numpy()
        if self._used + tensor.nbytes <= self._most:
            self._used += tensor.nbytes
            return tensor
        file = self._files.get(name) or self._files.setdefault(name, ScratchFile())
        self.spilled_bytes += tensor.nbytes
        return _Spilled(file.append(tensor), tensor.dtype, tensor.shape)

    def _forget(self, tensor: Tensor | _Spilled) -> None:
        if isinstance(tensor, Resident):
            self._resident -= tensor.nbytes
        elif not isinstance(tensor, _Spilled):
            self._used -= tensor.nbytes

    def _read(self, name: str, tensor: Tensor | _Spilled) -> Tensor:
        if not isinstance(tensor, _Spilled):
            return tensor
        return self._files[name].read(tensor.offset, tensor.dtype, tensor.shape)
