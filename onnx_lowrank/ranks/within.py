"""What layers may be, and the best choice of it within a budget of multiply-adds, parameters or milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import RankPlan, largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.coupled import Coupling, Link, select_coupled, smallest_cost
from onnx_lowrank.ranks.gpu import methods_that_pay, select_widths_first
from onnx_lowrank.ranks.options import Cost, layer_options, with_scaled_costs
from onnx_lowrank.ranks.select import Option, depth_weights, select
from onnx_lowrank.runtime.rank_multiples import layer_multiple
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

_CLEARLY_LESS = 0.8  # of the loss, since that of ranks is estimated before anything is solved, and comes out smaller


@dataclass(frozen=True)
class Budget:
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


def select_plan(
    options: Sequence[Sequence[Option]],
    budget: Budget,
    coupling: Coupling,
    settings: Settings,
    *,
    on_gpu: bool = False,
) -> RankPlan:
    """Return the options that lose least within the budget.

    Args:
        options: of each layer.
        budget: what all layers may cost together.
        coupling: which layers lose channels with others.
        settings: what is allowed.
        on_gpu: whether networks run on a GPU, and milliseconds count.

    Raises:
        BudgetError: the target is out of reach.
    """
    try:
        chosen = best_within(options, budget, coupling, settings, on_gpu=on_gpu)
    except BudgetError as error:
        raise out_of_reach(options, budget, coupling, settings) from error
    return RankPlan(tuple(option.plan for option in chosen))


def out_of_reach(
    options: Sequence[Sequence[Option]], budget: Budget, coupling: Coupling, settings: Settings
) -> BudgetError:
    """Return the error that says how far a target can be raised, for arguments as of `select_plan`."""
    unit = "ms" if settings.cost == "latency" else settings.cost
    stay = max(0, budget.fixed - sum(coupling.carried))  # what is carried falls with the channels that others read
    return BudgetError(
        f"speedup {settings.speedup:g} cannot be reached, the largest that can is "
        f"{budget.whole / budget.smallest(options, coupling):.2f} "
        f"({budget.whole:.4g} {unit}, of which {stay:.4g} are in layers that stay): lower `speedup`"
    )


def best_within(
    options: Sequence[Sequence[Option]], budget: Budget, coupling: Coupling, settings: Settings, *, on_gpu: bool
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


def options_of_layers(
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
        methods = methods_of(layer, settings, on_gpu=on_gpu)
        found = layer_options(layer, losses, cost, methods, multiple(layer), smallest=smallest)
        return with_scaled_costs(layer, found)

    return [of(*each) for each in zip(layers, losses, costs, strict=True)]


def methods_of(layer: Layer, settings: Settings, *, on_gpu: bool) -> Sequence[str]:
    """Return the methods that a layer may get: on a GPU not all that are allowed."""
    return methods_that_pay(layer, settings.methods) if on_gpu else settings.methods


def coupling_of(layers: Sequence[Layer], stays: Mapping[str, float]) -> Coupling:
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
