"""Choice of options whose costs depend on each other, against all choices there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.ranks.coupled import Coupling, Link, select_coupled, smallest_cost
from onnx_lowrank.ranks.select import Option


def option(cost: float, error: float, *, scaled: float | None = None, share: float = 1.0, first: float = 0.0) -> Option:
    """One convolution, or a chain if ``scaled`` says how much of it is in the last one."""
    plan = LayerPlan("layer", energy=1 - error)
    return Option(plan, cost, cost, share, cost) if scaled is None else Option(plan, cost, scaled, share, first)


def cost(choice: Sequence[Option], coupling: Coupling) -> float:
    """Count the cost of a choice layer by layer."""
    total = 0.0
    for layer, chosen in enumerate(choice):
        left = {True: 1.0, False: 1.0}
        for link in coupling.links:
            if link.layer == layer:
                left[link.made] -= link.share * (1 - choice[link.reader].share)
        if chosen.first == chosen.scaled == chosen.cost:  # a single convolution
            total += chosen.cost * left[True] * left[False]
        else:
            rest = chosen.cost - chosen.scaled - chosen.first
            total += rest + chosen.scaled * left[True] + chosen.first * left[False]
        total += chosen.share * coupling.carried[layer]
    return total


def loss(choice: Sequence[Option]) -> float:
    return sum(1 - chosen.plan.energy for chosen in choice)


EXPAND, PROJECT = [option(100, 0), option(60, 0.2, scaled=40)], [option(100, 0), option(50, 0.1, share=0.5)]
BLOCK = Coupling([Link(1, 0)], [0.0, 40.0])  # the first layer makes what the second reads, past a depthwise one


def test_fewer_channels_read_save_work_in_all_that_makes_them() -> None:
    chosen = select_coupled([EXPAND, PROJECT], 120, BLOCK)
    assert [each.cost for each in chosen] == [100, 50]
    assert cost(chosen, BLOCK) == 100 / 2 + 50 + 40 / 2


def test_what_is_factorized_saves_less_with_fewer_channels() -> None:
    chosen = select_coupled([EXPAND, PROJECT], 119.9, BLOCK)
    assert [each.cost for each in chosen] == [60, 50]
    assert cost(chosen, BLOCK) == smallest_cost([EXPAND, PROJECT], BLOCK) == (20 + 40 / 2) + 50 + 40 / 2


def test_of_two_blocks_that_gives_which_loses_less() -> None:
    delicate = [PROJECT[0], option(50, 0.3, share=0.5)]
    coupling = Coupling([Link(1, 0), Link(3, 2)], [0.0, 40.0, 0.0, 40.0])
    for projects, shares in (((PROJECT, delicate), [0.5, 1.0]), ((delicate, PROJECT), [1.0, 0.5])):
        options = [EXPAND[:1], projects[0], EXPAND[:1], projects[1]]
        chosen = select_coupled(options, 360, coupling)
        assert [chosen[1].share, chosen[3].share] == shares


def test_of_two_blocks_alike_that_gives_which_counts_less() -> None:
    coupling = Coupling([Link(1, 0), Link(3, 2)], [0.0, 40.0, 0.0, 40.0])
    options = [EXPAND[:1], PROJECT, EXPAND[:1], PROJECT]
    for weights, shares in (((1.0, 1.0, 3.0, 3.0), [0.5, 1.0]), ((3.0, 3.0, 1.0, 1.0), [1.0, 0.5])):
        chosen = select_coupled(options, 360, coupling, weights)
        assert [chosen[1].share, chosen[3].share] == shares


def test_says_when_no_choice_is_cheap_enough() -> None:
    with pytest.raises(BudgetError, match="below the cheapest choice"):
        select_coupled([EXPAND, PROJECT], 50, BLOCK)


numbers = st.floats(0.01, 1.0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Option]], Coupling]:
    """Draw a chain of layers, each of which may read fewer channels of the one before it."""
    count = draw(st.integers(2, 4))
    options = []
    for layer in range(count):
        whole = 100 * draw(numbers)
        ranks = [
            option(whole * each, draw(numbers), scaled=whole * each * draw(numbers) / 2, first=whole * each / 3)
            for each in draw(st.lists(numbers, max_size=2))
        ]
        shares = draw(st.lists(st.sampled_from([0.25, 0.5, 0.75]), max_size=2, unique=True)) if layer else []
        widths = [option(whole * share, draw(numbers), share=share) for share in shares]
        options.append([option(whole, 0.0), *ranks, *widths])
    carried = [0.0, *(50 * draw(numbers) for _ in range(count - 1))]
    links = [Link(reader, reader - 1, draw(st.sampled_from([0.5, 1.0]))) for reader in range(1, count)]
    others = [
        Link(reader, follower, made=False)
        for reader in range(1, count)
        for follower in range(count)
        if reader != follower
    ]
    return options, Coupling([*links, *draw(st.lists(st.sampled_from(others), max_size=1))], carried)


@given(problem=problems(), share=st.floats(0.2, 1.0))
def test_stays_within_the_budget_and_loses_little_more_than_the_best_choice(
    problem: tuple[list[list[Option]], Coupling], share: float
) -> None:
    options, coupling = problem
    every = list(product(*options))
    whole = cost([layer[0] for layer in options], coupling)
    budget = max(share * whole, 1.0001 * smallest_cost(options, coupling))
    chosen = select_coupled(options, budget, coupling)
    assert cost(chosen, coupling) <= budget * (1 + 1e-9)
    best = min(loss(each) for each in every if cost(each, coupling) <= budget)
    assert loss(chosen) <= best + max(1 - each.plan.energy for layer in options for each in layer) + 1e-9


def test_many_layers_come_close_to_the_continuous_optimum() -> None:
    generator, count = np.random.default_rng(0), 40
    shares = np.arange(1, 16) / 16
    options, rates = [], generator.uniform(0.01, 1, count)
    for layer in range(count):
        whole = float(generator.uniform(10, 100))
        if layer % 2:  # an error that falls as (1 - share)^2
            options.append(
                [option(whole, 0.0), *(option(whole * s, rates[layer] * (1 - s) ** 2, share=s) for s in shares)]
            )
        else:
            options.append([option(whole, 0.0)])
    coupling = Coupling([Link(layer + 1, layer) for layer in range(0, count, 2)], [0.0] * count)
    whole = cost([layer[0] for layer in options], coupling)
    chosen = select_coupled(options, whole / 2, coupling)
    assert 0.995 * whole / 2 < cost(chosen, coupling) <= whole / 2
    # Lagrange: weight_l 2 (1 - s_l) = price cost_l, with costs of the block that falls in proportion
    costs = np.array([options[n - 1][0].cost + options[n][0].cost for n in range(1, count, 2)])
    weights = rates[1::2]
    low, high = 0.0, 1e3
    for _ in range(100):
        price = (low + high) / 2
        missing = np.minimum(1 - 1 / 16, price * costs / (2 * weights))
        low, high = (price, high) if costs @ missing < whole / 2 else (low, price)
    assert loss(chosen) < 1.02 * float(weights @ missing**2)
