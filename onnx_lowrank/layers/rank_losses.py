"""What every pair of ranks costs one layer in accuracy, as measured on a few rows and interpolated between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

_FLOOR = 1e-7  # error that counts as none


@dataclass(frozen=True, eq=False)
class RankLosses:
    """Errors of a layer by channel and spatial rank.

    Attributes:
        channel: measured channel ranks, ascending, the last one d.
        spatial: measured spatial ranks, ascending, the last one the largest; that one alone where none was looked at.
        errors: relative squared errors after the activation, shape (channel ranks, spatial ranks).
        energies: share of the responses' energy before the activation that the leading directions hold, shape
            (d / groups + 1,), entry r that of r directions; None where nobody looked.
    """

    channel: NDArray[np.int64]
    spatial: NDArray[np.int64]
    errors: NDArray[np.float64]
    energies: NDArray[np.float64] | None = None

    def error(self, channel: NDArray[np.int64], spatial: NDArray[np.int64]) -> NDArray[np.float64]:
        """Interpolated errors of pairs of ranks, 0 to 1; any shape."""
        logarithms = np.log(np.maximum(self.errors, _FLOOR))
        # Rank 0 keeps nothing.
        grid = (np.append(0, self.channel), np.append(0, self.spatial))
        table = RegularGridInterpolator(grid, np.pad(logarithms, ((1, 0), (1, 0))))
        pairs = np.stack(np.broadcast_arrays(channel, spatial), axis=-1)
        found = np.exp(table(pairs)).reshape(pairs.shape[:-1])
        return np.where(found <= 2 * _FLOOR, 0.0, np.minimum(found, 1.0))


def energy_shares(eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the sum that the first r hold, for every r.

    Args:
        eigenvalues: descending, none below 0, shape (d,).

    Returns:
        Shape (d + 1,), ascending from 0 to 1; all ones where there is nothing to share.
    """
    total = eigenvalues.sum()
    if total == 0:
        return np.ones(len(eigenvalues) + 1)
    return np.concatenate([[0.0], np.minimum(np.cumsum(eigenvalues) / total, 1.0)])
