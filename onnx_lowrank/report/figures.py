"""What the page shows of a conversion beside the numbers of its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.verify import ExamplePrediction


@dataclass(frozen=True, eq=False)
class ReportFigures:
    """Curves and pictures of a conversion, for `to_html`.

    Attributes:
        kernels: by layer name the shape of its weight, (d, c / groups, kh, kw), where it is known.
        energies: by layer name the share of its responses' energy that the leading directions hold, shape
            (d / groups + 1,), entry r that of r directions.
        file_bytes: of the original and of the converted model with their weights; None for a dry run.
        samples: held-out images and what both models make of them.
    """

    kernels: Mapping[str, tuple[int, ...]]
    energies: Mapping[str, NDArray[np.float64]]
    file_bytes: tuple[int, int | None]
    samples: tuple[ExamplePrediction, ...]
