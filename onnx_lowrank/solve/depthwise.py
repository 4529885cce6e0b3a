"""Solve a depthwise convolution anew for the inputs that it gets now, channel by channel.

    min over w, b   sum_i ( r(y_i) - r(w^T x_i + b) )^2  +  n r g || w - w0 ||^2

Every channel has a problem of its own with as many unknowns as the kernel has taps, so that all are solved side by side
and in closed form: least squares on the responses first, then Gauss-Newton steps on what is behind the activation. One
number of steps and one ridge a step serve all channels; held-out rows select them, and the original's weights compete.

| code     | meaning                                                         | shape        |
|----------|-----------------------------------------------------------------|--------------|
| inputs   | x, taps that the converted prefix delivers, then a one for b    | (c, n, t)    |
| targets  | y, responses of the original network                            | (c, n)       |
| wanted   | r(y)                                                            | (c, n)       |
| start    | w0 and b, of the original                                       | (c, t)       |
| scale    | g, mean square of a tap about its mean                          | (c,)         |

Use it behind layers that have lost channels: a depthwise filter scales and shifts what it gets, which is cheap to mend.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import Activation
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import blocks, on_host
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.linalg.threads import side_by_side
from onnx_lowrank.solve.reconstruct import MIN_ROWS, ROWS_PER_HELD_OUT_ROW

Floats = NDArray[np.float64]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # relative to the mean square of a tap
_STEPS = 3  # of Gauss-Newton at most
_MIN_GAIN = 1e-3  # of the error on held-out rows, relative, by a step; with less it is the last
_BLOCK_CHANNELS = 64  # solved side by side: enough for fast products, few enough to copy their rows
_MIN_RIDGE = 1e-8  # a channel may be silent


def solve_depthwise(layer: Layer, responses: LayerSamples) -> FactorChain:
    """Solve a depthwise convolution that keeps its shape.

    Args:
        layer: the original layer, with one filter for every channel.
        responses: its sampled rows.

    Returns:
        One convolution of the layer's shape, and its errors with the original's weights and solved.
    """
    start = np.concatenate([layer.weight.reshape(layer.filters, -1), layer.bias[:, None]], axis=1).astype(np.float64)
    parts = list(side_by_side(partial(_channels, layer, responses, start), blocks(layer.filters, _BLOCK_CHANNELS)))
    rows = responses.targets.responses.shape[0]
    solved = start if rows < MIN_ROWS else _selected(parts, rows - rows // ROWS_PER_HELD_OUT_ROW)
    of_parts = zip(parts, np.split(solved, np.cumsum([len(part.start) for part in parts])[:-1]), strict=True)
    lost = np.sum(list(side_by_side(_lost, of_parts)), axis=0)
    size = sum(float(np.sum(part.wanted.astype(np.float64) ** 2)) for part in parts)
    errors = SolveErrors(*(relative_error(each, size) for each in lost.tolist()))
    weight = solved[:, :-1].reshape(layer.weight.shape)
    return FactorChain((Convolution(weight, solved[:, -1], layer.geometry, layer.groups),), errors)


@dataclass(frozen=True, eq=False)
class _Channels:
    """Rows of some of the channels; see the table above."""

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]
    wanted: NDArray[np.float32]
    residual: NDArray[np.float32] | float
    activation: Activation
    start: Floats
    scale: Floats

    def squared_error(self, weights: Floats, rows: slice) -> float:
        """Return the squared error behind the activation with weights (c, t)."""
        activated, _ = self._activated(weights, rows)
        difference = (activated - self.wanted[:, rows]).ravel()
        return float(difference @ difference)

    def equations(self, weights: Floats | None, rows: slice) -> _Equations:
        """Return the equations of a Gauss-Newton step from weights (c, t), or of least squares on the responses."""
        if weights is None:
            slope = np.ones_like(self.targets[:, rows])
            missing = self.targets[:, rows] - self._responses(self.start, rows)
        else:
            activated, slope = self._activated(weights, rows)
            missing = self.wanted[:, rows] - activated + slope * self._responses(weights - self.start, rows)
        inputs = self.inputs[:, rows]
        scaled = (inputs * slope[..., None]).transpose(0, 2, 1)
        gram = (scaled @ scaled.transpose(0, 2, 1)).astype(np.float64)
        cross = (scaled @ missing[..., None]).astype(np.float64)
        return _Equations(self.start, gram, cross, inputs.shape[1] * self.scale)

    def _responses(self, weights: Floats, rows: slice) -> NDArray[np.float32]:
        responses: NDArray[np.float32] = (self.inputs[:, rows] @ weights.astype(np.float32)[..., None])[..., 0]
        return responses

    def _activated(self, weights: Floats, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return values and slopes behind the activation, which takes channels on the last axis."""
        residual = self.residual if isinstance(self.residual, float) else self.residual[:, rows]
        value, slope = self.activation.with_slope((self._responses(weights, rows) + residual).T)
        return value.T, slope.T


@dataclass(frozen=True, eq=False)
class _Equations:
    """Normal equations of the change of some channels' weights, ``d = w - w0``.

    Attributes:
        start: w0, shape (c, t).
        gram: shape (c, t, t).
        cross: shape (c, t, 1).
        pull: n g, what a ridge of 1 pulls each channel's taps with, shape (c,).
    """

    start: Floats
    gram: Floats
    cross: Floats
    pull: Floats

    def solved(self, ridge: float) -> Floats:
        """Return the weights (c, t); nothing pulls at the bias."""
        diagonal = np.repeat(ridge * self.pull[:, None], self.start.shape[1], axis=1)
        diagonal[:, -1] = 0
        least = _MIN_RIDGE * np.trace(self.gram, axis1=1, axis2=2) + np.finfo(np.float32).tiny
        ridges = np.eye(self.start.shape[1]) * (diagonal + least[:, None])[:, None, :]
        weights: Floats = self.start + np.linalg.solve(self.gram + ridges, self.cross)[..., 0]
        return weights


def _channels(layer: Layer, responses: LayerSamples, start: Floats, channels: slice) -> _Channels:
    """Return the rows of a few channels, channels first."""
    own, patches = responses.part(channels, channels).targets, responses.part(channels, channels).patches
    taps = patches[0 : len(patches)].reshape(len(patches), len(start[channels]), -1).transpose(1, 0, 2)
    inputs = np.concatenate([taps, np.ones((*taps.shape[:2], 1))], axis=2, dtype=np.float32)
    wanted = np.ascontiguousarray(on_host(own.responses).T, np.float32)
    offset = 0.0 if own.residual is None else np.ascontiguousarray(on_host(own.residual).T, np.float32)
    activation = layer.activation.part(channels)
    activated = activation((wanted + offset).T).T
    centred = inputs[..., :-1] - inputs[..., :-1].mean(axis=1, keepdims=True)
    scale = np.einsum("cnt,cnt->c", centred, centred).astype(np.float64) / centred[0].size
    return _Channels(inputs, wanted, activated, offset, activation, start[channels], scale)


def _selected(parts: list[_Channels], cut: int) -> Floats:
    """Return the weights of all channels (c, t): steps and ridges as the rows behind ``cut`` want them."""
    train, held_out = slice(0, cut), slice(cut, None)

    def step_of(pair: tuple[_Channels, Floats | None]) -> list[tuple[Floats, float]]:
        """Return the weights of a step with every ridge, and their errors on held-out rows."""
        part, weights = pair
        equations = part.equations(weights, train)
        return [(tried, part.squared_error(tried, held_out)) for tried in map(equations.solved, _RIDGES)]

    least = sum(side_by_side(lambda part: part.squared_error(part.start, held_out), parts))
    taken, ridges = 0, list[float]()
    current: list[Floats] | list[None] = [None] * len(parts)
    for step in range(1 + _STEPS):
        tried = list(side_by_side(step_of, list(zip(parts, current, strict=True))))
        errors = np.sum([[error for _, error in of_part] for of_part in tried], axis=0)
        best = int(np.argmin(errors))
        ridges.append(_RIDGES[best])
        current = [of_part[best][0] for of_part in tried]
        enough = errors[best] < (1 - _MIN_GAIN) * least
        if errors[best] < least:
            least, taken = errors[best], len(ridges)
        if step and not enough:  # least squares, which come first, know nothing of the activation
            break
    return np.concatenate(list(side_by_side(partial(_solved_on_all, ridges=ridges[:taken]), parts)))


def _lost(solved: tuple[_Channels, Floats]) -> list[float]:
    """Return the squared error of some channels on all rows with the original's weights, and with the solved ones."""
    part, weights = solved
    return [part.squared_error(each, slice(None)) for each in (part.start, weights)]


def _solved_on_all(part: _Channels, ridges: list[float]) -> Floats:
    """Return the weights of some channels after least squares and steps with these ridges on all rows."""
    weights: Floats | None = None
    for ridge in ridges:
        weights = part.equations(weights, slice(None)).solved(ridge)
    return part.start if weights is None else weights
