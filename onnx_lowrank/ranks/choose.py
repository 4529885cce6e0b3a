"""Method and ranks of every layer, within a budget of multiply-adds, parameters or measured milliseconds.

Only a budget of milliseconds looks at a clock: counts give the same ranks whatever a machine is busy with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.errors import BudgetError, RankError
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan, largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.width_losses import WidthLosses
from onnx_lowrank.ranks.coupled import Coupling
from onnx_lowrank.ranks.milliseconds import choose_under_latency
from onnx_lowrank.ranks.options import Cost
from onnx_lowrank.ranks.search import MIN_SPEEDUP
from onnx_lowrank.ranks.select import Option
from onnx_lowrank.ranks.within import Budget, coupling_of, options_of_layers, out_of_reach, select_plan
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.settings import Settings

_MAX_TRIES = 6


def choose_ranks(
    layers: LayerSet, losses: Sequence[RankLosses], settings: Settings, timer: ConversionTimer
) -> RankPlan:
    """Choose method and ranks of every layer: those of the plan that was given, or the best within the budget.

    Args:
        layers: the network's.
        losses: what pairs of ranks cost each eligible layer in accuracy.
        settings: the target, what it counts, and what is allowed.
        timer: measures milliseconds.

    Returns:
        One entry for every eligible layer, in their order.

    Raises:
        BudgetError: no choice of ranks reaches the target.
        RankError: the given plan does not fit the layers.
    """
    if settings.plan is not None:
        given = zip(layers.eligible, settings.plan.matched(layers.eligible), losses, strict=True)
        return RankPlan(tuple(_with_energy(layer, entry, each) for layer, entry, each in given))
    if settings.cost == "latency":
        return choose_under_latency(layers, losses, settings, timer)
    machine = timer.layer_timer.machine
    budget, options, coupling = _counted(layers, losses, settings, machine.block, machine.wide_multiple)

    def select(budget: Budget) -> RankPlan:
        return select_plan(options, budget, coupling, settings)

    return _select_exactly(layers, budget, select) if settings.cost == "macs" else select(budget)


def _select_exactly(layers: LayerSet, budget: Budget, select: Callable[[Budget], RankPlan]) -> RankPlan:
    """Return the options that lose least, with groups of channels that shrink by whole ones counted as they are."""
    plan, total = select(budget), budget.total
    for _ in range(_MAX_TRIES):
        excess = sum(layers.planned_macs(plan)) - budget.total
        if excess <= 0 or all(entry.width is None for entry in plan):
            break
        total -= excess
        try:
            plan = select(replace(budget, total=total))
        except BudgetError:  # too close to the largest speedup there is
            break
    return plan


def check_reachable(layers: LayerSet, settings: Settings, block: int) -> None:
    """Raise for a target that the sizes of the layers rule out, before any sample is run.

    Milliseconds are not known by then, and a search for ``max_drop`` tries what can be reached.

    Args:
        layers: the network's.
        settings: the target, what it counts, and what is allowed.
        block: channels that the provider's kernels process at a time.

    Raises:
        BudgetError: no choice of ranks reaches the target.
    """
    if settings.plan is not None or settings.max_drop is not None or settings.cost == "latency":
        return
    if settings.predicted_error is not None:  # the speedup is only the largest that may be picked
        settings = replace(settings, speedup=min(MIN_SPEEDUP, settings.speedup))
    lossless = [_no_losses(layer, settings) for layer in layers.eligible]
    budget, options, coupling = _counted(layers, lossless, settings, block, block, smallest=True)
    if budget.smallest(options, coupling) > budget.total:
        raise out_of_reach(options, budget, coupling, settings)


def _no_losses(layer: Layer, settings: Settings) -> RankLosses:
    """Return losses of 0 whatever the ranks, for the options that a layer has before any of them is measured."""
    largest = largest_ranks(layer)
    channel, spatial, input_ = (np.array([largest[kind]], np.int64) for kind in ("channel", "spatial", "input"))
    widths = None
    if settings.leaves_channels_out(layer):
        channels = layer.channels
        widths = WidthLosses(np.arange(channels, dtype=np.int64), np.array([channels], np.int64), np.zeros(1))
    none = np.zeros((1, 1))
    return RankLosses(channel, spatial, none, widths=widths, input=input_, input_errors=none)


def _counted(
    layers: LayerSet,
    losses: Sequence[RankLosses],
    settings: Settings,
    block: int,
    wide: int,
    *,
    smallest: bool = False,
) -> tuple[Budget, list[list[Option]], Coupling]:
    """Return a budget of multiply-adds or parameters, and what every layer may be within it.

    Parameters are weighed by their bytes, since quantized weights take fewer than the factors that would replace them.
    """
    counts_macs = settings.cost == "macs"
    measure: Cost = cost.chain_macs if counts_macs else cost.chain_storage
    whole = [measure(layer, LayerPlan(layer.name)) for layer in layers.eligible]
    itemsize = layers.eligible[0].weight.itemsize
    fixed = sum(layer.macs for layer in layers.skipped) if counts_macs else layers.fixed_storage(itemsize)
    total = sum(whole) + fixed
    stays = {layer.name: float(layer.macs if counts_macs else layer.parameters) for layer in layers.skipped}
    options = options_of_layers(
        layers.eligible, losses, [measure] * len(layers.eligible), settings, (block, wide), smallest=smallest
    )
    return Budget(total / settings.speedup, total, fixed), options, coupling_of(layers.eligible, stays)


def _with_energy(layer: Layer, entry: LayerPlan, losses: RankLosses) -> LayerPlan:
    if entry.method == "kept":
        return entry
    if entry.width is not None:
        if losses.widths is None:
            raise RankError(
                f"{layer.op} '{layer.name}': too few samples to tell which {entry.width} of its channels to keep: add "
                "some, or use 'kept' in the plan"
            )
        return replace(entry, energy=1 - float(losses.widths.error(np.array(entry.width))))
    return replace(entry, energy=1 - float(losses.of_plans(layer, [entry])[0]))
