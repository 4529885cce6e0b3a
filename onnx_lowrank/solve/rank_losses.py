"""Measure what a pair of ranks costs in accuracy: the error after the activation, on a few held-out rows.

The factors that ranks are selected by are closed-form truncations: the leading vertical filters for the columns that
the layer sees (spatial rank), then the leading directions of its responses (channel rank). Solving on data does better
than they do at every pair of ranks, and about equally so. The error of a pair is::

    error(d', d'') = mean || r(Y + s) - r(Y' + s) ||^2 / mean || r(Y + s) - mean ||^2,   0 .. 1

the numerator over the images that come last, of which the truncations know nothing, the denominator over all. On the
rows that made it a truncation looks too good, most so in wide layers: with a quarter of their spatial rank the last
layers of VGG-16 lose three times as much on other images, an early one a third more. Errors are measured at some pairs
and interpolated between them, in the logarithm. Pairs of a channel and an input rank are those of the layer with its
kernel in a row (`kernel_row`).

| code      | meaning                                               | shape        |
|-----------|-------------------------------------------------------|--------------|
| known     | rows that directions and vertical filters come from   | (n - h, d)   |
| held_out  | rows that errors are measured on                      | (h, d)       |
| responses | Y of some of these                                    | (m, d)       |
| features  | vertical features of the patches, leading ones first  | (m, kw, k)   |
| errors    | at the measured ranks, channel by spatial             | (a, b)       |

Use `solve_layer` for the error of a solution: this one ranks pairs, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses, energy_shares
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.arrays import Array, like, namespace, on_host, squares
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.spatial_basis import column_features, vertical_factors, vertical_moments
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.kernel_row import layer_in_a_row, targets_in_a_row

MEASURED_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)  # of the largest rank
MAX_ROWS = 500  # that errors are measured on
IMAGES_PER_HELD_OUT_IMAGE = 5
# Errors on one or two images are noise: a detector with random weights, eight images, lost a half more by them.
MIN_SPLIT_IMAGES = 20


def measure_rank_losses(
    layer: Layer, targets: TargetResponses, images: int, rows: int = MAX_ROWS, *, mixes_inputs: bool = False
) -> RankLosses:
    """Measure what pairs of ranks cost.

    Args:
        layer: the layer.
        targets: its responses in the original network, in NumPy or on the device to work on; spatial ranks are
            measured where there is a probe.
        images: that the rows come from, as many from each. A fifth of them is held out; of fewer than
            `MIN_SPLIT_IMAGES` none, and errors are measured on the rows that all else comes from.
        rows: at most to measure errors on, evenly spread over those held out; directions and filters come from all
            others.
        mixes_inputs: whether input ranks are measured too, where there is a probe.

    Returns:
        The errors; those of all groups together where there are several, by the ranks of each.
    """
    images_held_out = images // IMAGES_PER_HELD_OUT_IMAGE if images >= MIN_SPLIT_IMAGES else 0
    cut = len(targets.responses) - len(targets.responses) // images * images_held_out
    spectra, sizes, parts, in_rows = [], [], [], []
    for part, inputs, outputs in layer.parts:
        of_part = targets.part(inputs, outputs)
        known, others = of_part.apart(cut) if images_held_out else (of_part, of_part)
        moments = _moments(known.responses)
        spectra.append(_spectrum(moments + _moments(others.responses) if images_held_out else moments))
        sizes.append(_variance(part, of_part, rows))
        directions = _Directions.of(moments, known.responses)
        parts.append(_measure(part, known, others, directions, rows))
        if mixes_inputs:
            row, known, others = layer_in_a_row(part), targets_in_a_row(known), targets_in_a_row(others)
            in_rows.append(_measure(row, known, others, directions, rows))
    channel, spatial, table = _of_all(parts, sum(sizes))
    losses = RankLosses(channel, spatial, table, energy_shares(np.sum(spectra, axis=0)))
    if not mixes_inputs:
        return losses
    _, input_, table = _of_all(in_rows, sum(sizes))
    return replace(losses, input=input_, input_errors=table)


def _of_all(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]], size: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return channel ranks, spatial ranks and relative squared errors, (channel, spatial), of all groups together."""
    errors = np.sum([part[2] for part in parts], axis=0) / (size or 1.0)
    table = np.minimum.accumulate(np.minimum.accumulate(errors.T, axis=0), axis=1)
    return parts[0][0], parts[0][1], np.minimum(table, 1.0)


def _measure(
    layer: Layer, known: TargetResponses, held_out: TargetResponses, directions: _Directions, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return channel ranks, spatial ranks, and the mean squared errors of one group, (spatial, channel)."""
    probe, largest, xp = held_out.probe, largest_ranks(layer), namespace(known.responses)
    chosen = _evenly_spread(len(held_out.responses if probe is None else probe.rows), rows)
    responses, offset = _rows(held_out, chosen if probe is None else probe.rows[chosen])
    if probe is None or known.probe is None or not layer.separable:
        spatial, approximations = np.array([largest["spatial"]]), iter([responses])
    else:
        spatial = _ranks(largest["spatial"])
        approximations = _approximations(layer, known.probe.patches, probe.patches[chosen], spatial, responses)
    activated = layer.activation(responses + offset)
    channel, errors, shift = _ranks(layer.filters), [], xp.mean(responses, axis=0) - directions.mean
    for approximation in approximations:
        centred = approximation - xp.mean(approximation, axis=0) + shift
        truncated = directions.truncations(centred, channel)
        errors.append([float(squares(layer.activation(each + offset) - activated)) / len(chosen) for each in truncated])
    return channel, spatial, np.array(errors)


def _approximations(
    layer: Layer, known: NDArray[Any], held_out: NDArray[Any], ranks: NDArray[np.int64], template: Array
) -> Iterator[Array]:
    """Yield responses to patches, without bias, with the leading vertical filters of each ascending rank.

    Args:
        layer: the layer.
        known: the patches that filters come from, shape (any, c, kh, kw).
        held_out: those to respond to, shape (m, c, kh, kw).
        ranks: ascending.
        template: an array in the library, on the device and of the float type to work in, shape (m, d).
    """
    basis, horizontal = vertical_factors(layer.weight, int(ranks[-1]), vertical_moments(known, template))
    features, horizontal = column_features(held_out, basis, template), like(horizontal, template)
    total, done = namespace(template).zeros_like(template), 0
    for rank in ranks.tolist():
        more = features[:, :, done:rank].reshape(len(held_out), -1)
        total = total + more @ horizontal[:, :, done:rank].reshape(layer.filters, -1).T
        done = rank
        yield total


def _variance(layer: Layer, targets: TargetResponses, rows: int) -> float:
    """Return the mean squared distance of activated responses from their mean, on evenly spread rows."""
    responses, offset = _rows(targets, _evenly_spread(len(targets.responses), rows))
    activated = layer.activation(responses + offset)
    return float(squares(activated - namespace(activated).mean(activated, axis=0))) / len(activated)


def _evenly_spread(available: int, rows: int) -> NDArray[np.int64]:
    """Return the numbers of so many rows at most."""
    return np.linspace(0, available - 1, min(rows, available)).astype(np.int64)


def _rows(targets: TargetResponses, numbers: NDArray[np.int64]) -> tuple[Array, Array | float]:
    """Return some of the responses, and what is added to them."""
    xp = namespace(targets.responses)
    numbers = xp.asarray(numbers, device=targets.responses.device)
    residual = targets.residual
    return xp.take(targets.responses, numbers, axis=0), 0.0 if residual is None else xp.take(residual, numbers, axis=0)


@dataclass(frozen=True, eq=False)
class _Directions:
    """Principal directions of responses.

    Attributes:
        directions: leading one first, shape (d, d).
        mean: of the responses, shape (d,).
    """

    directions: Array
    mean: Array

    @staticmethod
    def of(moments: Moments, template: Array) -> _Directions:
        """Return the directions on the device and in the float type of ``template``."""
        directions = leading_directions(moments.gram, len(moments.gram))
        return _Directions(like(directions, template), like(moments.input_mean, template))

    def truncations(self, centred: Array, ranks: NDArray[np.int64]) -> Iterator[Array]:
        """Yield responses, given without their mean, in the leading directions of each ascending rank."""
        projected, response, done = centred @ self.directions, self.mean, 0
        for rank in ranks.tolist():
            response = response + projected[:, done:rank] @ self.directions[:, done:rank].T
            done = rank
            yield response


def _moments(responses: Array) -> Moments:
    """Return the moments of responses by themselves."""
    return Moments.of(responses, responses[:, :0], single=True)


def _spectrum(moments: Moments) -> NDArray[np.float64]:
    """Return the eigenvalues of the responses' scatter matrix, descending, shape (d,)."""
    with one_thread():
        eigenvalues = on_host(namespace(moments.gram).linalg.eigvalsh(moments.gram))
    return eigenvalues[::-1].clip(min=0)


def _ranks(largest: int) -> NDArray[np.int64]:
    """Return the ranks to measure, ascending."""
    return np.unique([max(1, round(share * largest)) for share in MEASURED_SHARES])
