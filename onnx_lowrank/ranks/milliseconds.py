"""Method and ranks of every layer within a budget of measured milliseconds, corrected by the network as a whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.chain_latency import ChainLatency
from onnx_lowrank.ranks.coupled import Coupling
from onnx_lowrank.ranks.gpu import no_slower
from onnx_lowrank.ranks.options import allowed_methods
from onnx_lowrank.ranks.select import Option
from onnx_lowrank.ranks.within import Budget, coupling_of, methods_of, options_of_layers, select_plan
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

# Shares of the requested speedup.
_AIMED_SHARE = 1.02  # a little more than is asked for, since clocks differ from run to run
_CLOSE_SHARES = (0.995, 1.045)
_MIN_SHARE = 0.95  # with less, the target is missed

_STEP_LIMITS = (0.6, 1.6)  # factors that the budget changes by, at most
_LEAST_STEP = 0.1  # of the way between two budgets: time may jump at one end, where a layer changes its method
_MAX_TRIES = 6


def choose_under_latency(
    layers: LayerSet, losses: Sequence[RankLosses], settings: Settings, timer: ConversionTimer
) -> RankPlan:
    """Stay within a budget of measured milliseconds, corrected until the whole network meets it.

    Arguments and errors are those of `onnx_lowrank.ranks.choose.choose_ranks`.
    """
    machine = timer.layer_timer.machine
    latencies = _measured_latencies(layers.eligible, settings, timer)
    multiples = machine.block, machine.wide_multiple
    options = options_of_layers(
        layers.eligible, losses, latencies, settings, multiples, on_gpu=timer.layer_timer.on_gpu
    )
    if timer.other_batch is not None:
        elsewhere = _measured_latencies(layers.eligible, settings, timer.other_batch)
        options = [
            no_slower(each, [latency(layer, option.plan) for option in each])
            for layer, each, latency in zip(layers.eligible, options, elsewhere, strict=True)
        ]
    whole = timer.original_ms()
    fixed = whole - sum(layer[0].cost for layer in options)  # the first option keeps the layer
    budget = Budget(whole / (_AIMED_SHARE * settings.speedup), whole, fixed)
    pace = whole / max(1, layers.macs)  # milliseconds a multiply-add, since layers that stay are not timed one by one
    coupling = coupling_of(layers.eligible, {layer.name: layer.macs * pace for layer in layers.skipped})
    return _corrected(layers.eligible, options, budget, coupling, settings, timer)


def _measured_latencies(layers: Sequence[Layer], settings: Settings, timer: ConversionTimer) -> list[ChainLatency]:
    """Measure the milliseconds of every layer's chains."""
    layer_timer = timer.layer_timer
    latencies = _chain_latencies(layers, settings, layer_timer.machine.block, on_gpu=layer_timer.on_gpu)
    timer.measure(_to_measure(layers, latencies))
    for layer, latency in zip(layers, latencies, strict=True):
        latency.learn(partial(layer_timer.milliseconds, layer))
    return latencies


def _chain_latencies(layers: Sequence[Layer], settings: Settings, block: int, *, on_gpu: bool) -> list[ChainLatency]:
    """Return the milliseconds of every layer's chains, to be learnt."""
    methods = [allowed_methods(layer, methods_of(layer, settings, on_gpu=on_gpu)) for layer in layers]
    return [ChainLatency(layer, allowed, block) for layer, allowed in zip(layers, methods, strict=True)]


def _to_measure(layers: Sequence[Layer], latencies: Sequence[ChainLatency]) -> list[tuple[Layer, LayerPlan]]:
    pairs = zip(layers, latencies, strict=True)
    return [(layer, plan) for layer, latency in pairs for plan in latency.to_measure()]


def chains_to_measure(layers: Sequence[Layer], settings: Settings, block: int) -> list[tuple[Layer, LayerPlan]]:
    """Return what has to be timed before ranks are chosen under the milliseconds of any device.

    Args:
        layers: the eligible ones.
        settings: what is allowed.
        block: channels that kernels process at a time.

    Returns:
        Layers, and chains of them; more than a GPU wants, which the device may have.
    """
    return _to_measure(layers, _chain_latencies(layers, settings, block, on_gpu=False))


def _corrected(
    layers: Sequence[Layer],
    options: Sequence[Sequence[Option]],
    budget: Budget,
    coupling: Coupling,
    settings: Settings,
    timer: ConversionTimer,
) -> RankPlan:
    """Shift the budget until the network as planned, timed, meets the target."""
    on_gpu = timer.layer_timer.on_gpu
    if timer.layer_timer.foreign:  # the network cannot be timed here
        return select_plan(options, budget, coupling, settings, on_gpu=on_gpu)
    # The sum of single layers is not the whole: what seems out of reach is tried all the same.
    smallest = budget.smallest(options, coupling) * (1 + 1e-9)
    total = max(budget.total, smallest)
    tried: dict[float, tuple[float, RankPlan]] = {}

    def measure(total: float) -> float:
        plan = select_plan(options, replace(budget, total=total), coupling, settings, on_gpu=on_gpu)
        speedup = timer.time_plan(layers, plan).best_speedup
        log.info("ranks for %.4g ms: measured speedup %.2f", total, speedup)
        tried[total] = speedup, plan
        return speedup

    while len(tried) < _MAX_TRIES and total not in tried:
        if _CLOSE_SHARES[0] <= measure(total) / settings.speedup <= _CLOSE_SHARES[1]:
            break
        shares = {each: 1 / measured for each, (measured, _) in tried.items()}
        total = max(_next_budget(shares, 1 / (_AIMED_SHARE * settings.speedup)), smallest)
    if max(measured for measured, _ in tried.values()) < _MIN_SHARE * settings.speedup and smallest not in tried:
        measure(smallest)  # the most that can be had, before that is said
    reached = [each for each in tried.values() if each[0] >= _MIN_SHARE * settings.speedup]
    if not reached:
        largest = max(measured for measured, _ in tried.values())
        raise BudgetError(
            f"speedup {settings.speedup:g} cannot be reached, the largest that can is {largest:.2f} "
            f"(measured; {max(0, budget.fixed):.4g} of {budget.whole:.4g} ms are in layers that stay): lower `speedup`"
        )
    _, plan = min(reached, key=lambda each: abs(each[0] / settings.speedup - _AIMED_SHARE))
    return plan


def _next_budget(tried: Mapping[float, float], aim: float) -> float:
    """The budget whose network should take the share ``aim`` of the original's time.

    Args:
        tried: measured share by budget.
        aim: wanted share.
    """
    below = max((budget for budget, share in tried.items() if share <= aim), default=None)
    above = min((budget for budget, share in tried.items() if share > aim), default=None)
    if below is not None and above is not None and below < above:
        return _between(below, above, (aim - tried[below]) / (tried[above] - tried[below]))
    budgets, shares = np.array(list(tried)), np.array(list(tried.values()))
    limits = sorted(step * budgets[-1] for step in _STEP_LIMITS)
    if len(tried) > 1:  # time outside of the layers, or caches that work better in the network: a line, not a ratio
        slope, offset = np.polyfit(budgets, shares, 1)
        if slope > 0:  # two figures that are close say little about the slope: no long steps
            return float(np.clip((aim - offset) / slope, *limits))
    return float(np.clip(budgets[-1] * aim / shares[-1], *limits))


def _between(below: float, above: float, share: float) -> float:
    """Return a budget between two whose networks are faster and slower than wanted, clear of both ends."""
    return below + (above - below) * min(max(share, _LEAST_STEP), 1 - _LEAST_STEP)
