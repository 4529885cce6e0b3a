"""A runtime that converts one network once, however often that is run: converters take seconds, some a minute."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_lowrank.runtime.backends.protocol import Prepared, Runtime
from onnx_lowrank.runtime.backends.staging import staging_folder


class ConvertedOnce:
    """A runtime that keeps what it made of one network; in all else it is the one it is given, see `Runtime`.

    Args:
        runtime: the runtime.
        model: the network; any other one is converted each time.
    """

    def __init__(self, runtime: Runtime, model: onnx.ModelProto) -> None:
        self.name, self.version, self.precision = runtime.name, runtime.version, runtime.precision
        self.threads, self.runs_parts = runtime.threads, runtime.runs_parts
        self._runtime, self._model = runtime, model
        self._kept: dict[tuple[tuple[str, tuple[int, ...]], ...], Prepared] = {}
        self._files = ExitStack()

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, NDArray[Any]], folder: Path) -> Prepared:
        """Convert a network, unless it is the one that is kept: that is run on the first inputs of these shapes.

        Raises:
            ModelError: the converter cannot convert it, with its own words.
        """
        if model is not self._model:
            return self._runtime.prepare(model, feeds, folder)
        shapes = tuple((name, array.shape) for name, array in sorted(feeds.items()))
        if shapes not in self._kept:
            self._kept[shapes] = self._runtime.prepare(model, feeds, self._files.enter_context(staging_folder()))
        return self._kept[shapes]

    def close(self) -> None:
        """Remove what is kept."""
        self._kept.clear()
        self._files.close()
