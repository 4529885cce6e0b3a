"""The ways a layer can be treated: every method and pair of ranks that costs less than leaving it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.select import Option

Cost = Callable[[Layer, LayerPlan], float]


def layer_options(layer: Layer, losses: RankLosses, cost: Cost, methods: Sequence[str], multiple: int) -> list[Option]:
    """Keeping the layer, and every factorization that costs less than that.

    Args:
        layer: the layer.
        losses: what each pair of ranks loses.
        cost: cost of a layer as planned.
        methods: factorizations allowed. Layers with a 1 x 1, 1-D or 3-D kernel get ``channel`` in the place of the
            spatial ones; where a three-way chain costs more than two of its factors merged, the two-way one is taken.
        multiple: ranks are multiples of this; layers with fewer filters also get the halves of it, so that they
            need not stay.

    Returns:
        At least the option to keep the layer.
    """
    kept = LayerPlan(layer.name)
    most = cost(layer, kept)
    options = _factorizations(layer, cost, allowed_methods(layer, methods), multiple)
    cheaper = [option for option in options if option.cost < most]
    if not cheaper:
        return [Option(replace(kept, reason="no factorization of it costs less"), most)]
    largest = largest_ranks(layer)
    channel = np.array([option.plan.channel or largest["channel"] for option in cheaper], np.int64)
    spatial = np.array([option.plan.spatial or largest["spatial"] for option in cheaper], np.int64)
    energies = 1 - losses.error(channel, spatial)
    return [
        Option(kept, most),
        *(
            Option(replace(option.plan, energy=float(energy)), option.cost)
            for option, energy in zip(cheaper, energies, strict=True)
        ),
    ]


def allowed_methods(layer: Layer, methods: Sequence[str]) -> Sequence[str]:
    """The factorizations that a layer can get: 1 x 1, 1-D and 3-D kernels have no spatial ones."""
    return methods if layer.separable else ("channel",)


def _factorizations(layer: Layer, cost: Cost, methods: Sequence[str], multiple: int) -> Iterator[Option]:
    """Every plan that the methods allow and what it costs; energies are not known yet."""

    def priced(method: str, channel: int | None, spatial: int | None) -> Option:
        plan = LayerPlan(layer.name, method, channel, spatial)
        return Option(plan, cost(layer, plan))

    grid = {kind: rank_grid(largest, multiple) for kind, largest in largest_ranks(layer).items()}
    three_way = "spatial-channel" in methods
    channels = [priced("channel", rank, None) for rank in grid["channel"] if three_way or "channel" in methods]
    spatials = [priced("spatial", None, rank) for rank in grid["spatial"] if three_way or "spatial" in methods]
    if "channel" in methods:
        yield from channels
    if "spatial" in methods:
        yield from spatials
    if three_way:
        for first in channels:
            for second in spatials:
                chain = priced("spatial-channel", first.plan.channel, second.plan.spatial)
                yield min((first, second, chain), key=lambda option: option.cost)


def rank_grid(most: int, multiple: int) -> list[int]:
    """Ranks 1..most that are multiples of ``multiple``, and its halves for what lies below the first multiple."""
    below, part = [], multiple // 2
    while part >= 1:
        below.append(part)
        part //= 2
    return [rank for rank in [*reversed(below), *range(multiple, most + 1, multiple)] if rank <= most]
