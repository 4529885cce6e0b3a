"""What crosses from collecting to solving: sampled rows of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.linalg.arrays import Array
from onnx_lowrank.linalg.disk_arrays import SpilledRows

Patches: TypeAlias = NDArray[Any] | SpilledRows  # either can be read a stretch of rows at a time
LARGEST = 1e15  # sums of squares of larger numbers do not fit into float32


def not_usable(rows: NDArray[Any]) -> bool:
    """Whether there is a number among the rows that is NaN, infinite, or too large to reckon with."""
    return bool(rows.size) and not (rows.min() >= -LARGEST and rows.max() <= LARGEST)


@dataclass(frozen=True, eq=False)
class TargetResponses:
    """What the original network delivers at the sampled positions of one layer.

    Attributes:
        responses: before the activation, shape (n, d), float32; row = image-major sample. In NumPy, or a tensor
            of PyTorch where the layer is solved on a GPU.
        residual: what is added before the activation, shape (n, d); None where nothing is.
        probe: input patches of a few of the rows; None where nobody looks at them.
    """

    responses: Array
    residual: Array | None = None
    probe: PatchProbe | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes, without the probe."""
        return int(self.responses.nbytes + (0 if self.residual is None else self.residual.nbytes))

    def first(self, rows: int | None = None) -> TargetResponses:
        """The first rows, or all, without the probe: nobody chooses ranks by them any more."""
        return TargetResponses(self.responses[:rows], None if self.residual is None else self.residual[:rows])

    def part(self, read: slice, made: slice) -> TargetResponses:
        """What concerns one group of channels: those it reads, the filters it makes."""
        residual = None if self.residual is None else self.residual[:, made]
        probe = None if self.probe is None else PatchProbe(self.probe.patches[:, read], self.probe.rows)
        return TargetResponses(self.responses[:, made], residual, probe)


@dataclass(frozen=True, eq=False)
class PatchProbe:
    """What the original network feeds a layer at some of its sampled positions.

    Attributes:
        patches: shape (m, c, kh, kw), float32.
        rows: which rows of the targets they belong to, shape (m,).
    """

    patches: NDArray[Any]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerSamples:
    """Both sides of one layer's reconstruction; row i of each is the same position of the same image.

    Attributes:
        targets: what the original network delivers.
        patches: of the layer's input, as the converted prefix really delivers it, shape (n, c, kh, kw), float32.
    """

    targets: TargetResponses
    patches: Patches

    def part(self, read: slice, made: slice) -> LayerSamples:
        """What concerns one group of channels: those it reads, the filters it makes."""
        patches = self.patches.of(read) if isinstance(self.patches, SpilledRows) else self.patches[:, read]
        return LayerSamples(self.targets.part(read, made), patches)
