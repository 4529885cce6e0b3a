"""Measured cost: the milliseconds of a layer's chains, measured at some ranks and interpolated between them.

Kernels process channels in blocks, so time rises in steps of a block: ranks count in blocks, rounded up. With s spatial
and c channel blocks a chain (vertical, horizontal and last convolution) takes about ``a + b s + (e + f s) c``. For few
blocks that is less accurate, so the measured grid is dense there; elsewhere bilinear interpolation is exact for it.
Three-way chains that save little take longest to measure and are hardly ever chosen: their times are extrapolated.

| code     | meaning                                      | shape  |
|----------|----------------------------------------------|--------|
| spatial  | measured numbers of spatial or input blocks  | (a,)   |
| channel  | measured numbers of channel blocks           | (b,)   |
| times    | milliseconds of the chains with these blocks | (a, b) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from onnx_lowrank.layers.cost import chain_macs
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import FACTORIZATIONS, TWO_WAY, LayerPlan, largest_ranks, rank_kinds

_MEASURED_BLOCKS = (1, 2, 4, 16)  # and the largest number that saves multiply-adds
_MAX_SHARE = 0.75  # of the layer's multiply-adds, in three-way chains that are measured


class ChainLatency:
    """Milliseconds of a layer's chains at any ranks.

    Args:
        layer: the layer.
        methods: factorizations allowed.
        block: channels that kernels process at a time.
    """

    def __init__(self, layer: Layer, methods: Sequence[str], block: int) -> None:
        self._layer, self._block = layer, block
        replacing = {each for method in methods for each in TWO_WAY.get(method, ())}  # three-way ones
        methods = [method for method in (*FACTORIZATIONS, "width") if method in {*methods, *replacing}]
        self._grids = {method: tuple(_grid(layer, method, kind, block) for kind in _axes(method)) for method in methods}
        self._times: dict[str, NDArray[np.float64]] = {}
        self._kept = inf

    def to_measure(self) -> Iterator[LayerPlan]:
        """Yield the plans that have to be timed, the layer itself first."""
        yield LayerPlan(self._layer.name)
        for method in self._grids:
            yield from self._plans(method).values()

    def learn(self, milliseconds: Callable[[LayerPlan], float]) -> None:
        """Take the measured times and interpolate between them.

        Args:
            milliseconds: time of each of the `to_measure`.
        """
        self._kept = milliseconds(LayerPlan(self._layer.name))
        for method, (spatial, channel) in self._grids.items():
            times = np.full((len(spatial), len(channel)), inf)
            for place, plan in self._plans(method).items():
                times[place] = milliseconds(plan)
            # Lower ranks never take longer: where they did, other work disturbed the measurement.
            for axis in (0, 1):
                times = np.flip(np.minimum.accumulate(np.flip(times, axis), axis), axis)
            self._times[method] = _interpolated(spatial, channel, _extrapolated(spatial, channel, times))

    def __call__(self, _: Layer, plan: LayerPlan) -> float:
        """Return the milliseconds of the layer as planned (a `Cost`); infinite beyond the largest measured ranks."""
        if plan.method == "kept":
            return self._kept
        times = self._times[plan.method]
        ranks = (getattr(plan, kind) for kind in _axes(plan.method))
        row, column = (-(-(rank or self._block) // self._block) - 1 for rank in ranks)
        inside = row < times.shape[0] and column < times.shape[1]
        return float(times[row, column]) if inside else inf

    def _plans(self, method: str) -> dict[tuple[int, int], LayerPlan]:
        """Return the plans to measure by their places in the grid."""
        largest = largest_ranks(self._layer)
        plans = {}
        kinds = _kinds(method)
        for (row, spatial), (column, channel) in product(*map(enumerate, self._grids[method])):
            blocks = dict(zip(_axes(method), (spatial, channel), strict=True))
            ranks: dict[str, Any] = {kind: min(blocks[kind] * self._block, largest[kind]) for kind in kinds}
            plan = LayerPlan(self._layer.name, method, **ranks)
            is_guessed = len(kinds) > 1 and max(row, column) > 1
            if not is_guessed or chain_macs(self._layer, plan) <= _MAX_SHARE * self._layer.macs:
                plans[row, column] = plan
        return plans


def _kinds(method: str) -> tuple[str, ...]:
    """Return the kinds of ranks that a method has, widths among them."""
    return ("width",) if method == "width" else rank_kinds(method)


def _axes(method: str) -> tuple[str, str]:
    """Return the kinds of rank along both axes of a method's table; there is one block along those it lacks."""
    return "input" if "input" in _kinds(method) else "spatial", "width" if method == "width" else "channel"


def _grid(layer: Layer, method: str, kind: str, block: int) -> list[int]:
    """Return the numbers of blocks to measure of one kind of rank, up to the largest that saves multiply-adds."""
    kinds = _kinds(method)
    if kind not in kinds:
        return [1]
    largest = largest_ranks(layer)
    lowest: dict[str, Any] = {other: min(block, largest[other]) for other in kinds}

    def saves(blocks: int) -> bool:
        ranks = lowest | {kind: min(blocks * block, largest[kind])}
        return chain_macs(layer, LayerPlan(layer.name, method, **ranks)) < layer.macs

    top = next((blocks for blocks in range(-(-largest[kind] // block), 1, -1) if saves(blocks)), 1)
    return sorted({*(blocks for blocks in _MEASURED_BLOCKS if blocks < top), top})


def _extrapolated(spatial: list[int], channel: list[int], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times with those that are infinite on the line through two others, no less than what they follow."""
    times = times.copy()
    for row, column in zip(*np.nonzero(np.isinf(times)), strict=True):
        if row > 1:
            known, line, at = spatial, times[:, column], row
        else:
            known, line, at = channel, times[row], column
        slope = (line[at - 1] - line[at - 2]) / (known[at - 1] - known[at - 2])
        lower = [times[row - 1, column]] if row else []
        lower += [times[row, column - 1]] if column else []
        times[row, column] = max(line[at - 1] + slope * (known[at] - known[at - 1]), *lower)
    return times


def _interpolated(spatial: list[int], channel: list[int], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times at every number of blocks from those at some."""
    rows, columns = np.arange(1, spatial[-1] + 1), np.arange(1, channel[-1] + 1)
    # Interpolation needs two points per axis: a single one is doubled.
    if len(spatial) == 1:
        spatial, times = [spatial[0], spatial[0] + 1], np.repeat(times, 2, axis=0)
    if len(channel) == 1:
        channel, times = [channel[0], channel[0] + 1], np.repeat(times, 2, axis=1)
    interpolate = RegularGridInterpolator((spatial, channel), times)
    return np.asarray(interpolate(np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)))
