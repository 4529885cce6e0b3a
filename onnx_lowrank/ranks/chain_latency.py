"""Measured cost: the milliseconds of a layer's chains, measured at some ranks and interpolated between them.

Kernels work on blocks of channels, so time goes up in steps of a block: ranks count in blocks, rounded up. A chain's
time is close to ``a + b s + (e + f s) c`` in its blocks, s spatial and c channel (vertical, horizontal and last
convolution), less so where there are few of them: the measured grid is dense there, and bilinear interpolation is exact
for the rest.

| code     | meaning                                      | shape  |
|----------|----------------------------------------------|--------|
| spatial  | measured numbers of spatial blocks           | (a,)   |
| channel  | measured numbers of channel blocks           | (b,)   |
| times    | of chains with as many, ms                   | (a, b) |
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
from onnx_lowrank.layers.plan import METHODS, LayerPlan, largest_ranks

_BLOCKS = (1, 2, 4, 16)  # measured, and the most there are


class ChainLatency:
    """Milliseconds of a layer's chains at any ranks.

    Args:
        layer: the layer.
        methods: factorizations to look at.
        block: channels that kernels work on at a time.
    """

    def __init__(self, layer: Layer, methods: Sequence[str], block: int) -> None:
        self._layer, self._block = layer, block
        # The two-way ones may take the place of a three-way chain.
        every = METHODS[1:] if "spatial-channel" in methods else methods
        self._grids = {
            method: (_nodes(layer, method, "spatial", block), _nodes(layer, method, "channel", block))
            for method in every
        }
        self._times: dict[str, NDArray[np.float64]] = {}
        self._kept = inf

    def wanted(self) -> Iterator[LayerPlan]:
        """What has to be measured, the layer itself first."""
        yield LayerPlan(self._layer.name)
        for method in self._grids:
            yield from self._plans(method)

    def learn(self, milliseconds: Callable[[LayerPlan], float]) -> None:
        """Take what was measured for all that is `wanted`."""
        self._kept = milliseconds(LayerPlan(self._layer.name))
        for method, (spatial, channel) in self._grids.items():
            times = np.array([milliseconds(plan) for plan in self._plans(method)]).reshape(len(spatial), len(channel))
            # Fewer ranks never take longer: where they did, something else went on.
            for axis in (0, 1):
                times = np.flip(np.minimum.accumulate(np.flip(times, axis), axis), axis)
            self._times[method] = _filled(spatial, channel, times)

    def __call__(self, _: Layer, plan: LayerPlan) -> float:
        """Milliseconds of the layer as planned, as a `Cost`; infinite outside of what was measured."""
        if plan.method == "kept":
            return self._kept
        times = self._times[plan.method]
        row, column = (-(-(rank or self._block) // self._block) - 1 for rank in (plan.spatial, plan.channel))
        inside = row < times.shape[0] and column < times.shape[1]
        return float(times[row, column]) if inside else inf

    def _plans(self, method: str) -> Iterator[LayerPlan]:
        largest = largest_ranks(self._layer)
        for spatial, channel in product(*self._grids[method]):
            ranks = {"spatial": spatial * self._block, "channel": channel * self._block}
            kinds = [kind for kind in ranks if kind in method.split("-")]
            kept: dict[str, Any] = {kind: min(ranks[kind], largest[kind]) for kind in kinds}
            yield LayerPlan(self._layer.name, method, **kept)


def _nodes(layer: Layer, method: str, kind: str, block: int) -> list[int]:
    """Numbers of blocks to measure of one kind of rank, up to where the chain never saves multiply-adds."""
    kinds = method.split("-")
    if kind not in kinds:
        return [1]
    largest = largest_ranks(layer)
    least: dict[str, Any] = {each: min(block, largest[each]) for each in kinds}

    def saves(blocks: int) -> bool:
        ranks = least | {kind: min(blocks * block, largest[kind])}
        return chain_macs(layer, LayerPlan(layer.name, method, **ranks)) < layer.macs

    top = next((blocks for blocks in range(-(-largest[kind] // block), 1, -1) if saves(blocks)), 1)
    return sorted({*(blocks for blocks in _BLOCKS if blocks < top), top})


def _filled(spatial: list[int], channel: list[int], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times at every number of blocks, from those at some."""
    rows, columns = np.arange(1, spatial[-1] + 1), np.arange(1, channel[-1] + 1)
    # An axis with a single point is doubled: interpolation wants two.
    if len(spatial) == 1:
        spatial, times = [spatial[0], spatial[0] + 1], np.repeat(times, 2, axis=0)
    if len(channel) == 1:
        channel, times = [channel[0], channel[0] + 1], np.repeat(times, 2, axis=1)
    found: NDArray[np.float64] = RegularGridInterpolator((spatial, channel), times)(
        np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    )
    return found
