"""Curves and pictures of a conversion that its page shows and its report leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.verify import ExamplePrediction, FoundExample


@dataclass(frozen=True, eq=False)
class ReportFigures:
    """Curves and pictures of a conversion, for `to_html`.

    Attributes:
        kernels: weight shapes by layer name, (d, c / groups, kh, kw).
        energies: cumulative energy of the responses by layer name, shape (d / groups + 1,): entry r is the share, of 1,
            that the r leading directions hold.
        file_bytes: sizes of the original and of the converted model, weights included; None for a dry run.
        samples: held-out images with the predictions of both models.
        found: held-out images with what both networks find in them, the worst first.
    """

    kernels: Mapping[str, tuple[int, ...]]
    energies: Mapping[str, NDArray[np.float64]]
    file_bytes: tuple[int, int | None]
    samples: tuple[ExamplePrediction, ...]
    found: tuple[FoundExample, ...] = ()
