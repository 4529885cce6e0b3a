"""The options of a layer: every method and pair of ranks that costs less than keeping it as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import itemgetter
from typing import Any

import numpy as np

from onnx_lowrank.layers.cost import EndShares
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.select import Option

# Widths are multiples of the block, which runs faster, where that leaves steps of an eighth; else of 8 at most.
_MIN_WIDTHS, _SMALL_BLOCK = 8, 8

Cost = Callable[[Layer, LayerPlan], float]


def layer_options(
    layer: Layer, losses: RankLosses, cost: Cost, methods: Sequence[str], multiple: int, *, smallest: bool = False
) -> list[Option]:
    """Return the option to keep the layer, every factorization that costs less, and every smaller width.

    Args:
        layer: the layer.
        losses: relative error of every pair of ranks.
        cost: cost of a layer as planned, in the budget's unit.
        methods: factorizations allowed, and ``width``. Layers with a 1 x 1, 1-D or 3-D kernel get ``channel`` instead
            of the spatial ones, and with a 1 x 1 kernel instead of ``input`` and ``tucker``; where a
            three-way chain costs more than two of its factors merged, the two-way one is taken.
        multiple: ranks are multiples of this; its half, quarter and so on are added, so that layers with few filters
            can be factorized too.
        smallest: whether to take the smallest ranks of every method alone, where only what costs least is wanted.

    Returns:
        The layer as it is first, then all else with the energy that it keeps.
    """
    kept, allowed = LayerPlan(layer.name), allowed_methods(layer, methods)
    kept_cost = cost(layer, kept)
    grids = {kind: rank_grid(largest, multiple) for kind, largest in largest_ranks(layer).items()}
    if smallest:
        grids = {kind: grid[:1] for kind, grid in grids.items()}
    factorizations = _factorizations(layer, cost, allowed, grids)
    cheaper = [(plan, plan_cost) for plan, plan_cost in factorizations if plan_cost < kept_cost]
    widths = _widths(layer, losses, cost, multiple) if "width" in allowed else []
    if not cheaper:
        if not widths:
            kept = replace(kept, reason="no factorization of it costs less")
        return [Option(kept, kept_cost, kept_cost), *widths]
    energies = 1 - losses.of_plans(layer, [plan for plan, _ in cheaper])
    options = [Option(kept, kept_cost, kept_cost)]
    for (plan, option_cost), energy in zip(cheaper, energies.tolist(), strict=True):
        options.append(Option(replace(plan, energy=energy), option_cost))
    return options + widths


def with_scaled_costs(layer: Layer, options: Sequence[Option]) -> list[Option]:
    """Return the options of a layer with the parts of their cost that fall with its inputs and with its filters."""
    shares_of = EndShares(layer)
    scaled = []
    for option in options:
        first, last = shares_of(option.plan)
        scaled.append(replace(option, first=option.cost * first, scaled=option.cost * last))
    return scaled


def allowed_methods(layer: Layer, methods: Sequence[str]) -> Sequence[str]:
    """Return what a layer can get: 1 x 1, 1-D and 3-D kernels have no spatial factorizations, few layers widths.

    Those of 1 x 1 have none that begins with a 1 x 1 convolution either.
    """
    wanted = [method for method in methods if method != "width"]
    factorizations = [method for method in wanted if _fits(layer, method)]
    if len(factorizations) < len(wanted) and "channel" not in factorizations:
        factorizations.append("channel")
    return [*factorizations, "width"] if "width" in methods and layer.narrowable else factorizations


def _fits(layer: Layer, method: str) -> bool:
    """Return whether a layer's kernel can be split so."""
    kinds = rank_kinds(method)
    return layer.separable if "spatial" in kinds else "input" not in kinds or not layer.single_point


def _widths(layer: Layer, losses: RankLosses, cost: Cost, multiple: int) -> list[Option]:
    """Return the options with fewer channels read."""
    if losses.widths is None:
        return []
    channels = layer.channels
    grid = rank_grid(channels, multiple if channels >= _MIN_WIDTHS * multiple else min(multiple, _SMALL_BLOCK))
    widths = [width for width in grid if layer.min_width <= width < channels]
    plans = [LayerPlan(layer.name, "width", width=width) for width in widths]
    errors = losses.widths.error(np.array(widths, np.int64)).tolist()
    return [
        Option(replace(plan, energy=1 - error), each, each, width / channels)
        for plan, width, error in zip(plans, widths, errors, strict=True)
        if (each := cost(layer, plan)) <= cost(layer, LayerPlan(layer.name))
    ]


def _factorizations(
    layer: Layer, cost: Cost, methods: Sequence[str], grids: Mapping[str, list[int]]
) -> Iterator[tuple[LayerPlan, float]]:
    """Yield every plan that the methods allow with ranks of the grids, and its cost; energies are not known yet."""

    def priced(method: str, ranks: Mapping[str, Any]) -> tuple[LayerPlan, float]:
        plan = LayerPlan(layer.name, method, **ranks)
        return plan, cost(layer, plan)

    def two_way(kind: str, *three_way: str) -> list[tuple[LayerPlan, float]]:
        """Price chains with one kind of rank, where they are allowed or may take the place of a three-way one."""
        wanted = {kind, *three_way} & set(methods)
        return [priced(kind, {kind: rank}) for rank in grids[kind]] if wanted else []

    channels = two_way("channel", "spatial-channel", "tucker")
    spatials, inputs = two_way("spatial", "spatial-channel"), two_way("input", "tucker")
    for kind, chains in (("channel", channels), ("spatial", spatials), ("input", inputs)):
        if kind in methods:
            yield from chains
    if "spatial-channel" in methods:
        for by_channel, by_space in product(channels, spatials):
            chain = priced("spatial-channel", {"channel": by_channel[0].channel, "spatial": by_space[0].spatial})
            yield min(by_channel, by_space, chain, key=itemgetter(1))
    if "tucker" in methods:
        for by_channel, by_input in product(channels, inputs):
            chain = priced("tucker", {"channel": by_channel[0].channel, "input": by_input[0].input})
            yield min(by_channel, by_input, chain, key=itemgetter(1))


def rank_grid(largest: int, multiple: int) -> list[int]:
    """Return the multiples of ``multiple`` up to ``largest``, preceded by its half, quarter and so on."""
    fractions, fraction = [], multiple // 2
    while fraction >= 1:
        fractions.append(fraction)
        fraction //= 2
    return [rank for rank in [*reversed(fractions), *range(multiple, largest + 1, multiple)] if rank <= largest]
