"""A layer with all points of its kernel in one row, so that a vertical filter of it sees a single point.

The spatial decomposition splits a kernel into columns: its first factor reads each column alone, its second one adds
the columns up. With a kernel of ``1 x K`` a column is one point, of c numbers, and the same two factors are a 1 x 1
convolution, and a convolution of all K points on what that makes. Points are ordered as patches hold them, last axis
of the kernel first, so that nothing is moved.

| code     | meaning                           | shape            |
|----------|-----------------------------------|------------------|
| array    | patches, or the weight of a layer | (n, c, kh, kw)   |
| in_a_row | the same, K = kh * kw             | (n, c, 1, K)     |

Kernels may have one axis or three as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.responses import LayerSamples, Patches, PatchProbe, TargetResponses
from onnx_lowrank.linalg.disk_arrays import SpilledRows


def in_a_row(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of kernels or patches, (n, c, kh, kw), with their points in a row, (n, c, 1, kh * kw)."""
    count, channels, *kernel = array.shape
    points = np.swapaxes(array, 1, -1).reshape(count, prod(kernel), channels)
    return np.swapaxes(points, 1, -1)[:, :, None, :]


def from_a_row(array: NDArray[Any], kernel: tuple[int, ...]) -> NDArray[Any]:
    """Return what `in_a_row` was made from, given the size of the kernels."""
    count, channels = array.shape[:2]
    points = np.swapaxes(array[:, :, 0], 1, -1)
    return np.swapaxes(points.reshape(count, kernel[-1], *kernel[:-1], channels), 1, -1)


def layer_in_a_row(layer: Layer) -> Layer:
    """Return a layer with the points of its kernel in a row, for solvers: its geometry means nothing."""
    return replace(layer, weight=in_a_row(layer.weight), geometry=pointwise(2))


def samples_in_a_row(responses: LayerSamples) -> LayerSamples:
    """Return the sampled rows of a layer for `layer_in_a_row`; patches on the disk stay there."""
    return LayerSamples(responses.targets, _patches_in_a_row(responses.patches))


def targets_in_a_row(targets: TargetResponses) -> TargetResponses:
    """Return targets with the patches of their probe, if there is one, for `layer_in_a_row`."""
    if targets.probe is None:
        return targets
    return replace(targets, probe=PatchProbe(in_a_row(targets.probe.patches), targets.probe.rows))


def _patches_in_a_row(patches: Patches) -> Patches:
    return in_a_row(patches) if isinstance(patches, np.ndarray) else cast("Patches", _ReadInARow(patches))


@dataclass(frozen=True, eq=False)
class _ReadInARow:
    """Patches that are read by slices of rows, such as those on the disk, with their points put in a row then."""

    patches: SpilledRows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is read."""
        rows, channels, *kernel = self.patches.shape
        return rows, channels, 1, prod(kernel)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.patches)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read consecutive rows."""
        return in_a_row(self.patches[rows])
