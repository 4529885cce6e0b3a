"""The error that every pair of ranks causes in one layer, measured at some ranks and interpolated between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from onnx_lowrank.layers.width_losses import NEGLIGIBLE_ERROR, WidthLosses


@dataclass(frozen=True, eq=False)
class RankLosses:
    """Errors of a layer by channel and spatial rank.

    Attributes:
        channel: measured channel ranks, ascending, the last one d.
        spatial: measured spatial ranks, ascending, the last one the largest; that one alone where none was measured.
        errors: relative squared errors after the activation, shape (channel ranks, spatial ranks).
        energies: share of the responses' energy before the activation that the leading directions hold, shape
            (d / groups + 1,), entry r that of r directions; None where it was not measured.
        widths: errors by the number of channels that the layer reads; None where these have to stay.
    """

    channel: NDArray[np.int64]
    spatial: NDArray[np.int64]
    errors: NDArray[np.float64]
    energies: NDArray[np.float64] | None = None
    widths: WidthLosses | None = None

    def error(self, channel: NDArray[np.int64], spatial: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the errors of pairs of ranks, 0 to 1, interpolated in the logarithm.

        Args:
            channel: channel ranks, any shape.
            spatial: spatial ranks, of a shape that broadcasts with it.
        """
        logarithms = np.log(np.maximum(self.errors, NEGLIGIBLE_ERROR))
        # Rank 0 keeps nothing.
        grid = (np.append(0, self.channel), np.append(0, self.spatial))
        table = RegularGridInterpolator(grid, np.pad(logarithms, ((1, 0), (1, 0))))
        pairs = np.stack(np.broadcast_arrays(channel, spatial), axis=-1)
        errors = np.exp(table(pairs)).reshape(pairs.shape[:-1])
        return np.where(errors <= 2 * NEGLIGIBLE_ERROR, 0.0, np.minimum(errors, 1.0))


def energy_shares(eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the sum that the first r eigenvalues hold, for every r.

    Args:
        eigenvalues: descending, none below 0, shape (d,).

    Returns:
        Shape (d + 1,), ascending from 0 to 1; all ones where the sum is 0.
    """
    total = eigenvalues.sum()
    if total == 0:
        return np.ones(len(eigenvalues) + 1)
    return np.concatenate([[0.0], np.minimum(np.cumsum(eigenvalues) / total, 1.0)])
