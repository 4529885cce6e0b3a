"""Which layers get other weights, in which order, and which of their channels they still read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.graph.extract import descendants
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet, following
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.further_readers import kept_by
from onnx_lowrank.solve.width import can_be_solved_anew


def with_layers_solved_anew(plan: RankPlan, network: Network, layers: LayerSet, settings: Settings) -> RankPlan:
    """Return the plan with the layers marked that keep their shape, but get other inputs than in the original.

    Where channels are left out; chains of low rank leave few layers as they are.
    """
    follow = {layer.name for layer in following(layers, plan)}
    follow |= {layer.name for layer in _with_other_inputs(layers.eligible, plan, network, layers, settings)}
    return RankPlan(tuple(replace(each, resolved=each.method == "kept" and each.name in follow) for each in plan))


def in_solving_order(
    network: Network, layers: LayerSet, plan: RankPlan, settings: Settings
) -> list[tuple[Layer, LayerPlan]]:
    """Return all layers that get other weights, each with its plan, in the order of the network."""
    planned = {layer.name: (layer, entry) for layer, entry in plan.solved(layers.eligible)}
    carriers = _with_other_inputs(layers.carriers, plan, network, layers, settings)
    for layer in (*following(layers, plan), *carriers):  # few images may be enough for the former
        planned.setdefault(layer.name, (layer, LayerPlan(layer.name, resolved=True)))
    return [planned[layer.name] for layer in network.in_order([layer for layer, _ in planned.values()])]


def kept_channels(layers: LayerSet, losses: Sequence[RankLosses], plan: RankPlan) -> dict[str, NDArray[np.int64]]:
    """Return the channels that stay by the name of the layer that reads them, where some are left out."""
    kept = {layer.name: np.arange(layer.channels) for layer in layers.sampled}
    for layer, each, entry in zip(layers.eligible, losses, plan, strict=True):
        if entry.width is None or each.widths is None:
            continue
        stay = each.widths.kept(entry.width)
        kept[layer.name] = np.intersect1d(kept[layer.name], stay)
        names = {name for group in layer.read_groups for name in group.followers}
        for other in layers.sampled:
            if other.name in names:
                kept[other.name] = np.intersect1d(kept[other.name], kept_by(layer, stay, other))
    return {layer.name: kept[layer.name] for layer in layers.sampled if len(kept[layer.name]) < layer.channels}


def _with_other_inputs(
    some: Sequence[Layer], plan: RankPlan, network: Network, layers: LayerSet, settings: Settings
) -> list[Layer]:
    """Return those of some layers that get other inputs than in the original, and can make good for it."""
    if settings.solver != "auto" or not settings.asymmetric or all(entry.width is None for entry in plan):
        return []
    changed = descendants(
        network.model, [name for layer, _ in plan.factorized(layers.eligible) for name in layer.nodes]
    )
    return [layer for layer in some if layer.input in changed and can_be_solved_anew(layer)]
