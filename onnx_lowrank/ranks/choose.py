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

from onnx_lowrank.calibrate.calibration import Job
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan, largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.threads import side_by_side
from onnx_lowrank.ranks import (
    ChainLatency,
    Cost,
    Option,
    allowed_methods,
    depth_weights,
    energy_losses,
    layer_options,
    select,
)
from onnx_lowrank.runtime.latency import latency_feeds, measure_layers, time_conversion, with_random_factors
from onnx_lowrank.settings import METHODS
from onnx_lowrank.solve.device import SolverDevice
from onnx_lowrank.solve.rank_losses import measure_rank_losses

log = logging.getLogger(__name__)

_AIM = 1.02  # of the wanted speedup: a little more than is asked for, since clocks differ from run to run
_CLOSE_ENOUGH = (0.995, 1.045)
_LEAST = 0.95  # with less, the target is missed
_STEPS = (0.6, 1.6)  # of the budget, at most
_TRIES = 6
_CLEARLY_FASTER = 1.05  # speedup of a whole network that needs no second look


def measure_errors(job: Job, targets: Mapping[str, TargetResponses], place: SolverDevice) -> list[RankLosses]:
    """What pairs of ranks cost each layer in accuracy; the same for every target.

    Args:
        job: the conversion.
        targets: sampled responses by layer name.
        place: where to work.
    """
    if job.settings.selection == "energy":
        return [energy_losses(layer, targets[layer.name].responses) for layer in job.layers]

    def measured(layer: Layer) -> RankLosses:
        return place.run(partial(measure_rank_losses, layer), targets[layer.name])

    return [measured(layer) for layer in job.layers] if place.one_by_one else side_by_side(measured, job.layers)


def choose_ranks(job: Job, losses: Sequence[RankLosses]) -> RankPlan:
    """Method and ranks of every layer: the plan that was given, or the best within the budget.

    Args:
        job: the conversion.
        losses: of each of its layers.

    Raises:
        BudgetError: no choice of ranks reaches the target.
        RankError: the given plan does not fit the layers.
    """
    if job.settings.plan is not None:
        given = zip(job.layers, job.settings.plan.matched(job.layers), losses, strict=True)
        return RankPlan(tuple(_with_energy(layer, entry, each) for layer, entry, each in given))
    if job.settings.cost == "latency":
        return _by_latency(job, losses)
    return _by_count(job, losses)


def _by_count(job: Job, losses: Sequence[RankLosses]) -> RankPlan:
    """Within a budget of multiply-adds or parameters; no multiply-adds are saved where that only takes longer."""
    of_macs = job.settings.cost == "macs"
    measure = cost.chain_macs if of_macs else cost.chain_parameters
    whole = [layer.macs if of_macs else layer.parameters for layer in job.every_layer]
    fixed = sum(whole[len(job.layers) :])
    options = _options(job, losses, [measure] * len(job.layers))
    plan = _select(job, options, sum(whole) / job.settings.speedup, sum(whole), fixed)
    if not (of_macs and job.settings.bench) or not _slows_down(job, plan):
        return plan
    stay: dict[int, LayerPlan] = {}
    while slower := {number: kept for number, kept in _slower(job, plan).items() if number not in stay}:
        stay |= slower
        for number, kept in slower.items():
            options[number] = [Option(kept, whole[number])]
        try:  # the other layers may make up for them
            plan = _select(job, options, sum(whole) / job.settings.speedup, sum(whole), fixed)
        except BudgetError:
            plan = RankPlan(tuple(stay.get(number, entry) for number, entry in enumerate(plan)))
    if stay:
        log.warning(
            "%d of %d layers would run slower for having fewer multiply-adds and stay", len(stay), len(job.layers)
        )
    return plan


def _slows_down(job: Job, plan: RankPlan) -> bool:
    """Whether the network might come out slower than it is; one that takes no time to speak of is not judged."""
    latency = time_conversion(job, with_random_factors(job, plan))
    return latency.telling and latency.best_speedup < _CLEARLY_FASTER


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


def _by_latency(job: Job, losses: Sequence[RankLosses]) -> RankPlan:
    """Within a budget of measured milliseconds, corrected until the whole network meets it."""
    latencies = [
        ChainLatency(layer, allowed_methods(layer, _methods(job)), job.clock.machine.block) for layer in job.layers
    ]
    wanted = [(layer, plan) for layer, each in zip(job.layers, latencies, strict=True) for plan in each.to_measure()]
    job.clock.measure(wanted, job.progress)
    for layer, latency in zip(job.layers, latencies, strict=True):
        latency.learn(partial(job.clock.milliseconds, layer))
    options = _options(job, losses, latencies)
    whole = job.clock.network(job.network.model, latency_feeds(job))
    fixed = whole - sum(layer[0].cost for layer in options)  # the first option keeps the layer
    return _balanced(job, options, whole, fixed)


def _balanced(job: Job, options: Sequence[Sequence[Option]], whole: float, fixed: float) -> RankPlan:
    """Shift the budget until a stand-in for the whole network, timed, meets the target."""
    wanted = job.settings.speedup
    budget = whole / (_AIM * wanted)
    if job.clock.foreign:
        return _select(job, options, budget, whole, fixed)
    # The sum of single layers is not the whole: what seems out of reach is tried all the same.
    least = (fixed + sum(min(option.cost for option in layer) for layer in options)) * (1 + 1e-9)
    tried: dict[float, tuple[float, RankPlan]] = {}
    while len(tried) < _TRIES and (budget := max(budget, least)) not in tried:
        plan = _select(job, options, budget, whole, fixed)
        found = time_conversion(job, with_random_factors(job, plan)).best_speedup
        log.info("ranks for %.4g ms: measured speedup %.2f", budget, found)
        tried[budget] = found, plan
        if _CLOSE_ENOUGH[0] <= found / wanted <= _CLOSE_ENOUGH[1]:
            break
        budget = _next_budget({each: 1 / found for each, (found, _) in tried.items()}, 1 / (_AIM * wanted))
    found, plan = min(tried.values(), key=lambda each: abs(each[0] / wanted - _AIM))
    if found < _LEAST * wanted:
        largest = max(each[0] for each in tried.values())
        raise BudgetError(
            f"speedup {wanted:g} cannot be reached, the largest that can is {largest:.2f} "
            f"(measured; {max(0, fixed):.4g} of {whole:.4g} ms are in layers that stay): lower --speedup"
        )
    return plan


def _next_budget(tried: Mapping[float, float], aim: float) -> float:
    """The budget whose network should take the share ``aim`` of the original's time.

    Args:
        tried: measured share by budget.
        aim: wanted share.
    """
    budgets, shares = np.array(list(tried)), np.array(list(tried.values()))
    if len(tried) > 1:  # time outside of the layers, or caches that work better in the network: a line, not a ratio
        slope, offset = np.polyfit(budgets, shares, 1)
        if slope > 0:  # two figures that are close say little about the slope: no long steps
            return float(np.clip((aim - offset) / slope, *sorted(step * budgets[-1] for step in _STEPS)))
    return float(budgets[-1] * aim / shares[-1])


def _select(job: Job, options: Sequence[Sequence[Option]], budget: float, whole: float, fixed: float) -> RankPlan:
    weights = None if job.settings.selection == "energy" else depth_weights(len(options))
    try:
        chosen = select(options, budget - fixed, weights)
    except BudgetError as error:
        least = fixed + sum(min(option.cost for option in layer) for layer in options)
        unit = "ms" if job.settings.cost == "latency" else job.settings.cost
        raise BudgetError(
            f"speedup {job.settings.speedup:g} cannot be reached, the largest that can is {whole / least:.2f} "
            f"({whole:.4g} {unit}, of which {max(0, fixed):.4g} are in layers that stay): lower --speedup"
        ) from error
    return RankPlan(tuple(option.plan for option in chosen))


def _options(job: Job, losses: Sequence[RankLosses], costs: Sequence[Cost]) -> list[list[Option]]:
    multiple = job.settings.rank_multiple or job.clock.machine.block
    methods = _methods(job)
    return [
        layer_options(layer, each, cost, methods, multiple)
        for layer, each, cost in zip(job.layers, losses, costs, strict=True)
    ]


def _methods(job: Job) -> Sequence[str]:
    return METHODS[1:] if job.settings.method == "auto" else (job.settings.method,)


def _with_energy(layer: Layer, entry: LayerPlan, losses: RankLosses) -> LayerPlan:
    if entry.method == "kept":
        return entry
    largest = largest_ranks(layer)
    channel, spatial = (entry.channel or largest["channel"]), (entry.spatial or largest["spatial"])
    return replace(entry, energy=1 - float(losses.error(np.array(channel), np.array(spatial))))
