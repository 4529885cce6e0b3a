"""The ways a layer can be treated: every method and rank that costs less than leaving it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layer import Layer
from onnx_lowrank.plan import LayerPlan, largest_ranks
from onnx_lowrank.ranks.select import Option

Cost = Callable[[Layer, LayerPlan], float]


def layer_options(
    layer: Layer, energy: NDArray[np.float64], cost: Cost, methods: Sequence[str], multiple: int
) -> list[Option]:
    """Keeping the layer, and every factorization that costs less than that.

    Args:
        layer: the layer.
        energy: what each rank keeps of its responses, shape (d + 1,).
        cost: cost of a layer as planned.
        methods: factorizations allowed.
        multiple: ranks are multiples of this; layers with fewer filters also get the halves of it, so that they
            need not stay.

    Returns:
        At least the option to keep the layer.
    """
    kept = LayerPlan(layer.name)
    most = cost(layer, kept)
    plans = []
    if "channel" in methods:
        ranks = rank_grid(largest_ranks(layer)["channel"], multiple)
        plans += [LayerPlan(layer.name, "channel", rank, energy=float(energy[rank])) for rank in ranks]
    options = [Option(plan, cost(layer, plan)) for plan in plans]
    return [Option(kept, most), *(option for option in options if option.cost < most)]


def rank_grid(most: int, multiple: int) -> list[int]:
    """Ranks 1..most that are multiples of ``multiple``, and its halves for what lies below the first multiple."""
    below, part = [], multiple // 2
    while part >= 1:
        below.append(part)
        part //= 2
    return [rank for rank in [*reversed(below), *range(multiple, most + 1, multiple)] if rank <= most]
