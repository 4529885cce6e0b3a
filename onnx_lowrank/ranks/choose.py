"""Method and ranks of every layer, within a budget of multiply-adds, parameters or measured milliseconds.

Only a budget of milliseconds looks at a clock: counts give the same ranks whatever a machine is busy with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_lowrank.errors import BudgetError, RankError
from onnx_lowrank.layers import cost
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan, largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.width_losses import WidthLosses
from onnx_lowrank.ranks.chain_latency import ChainLatency
from onnx_lowrank.ranks.coupled import Coupling, Link, select_coupled, smallest_cost
from onnx_lowrank.ranks.gpu import methods_that_pay, no_slower, select_widths_first
from onnx_lowrank.ranks.options import Cost, allowed_methods, layer_options, with_scaled_costs
from onnx_lowrank.ranks.search import MIN_SPEEDUP
from onnx_lowrank.ranks.select import Option, depth_weights, select
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.runtime.rank_multiples import layer_multiple
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

# Shares of the requested speedup.
_AIMED_SHARE = 1.02  # a little more than is asked for, since clocks differ from run to run
_CLOSE_SHARES = (0.995, 1.045)
_MIN_SHARE = 0.95  # with less, the target is missed

_CLEARLY_LESS = 0.8  # of the loss, since that of ranks is estimated before anything is solved, and comes out smaller

_STEP_LIMITS = (0.6, 1.6)  # factors that the budget changes by, at most
_MAX_TRIES = 6


@dataclass(frozen=True)
class _Budget:
    """What a network may cost, in multiply-adds, parameters or milliseconds.

    Attributes:
        total: what it may cost as planned.
        whole: what it costs as it is.
        fixed: part of it in layers that stay.
    """

    total: float
    whole: float
    fixed: float

    def smallest(self, options: Sequence[Sequence[Option]], coupling: Coupling) -> float:
        """Return what the network costs with the cheapest option of every layer."""
        return self.fixed - sum(coupling.carried) + smallest_cost(options, coupling)


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
        return _under_latency(layers, losses, settings, timer)
    machine = timer.layer_timer.machine
    budget, options, coupling = _counted(layers, losses, settings, machine.block, machine.wide_multiple)

    def select_within(budget: _Budget) -> RankPlan:
        return _select(options, budget, coupling, settings)

    return _select_exactly(layers, budget, select_within) if settings.cost == "macs" else select_within(budget)


def _select_exactly(layers: LayerSet, budget: _Budget, select_within: Callable[[_Budget], RankPlan]) -> RankPlan:
    """Return the options that lose least, with groups of channels that shrink by whole ones counted as they are."""
    plan, total = select_within(budget), budget.total
    for _ in range(_MAX_TRIES):
        excess = sum(layers.planned_macs(plan)) - budget.total
        if excess <= 0 or all(entry.width is None for entry in plan):
            break
        total -= excess
        try:
            plan = select_within(replace(budget, total=total))
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
        raise _out_of_reach(options, budget, coupling, settings)


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
) -> tuple[_Budget, list[list[Option]], Coupling]:
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
    options = _options(
        layers.eligible, losses, [measure] * len(layers.eligible), settings, (block, wide), smallest=smallest
    )
    return _Budget(total / settings.speedup, total, fixed), options, _coupling(layers.eligible, stays)


def _under_latency(
    layers: LayerSet, losses: Sequence[RankLosses], settings: Settings, timer: ConversionTimer
) -> RankPlan:
    """Stay within a budget of measured milliseconds, corrected until the whole network meets it."""
    machine = timer.layer_timer.machine
    latencies = _measured_latencies(layers.eligible, settings, timer)
    multiples = machine.block, machine.wide_multiple
    options = _options(layers.eligible, losses, latencies, settings, multiples, on_gpu=timer.layer_timer.on_gpu)
    if timer.other_batch is not None:
        elsewhere = _measured_latencies(layers.eligible, settings, timer.other_batch)
        options = [
            no_slower(each, [latency(layer, option.plan) for option in each])
            for layer, each, latency in zip(layers.eligible, options, elsewhere, strict=True)
        ]
    whole = timer.original_ms()
    fixed = whole - sum(layer[0].cost for layer in options)  # the first option keeps the layer
    budget = _Budget(whole / (_AIMED_SHARE * settings.speedup), whole, fixed)
    pace = whole / max(1, layers.macs)  # milliseconds a multiply-add, since layers that stay are not timed one by one
    coupling = _coupling(layers.eligible, {layer.name: layer.macs * pace for layer in layers.skipped})
    return _corrected(layers.eligible, options, budget, coupling, settings, timer)


def _measured_latencies(layers: Sequence[Layer], settings: Settings, timer: ConversionTimer) -> list[ChainLatency]:
    """Measure the milliseconds of every layer's chains."""
    machine = timer.layer_timer.machine
    timer.measure(chains_to_measure(layers, settings, machine.block, on_gpu=timer.layer_timer.on_gpu))
    latencies = _chain_latencies(layers, settings, machine.block, on_gpu=timer.layer_timer.on_gpu)
    for layer, latency in zip(layers, latencies, strict=True):
        latency.learn(partial(timer.layer_timer.milliseconds, layer))
    return latencies


def _chain_latencies(layers: Sequence[Layer], settings: Settings, block: int, *, on_gpu: bool) -> list[ChainLatency]:
    """Return the milliseconds of every layer's chains, to be learnt."""
    return [
        ChainLatency(layer, allowed_methods(layer, _methods(layer, settings, on_gpu=on_gpu)), block) for layer in layers
    ]


def chains_to_measure(
    layers: Sequence[Layer], settings: Settings, block: int, *, on_gpu: bool = False
) -> list[tuple[Layer, LayerPlan]]:
    """Return what has to be timed before ranks are chosen under milliseconds: layers, and chains of them.

    Args:
        layers: the eligible ones.
        settings: what is allowed.
        block: channels that kernels process at a time.
        on_gpu: whether networks run on a GPU.
    """
    pairs = zip(layers, _chain_latencies(layers, settings, block, on_gpu=on_gpu), strict=True)
    return [(layer, plan) for layer, latency in pairs for plan in latency.to_measure()]


def _methods(layer: Layer, settings: Settings, *, on_gpu: bool) -> Sequence[str]:
    """Return the methods that a layer may get: on a GPU not all that are allowed."""
    return methods_that_pay(layer, settings.methods) if on_gpu else settings.methods


def _corrected(
    layers: Sequence[Layer],
    options: Sequence[Sequence[Option]],
    budget: _Budget,
    coupling: Coupling,
    settings: Settings,
    timer: ConversionTimer,
) -> RankPlan:
    """Shift the budget until the network as planned, timed, meets the target."""
    on_gpu = timer.layer_timer.on_gpu
    if timer.layer_timer.foreign:  # the network cannot be timed here
        return _select(options, budget, coupling, settings, on_gpu=on_gpu)
    # The sum of single layers is not the whole: what seems out of reach is tried all the same.
    smallest = budget.smallest(options, coupling) * (1 + 1e-9)
    total = max(budget.total, smallest)
    tried: dict[float, tuple[float, RankPlan]] = {}

    def measure(total: float) -> float:
        plan = _select(options, replace(budget, total=total), coupling, settings, on_gpu=on_gpu)
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
    budgets, shares = np.array(list(tried)), np.array(list(tried.values()))
    if len(tried) > 1:  # time outside of the layers, or caches that work better in the network: a line, not a ratio
        slope, offset = np.polyfit(budgets, shares, 1)
        if slope > 0:  # two figures that are close say little about the slope: no long steps
            return float(np.clip((aim - offset) / slope, *sorted(step * budgets[-1] for step in _STEP_LIMITS)))
    return float(budgets[-1] * aim / shares[-1])


def _select(
    options: Sequence[Sequence[Option]],
    budget: _Budget,
    coupling: Coupling,
    settings: Settings,
    *,
    on_gpu: bool = False,
) -> RankPlan:
    """Return the options that lose least within the budget."""
    try:
        chosen = _best(options, budget, coupling, settings, on_gpu=on_gpu)
    except BudgetError as error:
        raise _out_of_reach(options, budget, coupling, settings) from error
    return RankPlan(tuple(option.plan for option in chosen))


def _out_of_reach(
    options: Sequence[Sequence[Option]], budget: _Budget, coupling: Coupling, settings: Settings
) -> BudgetError:
    unit = "ms" if settings.cost == "latency" else settings.cost
    stay = max(0, budget.fixed - sum(coupling.carried))  # what is carried falls with the channels that others read
    return BudgetError(
        f"speedup {settings.speedup:g} cannot be reached, the largest that can is "
        f"{budget.whole / budget.smallest(options, coupling):.2f} "
        f"({budget.whole:.4g} {unit}, of which {stay:.4g} are in layers that stay): lower `speedup`"
    )


def _best(
    options: Sequence[Sequence[Option]], budget: _Budget, coupling: Coupling, settings: Settings, *, on_gpu: bool
) -> list[Option]:
    """Return the options that lose least, with fewer channels only where that is clearly better than ranks alone.

    On a GPU, where ranks add kernels and fewer channels do not, it is ranks that have to be clearly better.

    Raises:
        BudgetError: neither reaches the budget.
    """
    left, carried = budget.total - budget.fixed, sum(coupling.carried)
    weights = None if settings.selection == "energy" else depth_weights(len(options))
    factorized = [[option for option in layer if option.share == 1] for layer in options]
    if factorized == options:
        return select(options, left, weights)
    pick = select_widths_first if on_gpu else select_coupled
    narrowed = pick(options, left + carried, coupling, weights)
    if settings.methods == ("width",) or (on_gpu and any(option.share < 1 for option in narrowed)):
        return narrowed
    try:
        by_ranks = select_coupled(factorized, left + carried, coupling, weights)
    except BudgetError:
        return narrowed
    counts = weights or [1.0] * len(options)
    losses = [
        sum(weight * (1 - option.plan.energy) for weight, option in zip(counts, chosen, strict=True))
        for chosen in (narrowed, by_ranks)
    ]
    log.debug("errors of all layers: %.3g with fewer channels, %.3g by ranks alone", *losses)
    return narrowed if losses[0] < _CLEARLY_LESS * losses[1] else select(factorized, left, weights)


def _options(
    layers: Sequence[Layer],
    losses: Sequence[RankLosses],
    costs: Sequence[Cost],
    settings: Settings,
    multiples: tuple[int, int],
    *,
    smallest: bool = False,
    on_gpu: bool = False,
) -> list[list[Option]]:
    """Return what every layer may be.

    Args:
        layers: the eligible ones.
        losses: of each.
        costs: of each.
        settings: what is allowed.
        multiples: of ranks: those of any layer, and of wide ones.
        smallest: whether only the smallest ranks are wanted, see `layer_options`.
        on_gpu: whether networks run on a GPU, and milliseconds count.
    """

    def multiple(layer: Layer) -> int:
        return settings.rank_multiple or layer_multiple(largest_ranks(layer)["channel"], *multiples)

    def of(layer: Layer, losses: RankLosses, cost: Cost) -> list[Option]:
        methods = _methods(layer, settings, on_gpu=on_gpu)
        found = layer_options(layer, losses, cost, methods, multiple(layer), smallest=smallest)
        return with_scaled_costs(layer, found)

    return [of(*each) for each in zip(layers, losses, costs, strict=True)]


def _coupling(layers: Sequence[Layer], stays: Mapping[str, float]) -> Coupling:
    """Return which layers lose channels with others.

    Args:
        layers: the eligible ones.
        stays: costs of all others by name.
    """
    numbers = {layer.name: number for number, layer in enumerate(layers)}
    links: list[Link] = []
    carried = [0.0] * len(layers)
    for number, layer in enumerate(layers):
        for name, share, made in _lost_with(layer):
            if name in numbers:
                links.append(Link(number, numbers[name], share, made))
            else:
                carried[number] += share * stays.get(name, 0.0)
    return Coupling(links, carried)


def _lost_with(layer: Layer) -> Iterator[tuple[str, float, bool]]:
    """Yield the names of what loses channels with a layer's input, the share that all would take, and if of filters.

    Groups shrink in proportion, so that some lose a channel more or less than this says.
    """
    every = sum(group.channels for group in layer.read_groups)
    for group in layer.read_groups:
        share = group.channels * layer.channels / every
        for name in (*group.makers, *group.carried):
            yield name, share / group.filters_of(name).total, True
        for name in group.followers:
            yield name, share / group.inputs_of(name).total, False


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
