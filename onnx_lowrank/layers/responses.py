"""Sampled rows of one layer, collected from images for the solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.linalg.arrays import Array
from onnx_lowrank.linalg.disk_arrays import SpilledRows

Patches: TypeAlias = NDArray[Any] | SpilledRows  # either can be read by slices of rows
LARGEST = 1e15  # sums of squares of larger numbers do not fit into float32


def not_usable(rows: NDArray[Any]) -> bool:
    """Return whether any number is NaN, infinite, or too large to compute with."""
    return bool(rows.size) and not (rows.min() >= -LARGEST and rows.max() <= LARGEST)


@dataclass(frozen=True, eq=False)
class TargetResponses:
    """Outputs of one layer in the original network, at the sampled positions.

    Attributes:
        responses: before the activation, shape (n, d), float32; rows ordered by image. In NumPy, or a tensor of
            PyTorch where the layer is solved on a GPU.
        residual: added to the responses before the activation, shape (n, d); None where nothing is added.
        probe: input patches of a few of the rows; None where they are not needed.
    """

    responses: Array
    residual: Array | None = None
    probe: PatchProbe | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, without the probe."""
        return int(self.responses.nbytes + (0 if self.residual is None else self.residual.nbytes))

    def first(self, rows: int | None = None) -> TargetResponses:
        """Return the first rows, or all, without the probe: it serves the choice of ranks only."""
        return replace(self._between(0, rows), probe=None)

    def apart(self, count: int) -> tuple[TargetResponses, TargetResponses]:
        """Return the first ``count`` rows and those behind them, each with its part of the probe."""
        return self._between(0, count), self._between(count, None)

    def _between(self, first: int, end: int | None) -> TargetResponses:
        residual = None if self.residual is None else self.residual[first:end]
        probe = None if self.probe is None else self.probe.between(first, len(self.responses) if end is None else end)
        return TargetResponses(self.responses[first:end], residual, probe)

    def delivered(self, residual: NDArray[Any]) -> TargetResponses:
        """Return the targets that make good for what the residual has lost: ``y + s - s'`` with the residual ``s'``.

        Args:
            residual: as the converted network delivers it, s', shape (n, d).

        Raises:
            ValueError: the original has no residual here.
        """
        if self.residual is None:
            raise ValueError("no residual was collected")
        return TargetResponses(self.responses + (self.residual - residual), residual, self.probe)

    def part(self, channels: slice | NDArray[np.int64], filters: slice) -> TargetResponses:
        """Return the rows of one group.

        Args:
            channels: those that it reads.
            filters: slice of its filters.
        """
        residual = None if self.residual is None else self.residual[:, filters]
        probe = None if self.probe is None else PatchProbe(self.probe.patches[:, channels], self.probe.rows)
        return TargetResponses(self.responses[:, filters], residual, probe)


@dataclass(frozen=True, eq=False)
class PatchProbe:
    """Input patches of a layer in the original network, at some of its sampled positions.

    Attributes:
        patches: shape (m, c, kh, kw), float32.
        rows: their rows in the targets, ascending, shape (m,).
    """

    patches: NDArray[Any]
    rows: NDArray[np.int64]

    def between(self, first: int, end: int) -> PatchProbe:
        """Return what there is of the targets' rows from ``first`` up to ``end``, numbered from the first of these."""
        own = slice(*np.searchsorted(self.rows, (first, end)).tolist())
        return PatchProbe(self.patches[own], self.rows[own] - first)


@dataclass(frozen=True, eq=False)
class LayerSamples:
    """Both sides of one layer's reconstruction; row i of each is the same position of the same image.

    Attributes:
        targets: outputs in the original network.
        patches: of the layer's input, as the converted layers before it deliver it, shape (n, c, kh, kw), float32.
    """

    targets: TargetResponses
    patches: Patches

    def part(self, channels: slice | NDArray[np.int64], filters: slice) -> LayerSamples:
        """Return the rows of one group.

        Args:
            channels: those that it reads.
            filters: slice of its filters.
        """
        patches = self.patches.of(channels) if isinstance(self.patches, SpilledRows) else self.patches[:, channels]
        return LayerSamples(self.targets.part(channels, filters), patches)
