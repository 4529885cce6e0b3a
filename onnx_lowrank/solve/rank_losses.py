"""Measure what a pair of ranks costs in accuracy: the error after the activation, on a few rows.

The factors that ranks are selected by are closed-form truncations: the leading vertical filters for the columns that
the layer sees (spatial rank), then the leading directions of its responses (channel rank). Solving on data does better
than they do at every pair of ranks, and about equally so. The error of a pair is::

    error(d', d'') = || r(Y + s) - r(Y' + s) ||_F^2 / || r(Y + s) - mean ||_F^2,   0 .. 1

measured at some pairs and interpolated between them, in the logarithm. Pairs of a channel and an input rank are those
of the layer with its kernel in a row (`kernel_row`).

| code      | meaning                                              | shape        |
|-----------|------------------------------------------------------|--------------|
| responses | Y                                                    | (m, d)       |
| features  | vertical features of the patches, leading ones first | (m, kw, k)   |
| errors    | at the measured ranks, channel by spatial            | (a, b)       |

Use `solve_layer` for the error of a solution: this one ranks pairs, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses, energy_shares
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.arrays import Array, in_float64, like, namespace, on_host, squares
from onnx_lowrank.linalg.spatial_basis import column_features, horizontal_map, vertical_basis, vertical_moments
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.kernel_row import layer_in_a_row, targets_in_a_row

MEASURED_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)  # of the largest rank
MAX_ROWS = 500  # that errors are measured on


def measure_rank_losses(
    layer: Layer, targets: TargetResponses, rows: int = MAX_ROWS, *, mixes_inputs: bool = False
) -> RankLosses:
    """Measure what pairs of ranks cost.

    Args:
        layer: the layer.
        targets: its responses in the original network, in NumPy or on the device to work on; spatial ranks are
            measured where there is a probe.
        rows: at most to measure errors on, evenly spread; directions and filters come from all there are.
        mixes_inputs: whether input ranks are measured too, where there is a probe.

    Returns:
        The errors; those of all groups together where there are several, by the ranks of each.
    """
    spectra, parts, in_rows = [], [], []
    for part, inputs, outputs in layer.parts:
        of_part = targets.part(inputs, outputs)
        eigenvalues, directions = _spectrum(of_part.responses)
        spectra.append(eigenvalues)
        parts.append(_measure(part, of_part, directions, rows))
        if mixes_inputs:
            in_rows.append(_measure(layer_in_a_row(part), targets_in_a_row(of_part), directions, rows))
    channel, spatial, table = _of_all(parts)
    losses = RankLosses(channel, spatial, table, energy_shares(np.sum(spectra, axis=0)))
    if not mixes_inputs:
        return losses
    _, input_, table = _of_all(in_rows)
    return replace(losses, input=input_, input_errors=table)


def _of_all(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], float]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return channel ranks, spatial ranks and relative squared errors, (channel, spatial), of all groups together."""
    size = sum(part[3] for part in parts) or 1.0
    errors = np.sum([part[2] for part in parts], axis=0) / size
    table = np.minimum.accumulate(np.minimum.accumulate(errors.T, axis=0), axis=1)
    return parts[0][0], parts[0][1], np.minimum(table, 1.0)


def _measure(
    layer: Layer, targets: TargetResponses, directions: Array, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], float]:
    """Return channel ranks, spatial ranks, squared errors, (spatial, channel), of one group, and of keeping nothing."""
    probe, largest, xp = targets.probe, largest_ranks(layer), namespace(targets.responses)
    available = len(targets.responses if probe is None else probe.rows)
    chosen = np.linspace(0, available - 1, min(rows, available)).astype(np.int64)
    row_numbers = xp.asarray(chosen if probe is None else probe.rows[chosen], device=targets.responses.device)
    responses = xp.take(targets.responses, row_numbers, axis=0)
    offset = 0.0 if targets.residual is None else xp.take(targets.residual, row_numbers, axis=0)
    if probe is None or not layer.separable:
        spatial, approximations = np.array([largest["spatial"]]), iter([responses])
    else:
        spatial = _ranks(largest["spatial"])
        approximations = _approximations(layer, probe.patches, chosen, spatial, responses)
    activated = layer.activation(responses + offset)
    channel, errors = _ranks(layer.filters), []
    mean, own_mean = xp.mean(targets.responses, axis=0), xp.mean(responses, axis=0)
    for approximation in approximations:
        projected = (approximation - xp.mean(approximation, axis=0) + (own_mean - mean)) @ directions
        column = []
        for rank in channel.tolist():
            response = projected[:, :rank] @ directions[:, :rank].T + mean
            column.append(float(squares(layer.activation(response + offset) - activated)))
        errors.append(column)
    return channel, spatial, np.array(errors), float(squares(activated - xp.mean(activated, axis=0)))


def _approximations(
    layer: Layer, patches: NDArray[Any], chosen: NDArray[np.int64], ranks: NDArray[np.int64], template: Array
) -> Iterator[Array]:
    """Yield responses to the chosen patches, without bias, with the leading vertical filters of each ascending rank."""
    moments = vertical_moments(patches, template)
    basis = vertical_basis(layer.weight, int(ranks[-1]), moments)
    features = column_features(patches[chosen], basis, template)
    horizontal = like(horizontal_map(layer.weight, basis, moments), template)
    total, done = namespace(template).zeros_like(template), 0
    for rank in ranks.tolist():
        more = features[:, :, done:rank].reshape(len(chosen), -1)
        total = total + more @ horizontal[:, :, done:rank].reshape(layer.filters, -1).T
        done = rank
        yield total


def _spectrum(responses: Array) -> tuple[NDArray[np.float64], Array]:
    """Return eigenvalues of the responses' scatter matrix, shape (d,), and their directions, leading ones first."""
    xp = namespace(responses)
    centred = responses - xp.mean(responses, axis=0)
    covariance = in_float64(centred.T @ centred, responses)
    directions = leading_directions(covariance, len(covariance))
    # v' C v of all of them costs next to nothing compared with the decomposition.
    eigenvalues = on_host(xp.sum(directions * (covariance @ directions), axis=0))
    return np.sort(eigenvalues.clip(min=0))[::-1], like(directions, responses)


def _ranks(largest: int) -> NDArray[np.int64]:
    """Return the ranks to measure, ascending."""
    return np.unique([max(1, round(share * largest)) for share in MEASURED_SHARES])
