"""A session that keeps its outputs, for a model that runs on the same batches several times."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.runtime.session import Session

_MAX_BYTES = 2**28


class Runnable(Protocol):
    """A model that runs on batches, as a `Session` does."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        ...

    @property
    def numeric_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors of numbers."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Args:
            feeds: inputs by name.
        """
        ...


class CachedSession:
    """A session that returns kept outputs for a batch that it has run before.

    Args:
        session: the model.
        max_bytes: limit of all kept outputs; a batch whose outputs exceed it is run every time.
    """

    def __init__(self, session: Session, max_bytes: int = _MAX_BYTES) -> None:
        self._session, self._free_bytes = session, max_bytes
        self._outputs: dict[bytes, dict[str, NDArray[Any]]] = {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return self._session.outputs

    @property
    def numeric_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors of numbers."""
        return self._session.numeric_outputs

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; callers must not change them.

        Args:
            feeds: inputs by name.
        """
        key = _digest(feeds)
        if key in self._outputs:
            return self._outputs[key]
        outputs = self._session.run(feeds)
        size = sum(_nbytes(value) for value in outputs.values())
        if size <= self._free_bytes:
            self._outputs[key], self._free_bytes = outputs, self._free_bytes - size
        return outputs


def _nbytes(value: Any) -> int:
    """Return about how many bytes an output holds: an array, or a list of arrays or dictionaries (sequences, maps)."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    return sum(map(_nbytes, value)) if isinstance(value, list) else sys.getsizeof(value)


def _digest(feeds: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        values = feeds[name]
        digest.update(f"{name} {values.dtype} {values.shape};".encode())
        digest.update(repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).data)
    return digest.digest()
