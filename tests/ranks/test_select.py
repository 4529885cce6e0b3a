from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.ranks import Option, depth_weights, select
from onnx_lowrank.ranks.select import LAST_TO_FIRST


def option(cost: float, energy: float) -> Option:
    return Option(LayerPlan("layer", "channel", 1, energy=energy), cost)


def kept_energy(options: list[Option], weights: list[float]) -> float:
    return sum(weight * log(each.plan.energy) for each, weight in zip(options, weights, strict=True))


layers = st.lists(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0.01, 1.0)), min_size=1, max_size=5), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=150)
@given(layers, st.floats(0.0, 1.0), st.one_of(st.none(), st.lists(st.floats(0.1, 10), min_size=4, max_size=4)))
def test_is_as_good_as_trying_everything(
    costs_and_energies: list[list[tuple[int, float]]], share: float, weights: list[float] | None
) -> None:
    options = [[option(*pair) for pair in layer] for layer in costs_and_energies]
    least = sum(min(each.cost for each in layer) for layer in options)
    most = sum(max(each.cost for each in layer) for layer in options)
    budget = least + share * (most - least)
    weights = weights and weights[: len(options)]
    chosen = select(options, budget, weights)
    weights = weights or [1.0] * len(options)
    assert sum(each.cost for each in chosen) <= budget + 1e-6
    # Costs are rounded up to a 20,000th of what there is to decide on: compare with a hair's smaller budget.
    smaller = budget - (budget - least) * len(options) / 20_000
    affordable = [each for each in product(*options) if sum(item.cost for item in each) <= smaller]
    best = max((kept_energy(list(each), weights) for each in affordable), default=-np.inf)
    assert kept_energy(chosen, weights) >= best - 1e-9


def test_later_layers_count_more_the_last_one_most() -> None:
    weights = depth_weights(13)
    assert (weights[0], weights[-1]) == (1.0, pytest.approx(LAST_TO_FIRST))
    assert weights == sorted(weights)
    assert depth_weights(1) == [1.0]
    # Of two layers that are alike the later one keeps more.
    alike = [option(rank, 1 - 0.5**rank) for rank in range(1, 9)]
    first, last = select([alike, alike], 9.01, depth_weights(2))
    assert first.cost < last.cost
    assert first.cost + last.cost == 9


def test_spends_a_real_budget_to_a_hundredth() -> None:
    generator = np.random.default_rng(0)
    options = []
    for _ in range(13):
        energies = np.sort(generator.uniform(0.2, 1.0, 64))
        unit = generator.integers(100, 1000)
        options.append([option(float(unit * (rank + 1)), float(energy)) for rank, energy in enumerate(energies)])
    budget = 0.25 * sum(layer[-1].cost for layer in options)
    spent = sum(each.cost for each in select(options, budget))
    assert 0.99 * budget <= spent <= budget


def test_a_staircase_without_convexity_is_no_trap() -> None:
    # From "kept" the first step saves next to nothing: a greedy descent by energy per cost would never take it.
    stuck = [option(100, 1.0), option(99, 0.6), option(30, 0.59)]
    smooth = [option(cost, cost / 100) for cost in (100, 90, 80, 70, 60, 50, 40)]
    chosen = select([stuck, smooth], 130)
    assert [each.cost for each in chosen] == [30, 100]


def test_budget_below_the_cheapest_choice() -> None:
    with pytest.raises(BudgetError, match="budget 5 is below the cheapest choice 12"):
        select([[option(4, 0.5), option(9, 1.0)], [option(8, 1.0)]], 5)


def test_budget_for_the_cheapest_choice_only() -> None:
    chosen = select([[option(4, 0.5), option(9, 1.0)], [option(8, 0.3), option(10, 1.0)]], 12)
    assert [each.cost for each in chosen] == [4, 8]


def test_budget_a_rounding_error_above_the_cheapest_choice() -> None:
    chosen = select([[option(1e9, 0.5), option(1.5e10, 1.0)]] * 3, 3e9 + 1e-6)
    assert [each.cost for each in chosen] == [1e9] * 3
