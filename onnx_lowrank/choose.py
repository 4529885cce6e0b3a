"""Method and ranks of every layer, within a budget of multiply-adds, parameters or measured milliseconds.

Multiply-adds are checked against the clock: where they would slow the network down, layers that run slower for having
fewer of them stay.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_lowrank import cost
from onnx_lowrank.device import rank_block
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.job import Job
from onnx_lowrank.layer import Layer
from onnx_lowrank.measured import latency_feeds, measure_layers, stand_in_network, time_conversion
from onnx_lowrank.plan import LayerPlan, RankPlan, largest_ranks
from onnx_lowrank.ranks import (
    ChainLatency,
    Cost,
    Option,
    Truncation,
    allowed_methods,
    depth_weights,
    layer_options,
    measure_truncation,
    paper_truncation,
    select,
)
from onnx_lowrank.responses import Targets
from onnx_lowrank.settings import METHODS

log = logging.getLogger(__name__)

_AIM = 1.02  # of the wanted speedup: a little more than is asked for, since clocks differ from run to run
_CLOSE_ENOUGH = (0.995, 1.045)
_TRIES = 6
_CLEARLY_FASTER = 1.05  # speedup of a whole network that needs no second look


def measure_errors(job: Job, targets: Mapping[str, Targets]) -> list[Truncation]:
    """What pairs of ranks cost each layer in accuracy; the same for every target.

    Args:
        job: the conversion.
        targets: sampled responses by layer name.
    """
    if job.settings.selection == "energy":
        return [paper_truncation(layer, targets[layer.name].responses) for layer in job.layers]
    return [measure_truncation(layer, targets[layer.name]) for layer in job.layers]


def choose_ranks(job: Job, truncations: Sequence[Truncation]) -> RankPlan:
    """Method and ranks of every layer: the plan that was given, or the best within the budget.

    Args:
        job: the conversion.
        truncations: of each of its layers.

    Raises:
        BudgetError: no choice of ranks reaches the target.
        RankError: the given plan does not fit the layers.
    """
    if job.settings.plan is not None:
        given = zip(job.layers, job.settings.plan.matched(job.layers), truncations, strict=True)
        return RankPlan(tuple(_with_energy(layer, entry, truncation) for layer, entry, truncation in given))
    if job.settings.cost == "latency":
        return _by_latency(job, truncations)
    return _by_count(job, truncations)


def _by_count(job: Job, truncations: Sequence[Truncation]) -> RankPlan:
    """Within a budget of multiply-adds or parameters; no multiply-adds are saved where that only takes longer."""
    of_macs = job.settings.cost == "macs"
    measure = cost.chain_macs if of_macs else cost.chain_parameters
    whole = [layer.macs if of_macs else layer.parameters for layer in job.every_layer]
    fixed = sum(whole[len(job.layers) :])
    options = _options(job, truncations, [measure] * len(job.layers))
    plan = _select(job, options, sum(whole) / job.settings.speedup, sum(whole), fixed)
    if not (of_macs and job.settings.bench) or not _slows_down(job, plan):
        return plan
    while slower := _slower(job, plan):
        for number, kept in slower.items():
            options[number] = [replace(option, plan=kept) for option in options[number][:1]]
        try:  # the other layers may make up for them
            plan = _select(job, options, sum(whole) / job.settings.speedup, sum(whole), fixed)
        except BudgetError:
            plan = RankPlan(tuple(slower.get(number, entry) for number, entry in enumerate(plan)))
    stay = sum(entry.reason is not None for entry in plan)
    log.warning("%d of %d layers would run slower for having fewer multiply-adds and stay", stay, len(job.layers))
    return plan


def _slows_down(job: Job, plan: RankPlan) -> bool:
    """Whether the network might come out slower than it is; one that takes no time to speak of is not judged."""
    latency = time_conversion(job, stand_in_network(job, plan))
    return latency.telling and latency.speedup < _CLEARLY_FASTER


def _slower(job: Job, plan: RankPlan) -> dict[int, LayerPlan]:
    """The layers that would take longer than they do, by number; kept, with the reason."""
    measure_layers(job, plan)
    found = {}
    for number, (layer, entry) in enumerate(zip(job.layers, plan, strict=True)):
        kept = LayerPlan(layer.name)
        before, after = (job.clock.milliseconds(layer, each) for each in (kept, entry))
        if entry.method != "kept" and after >= before:
            found[number] = replace(kept, reason=f"factorized it would take {after:.3g} ms instead of {before:.3g}")
    return found


def _by_latency(job: Job, truncations: Sequence[Truncation]) -> RankPlan:
    """Within a budget of measured milliseconds, corrected until the whole network meets it."""
    block, methods = rank_block(job.network.provider), _methods(job)
    latencies = [ChainLatency(layer, allowed_methods(layer, methods), block) for layer in job.layers]
    wanted = [(layer, plan) for layer, each in zip(job.layers, latencies, strict=True) for plan in each.wanted()]
    job.clock.measure(wanted, job.progress)
    for layer, latency in zip(job.layers, latencies, strict=True):
        latency.learn(partial(job.clock.milliseconds, layer))
    options = _options(job, truncations, latencies)
    whole = job.clock.network(job.network.model, latency_feeds(job))
    fixed = whole - sum(layer[0].cost for layer in options)  # the first option keeps the layer
    wanted_speedup = job.settings.speedup
    budget, tried = whole / (_AIM * wanted_speedup), []
    for _ in range(_TRIES):
        plan = _select(job, options, budget, whole, fixed)
        if job.clock.foreign:
            return plan
        found = time_conversion(job, stand_in_network(job, plan)).speedup / wanted_speedup
        log.info("ranks for %.4g ms: measured speedup %.2f", budget, found * wanted_speedup)
        tried.append((abs(found - _AIM), plan))
        if _CLOSE_ENOUGH[0] <= found <= _CLOSE_ENOUGH[1]:
            break
        budget *= found / _AIM
    return min(tried, key=lambda each: each[0])[1]


def _select(job: Job, options: Sequence[Sequence[Option]], budget: float, whole: float, fixed: float) -> RankPlan:
    weights = None if job.settings.selection == "energy" else depth_weights(len(options))
    try:
        chosen = select(options, budget - fixed, weights)
    except BudgetError as error:
        least = fixed + sum(min(option.cost for option in layer) for layer in options)
        unit = "ms" if job.settings.cost == "latency" else job.settings.cost
        raise BudgetError(
            f"speedup {job.settings.speedup:g} cannot be reached, the largest that can is {whole / least:.2f} "
            f"({whole:.4g} {unit}, of which {fixed:.4g} are in layers that stay): lower --speedup"
        ) from error
    return RankPlan(tuple(option.plan for option in chosen))


def _options(job: Job, truncations: Sequence[Truncation], costs: Sequence[Cost]) -> list[list[Option]]:
    multiple = job.settings.rank_multiple or rank_block(job.network.provider)
    methods = _methods(job)
    return [
        layer_options(layer, truncation, cost, methods, multiple)
        for layer, truncation, cost in zip(job.layers, truncations, costs, strict=True)
    ]


def _methods(job: Job) -> Sequence[str]:
    return METHODS[1:] if job.settings.method == "auto" else (job.settings.method,)


def _with_energy(layer: Layer, entry: LayerPlan, truncation: Truncation) -> LayerPlan:
    if entry.method == "kept":
        return entry
    largest = largest_ranks(layer)
    channel, spatial = (entry.channel or largest["channel"]), (entry.spatial or largest["spatial"])
    return replace(entry, energy=1 - float(truncation.error(np.array(channel), np.array(spatial))))
