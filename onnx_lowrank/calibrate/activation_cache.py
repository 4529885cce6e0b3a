"""Cache the tensors of all calibration batches at which a conversion has arrived.

Tensors stay on the device where the network runs up to a bound, beyond it in memory up to another, beyond that on the
disk. There, all batches of a tensor share a temporary file, which is deleted with the last of them.
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
    """The location of a tensor in its file, in bytes."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ActivationCache:
    """Tensors of all batches by name.

    Args:
        batches: the first tensors.
        max_memory_bytes: of tensors in memory; others go to the disk.
        max_device_bytes: of tensors that are on the device and stay there; others are copied to memory.

    Attributes:
        spilled_bytes: bytes written to the disk so far.

    Raises:
        CalibrationError: the disk is full.
    """

    def __init__(self, batches: Iterable[Batch], max_memory_bytes: int, max_device_bytes: int = 0) -> None:
        self._max_memory_bytes, self._memory_bytes = max_memory_bytes, 0
        self._max_device_bytes, self._device_bytes = max_device_bytes, 0
        self._files: dict[str, ScratchFile] = {}
        self._batches: list[dict[str, Tensor | _Spilled]] = []
        self.spilled_bytes = 0
        for batch in batches:
            self._batches.append({})
            self.advance(len(self._batches) - 1, (), batch)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    @property
    def types(self) -> dict[str, np.dtype[Any]]:
        """Element types by name of the first batch's tensors; other batches may not have advanced as far."""
        return {name: tensor.dtype for name, tensor in self._batches[0].items()}

    def read(self, number: int, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors of a batch by name."""
        return {name: self._read(name, self._batches[number][name]) for name in names}

    def advance(self, number: int, keep: Collection[str], new: Batch) -> None:
        """Drop the tensors of a batch that are no longer needed and add new ones.

        Args:
            number: index of the batch.
            keep: names of the tensors that stay.
            new: the tensors to add.

        Raises:
            CalibrationError: the disk is full.
        """
        batch = self._batches[number]
        for name in [name for name in batch if name not in keep]:
            self._release(batch.pop(name))
        for name, tensor in new.items():
            batch[name] = self._store(name, tensor)
        for name in [name for name in self._files if not any(name in batch for batch in self._batches)]:
            self._files.pop(name).close()

    def reserve(self, nbytes: int) -> bool:
        """Reserve memory within the bound for other use, if it is free; `release` gives it back.

        Returns:
            Whether it was free.
        """
        is_free = self._memory_bytes + nbytes <= self._max_memory_bytes
        self._memory_bytes += nbytes if is_free else 0
        return is_free

    def release(self, nbytes: int) -> None:
        """Give reserved memory back."""
        self._memory_bytes -= nbytes

    def spill_bytes(self, keep: Collection[str], new_bytes: int) -> int:
        """Return how many bytes would go to the disk if all batches advanced.

        Args:
            keep: names of the tensors that would stay.
            new_bytes: size of the new tensors of all batches.
        """
        return max(0, self._memory_bytes + self.growth_bytes(keep, new_bytes) - self._max_memory_bytes)

    def growth_bytes(self, keep: Collection[str], new_bytes: int) -> int:
        """Return by how many bytes the memory in use would grow if all batches advanced and the bound did not matter.

        Dropped tensors are subtracted, so the result may be negative. New tensors fill the room on the device first,
        but not that of dropped tensors, which are still there while the new ones are computed.

        Args:
            keep: names of the tensors that would stay.
            new_bytes: size of the new tensors of all batches.
        """
        dropped_bytes = sum(
            tensor.nbytes
            for batch in self._batches
            for name, tensor in batch.items()
            if name not in keep and isinstance(tensor, np.ndarray)
        )
        return max(0, new_bytes - (self._max_device_bytes - self._device_bytes)) - dropped_bytes

    def close(self) -> None:
        """Delete everything on the disk."""
        while self._files:
            self._files.popitem()[1].close()

    def _store(self, name: str, tensor: Tensor) -> Tensor | _Spilled:
        if isinstance(tensor, Resident):
            if self._device_bytes + tensor.nbytes <= self._max_device_bytes:
                self._device_bytes += tensor.nbytes
                return tensor
            tensor = tensor.numpy()
        if self.reserve(tensor.nbytes):
            return tensor
        file = self._files.get(name) or self._files.setdefault(name, ScratchFile())
        self.spilled_bytes += tensor.nbytes
        return _Spilled(file.append(tensor), tensor.dtype, tensor.shape)

    def _release(self, tensor: Tensor | _Spilled) -> None:
        if isinstance(tensor, Resident):
            self._device_bytes -= tensor.nbytes
        elif not isinstance(tensor, _Spilled):
            self.release(tensor.nbytes)

    def _read(self, name: str, tensor: Tensor | _Spilled) -> Tensor:
        if not isinstance(tensor, _Spilled):
            return tensor
        return self._files[name].read(tensor.offset, tensor.dtype, tensor.shape)
