"""Solve a layer that reads fewer channels: what the others delivered is made good for by those that stay.

    min over W, b   sum_i || y_i - W^T z_i - b ||^2,   z_i the channels that stay

in two steps, each with a ridge that held-out rows select, since a layer of a thousand inputs is easily overfitted. The
first looks for what the original layer would deliver, the second for what it should::

    W1 = W0_S + (G_SS + r I)^-1 (G_S: W0 - G_SS W0_S)
    W  = W1   + (G_SS + r' I)^-1 (R_S - G_SS W1)

| code     | meaning                                                          | shape  |
|----------|------------------------------------------------------------------|--------|
| inputs   | delivered by the converted prefix, of all channels               | (n, m) |
| targets  | y, responses of the original network                             | (n, d) |
| gram     | G, centred second moments of the inputs                          | (m, m) |
| cross    | R^T, of targets with inputs                                      | (d, m) |
| S        | the inputs that stay                                             | (k,)   |
| W0, b    | the original's weight, and a new bias, which takes up the means  |        |

Use it where a layer is thin or 1 x 1 already: low rank adds a layer there, fewer channels take work away from three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from onnx_lowrank.layers.channel_group import in_turns
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LayerSamples, Patches, PatchProbe, TargetResponses
from onnx_lowrank.layers.width_losses import WidthLosses
from onnx_lowrank.linalg.arrays import on_host, squares
from onnx_lowrank.linalg.elimination import elimination_order
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.linalg.row_blocks import over_row_blocks
from onnx_lowrank.linalg.search import lowest
from onnx_lowrank.solve.activated_map import AffineMap, refined_map
from onnx_lowrank.solve.further_readers import further_weights, kept_by
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.reconstruct import MIN_ROWS, ROWS_PER_HELD_OUT_ROW

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Real = TypeVar("Real", Floats, Floats32)

RIDGES = tuple(10.0**power for power in range(-4, 5))  # relative to the mean diagonal of G; late layers want 0.1 to 10
WIDTH_SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16, 1.0)  # losses are measured at
_REFINING_RIDGE = 1.0  # where the linear solution has none
_MAX_ERROR_ROWS = 4_000  # that the errors in reports are measured on; nothing else depends on these
_MAX_INPUTS = 1300  # of a layer that is solved anew for nothing but accuracy
DAMPINGS = (1e-3, 1e-1, 1.0)  # that channels are ranked with


@dataclass(frozen=True)
class WidthEffort:
    """How much is tried.

    Attributes:
        ridges: relative to the mean diagonal of G.
        shares: of the channels, that losses are measured at.
        dampings: that channels are ranked with.
        refined: whether maps are refined on the error after the activation.
    """

    ridges: tuple[float, ...] = RIDGES
    shares: tuple[float, ...] = WIDTH_SHARES
    dampings: tuple[float, ...] = DAMPINGS
    refined: bool = True


FULL_EFFORT = WidthEffort()
QUICK_EFFORT = WidthEffort(
    (1e-2, 1.0, 1e2), (1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 1.0), (1e-1,), refined=False
)  # for a preview


@dataclass(frozen=True, eq=False)
class _Part:
    """Moments of some rows, with what the squared error of a map on them takes."""

    moments: Moments
    squares: float  # of the centred targets, summed

    @staticmethod
    def of(inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> _Part:
        moments = Moments.of(inputs, targets, single=True)
        mean = moments.target_mean.astype(np.float32)
        return _Part(moments, sum(over_row_blocks(lambda rows: float(squares(targets[rows] - mean)), targets)))

    def squared_error(self, stay: NDArray[np.int64], mean: Floats, target_mean: Floats) -> Callable[[Floats32], float]:
        """Return ``W -> sum || y - t - W^T (z - u) ||^2`` for means u (k,) and t (d,) of other rows."""
        own = self.moments
        gram, cross = _square(own.gram, stay), _columns(own.cross, stay).T.astype(np.float32, order="C")
        shift, target_shift = own.input_mean[stay] - mean, own.target_mean - target_mean

        def error(weight: Floats32) -> float:
            offset = target_shift - shift @ weight
            inside = self.squares + np.sum(weight * (gram @ weight - 2 * cross))
            return float(inside + own.count * (offset @ offset))

        return error


@dataclass(frozen=True, eq=False)
class WidthSelection:
    """Ridges that do best on held-out rows.

    Attributes:
        ridge: r.
        second: r'; None where the map that makes good for missing channels does best.
        weight: solved on the other rows, in float32, shape (k, d).
        bias: shape (d,).
        error: squared, on the held-out rows.
    """

    ridge: float
    second: float | None
    weight: Floats32
    bias: Floats
    error: float


class WidthRegression:
    """Regression of a layer's responses on part of its inputs.

    Args:
        inputs: rows of the layer's input, shape (n, m), ordered by image.
        targets: responses wanted of it, shape (n, d).
        weight: the original's, shape (m, d).
        ridges: to select from.

    Attributes:
        held_out_rows: slice of the rows that ridges are judged by.
    """

    def __init__(
        self,
        inputs: NDArray[np.float32],
        targets: NDArray[np.float32],
        weight: Floats,
        ridges: tuple[float, ...] = RIDGES,
    ) -> None:
        cut = len(inputs) - len(inputs) // ROWS_PER_HELD_OUT_ROW
        self._weight, self._ridges = weight, ridges
        self._train, self._held_out = _Part.of(inputs[:cut], targets[:cut]), _Part.of(inputs[cut:], targets[cut:])
        self.held_out_rows = slice(cut, None)

    @property
    def train(self) -> Moments:
        """Moments of the rows that ridges are not judged by."""
        return self._train.moments

    def select(self, stay: NDArray[np.int64], near: WidthSelection | None = None) -> WidthSelection:
        """Select both ridges for the inputs that stay, and solve on the rows that they are not judged by.

        The error falls and rises again along the ridges, so it is followed downhill, in float32: twice as fast, and
        held-out rows cannot tell the difference.

        Args:
            stay: the inputs that stay, shape (k,).
            near: selected for about as many inputs, to begin with; None begins in the middle.
        """
        moments = self.train
        mean, target_mean = moments.input_mean[stay], moments.target_mean
        gram, error = _square(moments.gram, stay), self._held_out.squared_error(stay, mean, target_mean)

        def tried(prior: Floats32, missing: Floats32, ridge: float) -> tuple[float, Floats32]:
            try:
                weight = _ridge(moments, gram, prior, missing, ridge)
            except LinAlgError:  # inputs that are all but dependent, and too small a ridge for float32
                return inf, prior
            return error(weight), weight

        own = self._weight[stay].astype(np.float32)
        missing = (moments.gram[stay] @ self._weight).astype(np.float32) - gram @ own
        first = lowest(partial(tried, own, missing), self._ridges, None if near is None else near.ridge)
        prior = first.result
        missing = _columns(moments.cross, stay).T.astype(np.float32) - gram @ prior
        second = lowest(
            partial(tried, prior, missing), self._ridges, None if near is None else near.second or self._ridges[-1]
        )
        if first.error <= second.error:
            return WidthSelection(first.value, None, prior, target_mean - mean @ prior, first.error)
        weight = second.result
        return WidthSelection(first.value, second.value, weight, target_mean - mean @ weight, second.error)

    def solve(self, stay: NDArray[np.int64], rows: Rows, *, refined: bool = True) -> AffineMap:
        """Return the map of the inputs that stay, solved on all rows with the ridges selected, and then refined.

        Args:
            stay: the inputs that stay, shape (k,).
            rows: all rows, with these inputs.
            refined: whether to refine it on the error after the activation.
        """
        selected = self.select(stay)
        moments = self.train + self._held_out.moments
        gram, weight = _columns(moments.gram[stay], stay), self._weight[stay]
        weight = _ridge(moments, gram, weight, moments.gram[stay] @ self._weight - gram @ weight, selected.ridge)
        if selected.second is not None:
            weight = _ridge(moments, gram, weight, _columns(moments.cross, stay).T - gram @ weight, selected.second)
        linear = AffineMap(weight, moments.target_mean - moments.input_mean[stay] @ weight)
        if not refined:
            return linear
        return refined_map(linear, rows, gram, _REFINING_RIDGE if selected.second is None else selected.second)


def _ridge(moments: Moments, gram: Real, prior: Real, missing: Real, ridge: float) -> Real:
    """Return ``prior + (G_SS + r I)^-1 missing``, the ridge relative to the mean diagonal of G."""
    scale = float(np.trace(moments.gram)) / len(moments.gram) or 1.0
    damped = gram.copy()
    np.einsum("ii->i", damped)[:] += ridge * scale
    root = cho_factor(damped.T, overwrite_a=True, check_finite=False)  # in the order that LAPACK wants
    solved: Real = prior + cho_solve(root, missing, check_finite=False)
    return solved


def solve_width(
    layer: Layer, responses: LayerSamples, kept: NDArray[np.int64], effort: WidthEffort = FULL_EFFORT
) -> FactorChain:
    """Solve a layer that reads only some of its channels.

    Args:
        layer: the original layer, without groups.
        responses: its sampled rows.
        kept: the channels that stay, ascending, shape (k,); all of them to solve a layer anew that keeps its shape.
        effort: how many ridges are tried, and whether the map is refined.

    Returns:
        One convolution of the layer's shape, zero for all other channels; its errors with the original's weight on
        the channels that stay, and solved, on evenly spread rows.

    References:
        He, Zhang, Sun 2017, arXiv:1707.06168.
    """
    inputs, targets = _rows(responses.patches), _on_host(responses.targets)
    weight, stay = _matrix(layer), _inputs_of(layer, kept)
    rows = Rows.of(targets, _columns(inputs, stay), layer.activation)
    original = AffineMap(weight[stay], np.asarray(layer.bias, np.float64))
    solved = original
    if len(inputs) >= MIN_ROWS:
        regression = WidthRegression(inputs, targets.responses, weight, effort.ridges)
        solved = regression.solve(stay, rows, refined=effort.refined)
    some = rows.spread(_MAX_ERROR_ROWS)
    size = sum(some.over_blocks(lambda block: float(squares(block.targets))))
    errors = SolveErrors(*(relative_error(each.error(some), size) for each in (original, solved)))
    full = np.zeros_like(weight)
    full[stay] = solved.weight
    convolution = Convolution(full.T.reshape(layer.weight.shape), solved.bias, layer.geometry)
    return FactorChain((convolution,), errors, kept=kept if len(kept) < layer.channels else None)


def can_be_solved_anew(layer: Layer) -> bool:
    """Return whether a layer that keeps its shape can have its weights solved for the inputs that it gets now.

    Not where that takes long, or where its weight is stored with others or in few bits, which would be lost.
    """
    small = layer.depthwise or (layer.groups == 1 and layer.weight[0].size <= _MAX_INPUTS)
    return small and not layer.shared_with and layer.compressed is None


class _HeldOutErrors:
    """Errors of a layer after the activation where channels of its input are left out, on rows not solved on."""

    def __init__(self, layer: Layer, targets: TargetResponses, probe: PatchProbe, ridges: tuple[float, ...]) -> None:
        targets = _on_host(targets)
        inputs, responses = _rows(probe.patches), targets.responses[probe.rows]
        self.regression = WidthRegression(inputs, responses, _matrix(layer), ridges)
        rows = self.regression.held_out_rows
        self._layer, self._inputs = layer, inputs[rows]
        self._offset = 0.0 if targets.residual is None else targets.residual[probe.rows[rows]]
        self._wanted = layer.activation(responses[rows] + self._offset)
        self._size = float(np.sum((self._wanted - self._wanted.mean(axis=0)) ** 2)) or 1.0
        self._last: WidthSelection | None = None

    def __call__(self, kept: NDArray[np.int64]) -> float:
        """Return the relative squared error with the channels kept, ascending; ridges are sought near the last ones."""
        stay = _inputs_of(self._layer, kept)
        solved = self._last = self.regression.select(stay, self._last)
        responses = _columns(self._inputs, stay) @ solved.weight + solved.bias.astype(np.float32) + self._offset
        return float(np.sum((self._layer.activation(responses) - self._wanted) ** 2)) / self._size


def measure_width_losses(
    layer: Layer,
    targets: TargetResponses,
    others: Sequence[tuple[Layer, TargetResponses]] = (),
    effort: WidthEffort = FULL_EFFORT,
) -> WidthLosses | None:
    """Measure what leaving out channels of a layer's input costs, the others solved to make good for them.

    Args:
        layer: the original layer, without groups.
        targets: its responses in the original network, with input patches of some of them.
        others: the further readers of the same channels, but for those for a gate; what they lose counts too.
        effort: how much is tried.

    Returns:
        The errors on held-out rows, those of all readers added up; None where there are too few rows.
    """
    probes = [each.probe for each in (targets, *(theirs for _, theirs in others))]
    if any(probe is None or len(probe.rows) < MIN_ROWS for probe in probes):
        return None
    probe, *further = [probe for probe in probes if probe is not None]
    own = _HeldOutErrors(layer, targets, probe, effort.ridges)
    columns = [further_weights(layer, other) for other, _ in others]
    order = in_turns(layer.read_groups, _best_order(layer, own.regression, _matrix(layer), columns, effort.dampings))
    errors_of = [
        (other, _HeldOutErrors(other, theirs, each, effort.ridges))
        for (other, theirs), each in zip(others, further, strict=True)
    ]
    widths = np.unique([max(layer.min_width, round(share * len(order))) for share in effort.shares])
    errors = []
    for width in widths[:-1].tolist():
        kept = np.sort(order[len(order) - width :])
        errors.append(own(kept) + sum(error(kept_by(layer, kept, other)) for other, error in errors_of))
    falling = np.minimum.accumulate([*errors, 0.0])
    return WidthLosses(order, widths, np.minimum(falling, 1.0))


def _best_order(
    layer: Layer,
    regression: WidthRegression,
    weight: Floats,
    others: Sequence[Floats],
    dampings: tuple[float, ...],
) -> NDArray[np.int64]:
    """Return the order of elimination, with the damping that does best on held-out rows with half of the channels.

    ``others`` are the weights that further readers have for the same inputs, shape (m, e) each.
    """
    train, block, cross = regression.train, layer.weight[0, 0].size, regression.train.cross.T
    if others:
        every = [(cross, weight), *((train.gram @ each, each) for each in others)]
        sizes = [float(np.sum(each * (train.gram @ each))) ** 0.5 or 1.0 for _, each in every]
        cross, weight = (
            np.concatenate([pair[part] / size for pair, size in zip(every, sizes, strict=True)], axis=1)
            for part in (0, 1)
        )
    if block > 1 or len(dampings) == 1:  # the former takes long
        return elimination_order(train.gram, cross, weight, block, dampings[0])
    orders = [elimination_order(train.gram, cross, weight, block, damping) for damping in dampings]

    def error(order: NDArray[np.int64]) -> float:
        return regression.select(_inputs_of(layer, np.sort(order[len(order) // 2 :]))).error

    return min(orders, key=error)


def _rows(patches: Patches) -> NDArray[np.float32]:
    """Return patches as rows, channel by channel, shape (n, c * kh * kw)."""
    every = patches[0 : len(patches)]
    return np.ascontiguousarray(every.reshape(len(every), -1), np.float32)


def _matrix(layer: Layer) -> Floats:
    """Return the layer's weight as a map of rows, shape (c * kh * kw, d)."""
    return np.asarray(layer.weight, np.float64).reshape(layer.filters, -1).T


def _inputs_of(layer: Layer, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the inputs of a row that belong to channels, ascending."""
    block = layer.weight[0, 0].size
    inputs: NDArray[np.int64] = (channels[:, None] * block + np.arange(block)).ravel()
    return inputs


def _columns(rows: Real, columns: NDArray[np.int64]) -> Real:
    """Return some columns, the rows themselves where these are all; `take` is five times as fast as an index."""
    some: Real = rows if len(columns) == rows.shape[1] else np.take(rows, columns, axis=1)
    return some


def _square(matrix: Floats, some: NDArray[np.int64]) -> Floats32:
    """Return some rows of a matrix, and of these the same columns, in float32."""
    return _columns(matrix[some], some).astype(np.float32)


def _on_host(targets: TargetResponses) -> TargetResponses:
    """Return the targets in NumPy, without the probe, and without a copy where they are there."""
    residual = None if targets.residual is None else on_host(targets.residual, np.float32)
    return TargetResponses(on_host(targets.responses, np.float32), residual)
