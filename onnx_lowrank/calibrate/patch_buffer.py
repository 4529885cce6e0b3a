"""Hold the sampled input patches of one layer: in one array, or on the disk where memory does not suffice."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.activation_cache import ActivationCache
from onnx_lowrank.calibrate.taps import as_patches
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import Patches
from onnx_lowrank.linalg.disk_arrays import ScratchFile, SpilledRows


class PatchBuffer:
    """The input patches of one layer, appended batch by batch.

    Args:
        layer: the layer.
        count: number of patches n.
        cache: the memory for the patches is reserved from its bound.

    Attributes:
        patches: shape (n, c, kh, kw), float32.
    """

    def __init__(self, layer: Layer, count: int, cache: ActivationCache) -> None:
        shape = (count, layer.channels, *layer.kernel)
        self._nbytes = prod(shape) * np.dtype(np.float32).itemsize
        self._layer, self._cache, self._filled = layer, cache, 0
        self.patches: Patches
        if cache.reserve(self._nbytes):
            self.patches = as_patches(np.empty(prod(shape), np.float32), layer)
        else:
            self.patches = SpilledRows(ScratchFile(), shape, np.dtype(np.float32))

    def append(self, rows: NDArray[Any]) -> None:
        """Append the rows of a `patch_tap`, float32.

        Raises:
            CalibrationError: the disk is full.
        """
        patches = as_patches(rows, self._layer)
        if isinstance(self.patches, SpilledRows):
            self.patches.file.append(patches)
        else:
            self.patches[self._filled :][: len(patches)] = patches
        self._filled += len(patches)

    def close(self) -> None:
        """Delete the file, or give the reserved memory back."""
        if isinstance(self.patches, SpilledRows):
            self.patches.file.close()
        else:
            self._cache.release(self._nbytes)
