"""The error that every pair of ranks causes in one layer, measured at some ranks and interpolated between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks, rank_kinds
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
        input: measured input ranks, ascending, the last one the largest; None where none was measured.
        input_errors: errors as above by channel and input rank, shape (channel ranks, input ranks).
    """

    channel: NDArray[np.int64]
    spatial: NDArray[np.int64]
    errors: NDArray[np.float64]
    energies: NDArray[np.float64] | None = None
    widths: WidthLosses | None = None
    input: NDArray[np.int64] | None = None
    input_errors: NDArray[np.float64] | None = None

    def error(self, channel: NDArray[np.int64], spatial: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the errors of pairs of ranks, 0 to 1, interpolated in the logarithm.

        Args:
            channel: channel ranks, any shape.
            spatial: spatial ranks, of a shape that broadcasts with it.
        """
        return _interpolated(self.channel, self.spatial, self.errors, channel, spatial)

    def input_error(self, channel: NDArray[np.int64], input_: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the errors of pairs of a channel and an input rank, as `error` does of channel and spatial ranks.

        Raises:
            ValueError: no input ranks were measured.
        """
        if self.input is None or self.input_errors is None:
            raise ValueError("no input ranks were measured")
        return _interpolated(self.channel, self.input, self.input_errors, channel, input_)

    def of_plans(self, layer: Layer, plans: Sequence[LayerPlan]) -> NDArray[np.float64]:
        """Return the errors of a layer as planned in different ways, none of which leaves channels out, shape (plans,).

        Args:
            layer: the layer.
            plans: methods and ranks; kinds of ranks that a method lacks count as full.
        """
        largest, errors = largest_ranks(layer), np.zeros(len(plans))
        channel = np.array([plan.channel or largest["channel"] for plan in plans], np.int64)
        by_input = np.array(["input" in rank_kinds(plan.method) for plan in plans], bool)
        spatial = np.array([plan.spatial or largest["spatial"] for plan in plans], np.int64)
        errors[~by_input] = self.error(channel[~by_input], spatial[~by_input])
        if by_input.any():
            input_ = np.array([plan.input or largest["input"] for plan in plans], np.int64)
            errors[by_input] = self.input_error(channel[by_input], input_[by_input])
        return errors


def _interpolated(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    errors: NDArray[np.float64],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the errors at pairs of ranks from those at the measured ones, ``rows`` by ``columns``."""
    logarithms = np.log(np.maximum(errors, NEGLIGIBLE_ERROR))
    # Rank 0 keeps nothing.
    grid = (np.append(0, rows), np.append(0, columns))
    table = RegularGridInterpolator(grid, np.pad(logarithms, ((1, 0), (1, 0))))
    pairs = np.stack(np.broadcast_arrays(row, column), axis=-1)
    found = np.exp(table(pairs)).reshape(pairs.shape[:-1])
    return np.where(found <= 2 * NEGLIGIBLE_ERROR, 0.0, np.minimum(found, 1.0))


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
