"""The result of solving a layer: a chain of small convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Geometry


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution of a chain.

    Attributes:
        weight: shape (out, in / groups, kh, kw), float64.
        bias: shape (out,); None for all but the last, since a bias before padding is wrong at the borders.
        geometry: strides, dilations, pads.
        groups: equal parts of the channels, each convolved separately.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    geometry: Geometry
    groups: int = 1


@dataclass(frozen=True)
class SolveErrors:
    """Relative errors after the activation on the calibration rows, ``||r(Y) - r(Y')|| / ||r(Y)||``.

    Attributes:
        linear: error of the linear solution.
        solved: error of the solution that was kept.
    """

    linear: float
    solved: float


@dataclass(frozen=True, eq=False)
class FactorChain:
    """The solved chain of one layer.

    Attributes:
        convolutions: one, two or three, in the order they run.
        errors: what the solver reached.
        reason: why the factors come from the weights alone; None where they were solved as asked for.
        kept: channels of the input that are read, ascending, where the weights of all others are 0; None for all.
    """

    convolutions: tuple[Convolution, ...]
    errors: SolveErrors
    reason: str | None = None
    kept: NDArray[np.int64] | None = None
