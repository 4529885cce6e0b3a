"""A model that is run on the same batches again and again: what came out is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.runtime.session import Session

_MOST_BYTES = 2**28


class Runnable(Protocol):
    """What runs a model on batches; a `Session` does."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        ...

    @property
    def numeric_outputs(self) -> tuple[str, ...]:
        """Those of them that are numbers."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        ...


class CachedSession:
    """A session that knows batches again.

    Args:
        session: the model.
        most_bytes: of outputs that are kept; what goes beyond is computed every time.
    """

    def __init__(self, session: Session, most_bytes: int = _MOST_BYTES) -> None:
        self._session, self._left = session, most_bytes
        self._known: dict[bytes, dict[str, NDArray[Any]]] = {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return self._session.outputs

    @property
    def numeric_outputs(self) -> tuple[str, ...]:
        """Those of them that are numbers."""
        return self._session.numeric_outputs

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, not to be changed."""
        key = _digest(feeds)
        if key in self._known:
            return self._known[key]
        found = self._session.run(feeds)
        size = sum(np.asarray(values).nbytes for values in found.values())
        if size <= self._left:
            self._known[key], self._left = found, self._left - size
        return found


def _digest(feeds: Mapping[str, NDArray[Any]]) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(feeds):
        values = feeds[name]
        digest.update(f"{name} {values.dtype} {values.shape};".encode())
        digest.update(repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).data)
    return digest.digest()
