"""The error that leaving out channels of its input causes in one layer, and which of them go first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEGLIGIBLE_ERROR = 1e-7  # relative and squared; keeps the logarithm finite


@dataclass(frozen=True, eq=False)
class WidthLosses:
    """Errors of a layer by the number of channels that it still reads.

    Attributes:
        order: channels of its input, the one that is missed least first, shape (c,).
        widths: measured numbers of channels, ascending, the last one c.
        errors: relative squared errors after the activation on held-out rows, at the measured widths.
    """

    order: NDArray[np.int64]
    widths: NDArray[np.int64]
    errors: NDArray[np.float64]

    def error(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the errors of numbers of channels, 0 to 1: 0 where none is left out.

        Interpolated in the logarithm; between the largest number that leaves any out and all of them in proportion,
        since the logarithm of no error is too far away.
        """
        channels, measured = len(self.order), self.widths[:-1]
        if not measured.size:
            kept_whole: NDArray[np.float64] = np.where(np.asarray(widths) < channels, 1.0, 0.0)
            return kept_whole
        logarithms = np.log(self.errors[:-1].clip(NEGLIGIBLE_ERROR, 1.0))
        errors: NDArray[np.float64] = np.exp(np.interp(widths, np.append(0, measured), np.append(0.0, logarithms)))
        left_out = (channels - np.asarray(widths)) / (channels - measured[-1])
        errors *= np.minimum(left_out, 1.0)
        return errors

    def kept(self, width: int) -> NDArray[np.int64]:
        """Return the channels that stay where ``width`` of them do, ascending."""
        return np.sort(self.order[len(self.order) - width :])
