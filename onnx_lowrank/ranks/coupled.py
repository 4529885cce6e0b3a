"""Choose options where the cost of one layer depends on that of another: fewer channels read are fewer ones made.

    minimise    sum_l weight_l error_l(o_l)
    subject to  sum_l cost_l(o_l) - unmade_l first_l(o_l) - unread_l scaled_l(o_l) + unmade_l unread_l both_l(o_l)
                      + share(o_l) carried_l <= budget
    unread_l = sum of link (1 - share(o_reader)) over the links that say what is read of its filters; unmade_l: inputs

by Lagrangian relaxation: for a price of a unit of cost, layers take turns in choosing the option that is best given
those of the others, until none changes; the price is found by bisection, and what is left of the budget is spent on the
single changes that gain most per unit.

| code    | meaning                                                                            |
|---------|------------------------------------------------------------------------------------|
| weight  | how much the error of a layer counts, see `depth_weights`                          |
| cost    | of an option, with all that it makes                                               |
| first   | part of that which falls in proportion to the channels that are still made of its  |
|         | input, where another layer leaves them out                                         |
| scaled  | part which falls in proportion to the channels that are still read of it           |
| both    | part which falls with either: all of a single convolution's                        |
| share   | of the channels of its input that an option reads                                  |
| carried | cost of what lies between a layer and the makers of its input, and falls with them |
| link    | share of a layer's filters, or inputs, that would go with all that another reads   |

Use `select` where no option leaves channels out: it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.ranks.select import Option

_SWEEPS = 20  # over the layers, for one price; two or three are the rule
_BISECTIONS = 60

Choice = NDArray[np.int64]


@dataclass(frozen=True)
class Link:
    """What one layer loses where another leaves out channels of its input.

    Attributes:
        reader: number of the layer that leaves them out.
        layer: number of the other one.
        share: of its filters, or of its inputs, that would go with all channels that the reader reads.
        made: whether they are filters.
    """

    reader: int
    layer: int
    share: float = 1.0
    made: bool = True


@dataclass(frozen=True)
class Coupling:
    """Which layers lose channels with others.

    Attributes:
        links: between layers.
        carried: per layer, cost of what else falls with the channels that it reads.
    """

    links: Sequence[Link]
    carried: Sequence[float]


def select_coupled(
    options: Sequence[Sequence[Option]], budget: float, coupling: Coupling, weights: Sequence[float] | None = None
) -> list[Option]:
    """Pick one option for every layer within the budget, so that errors add up to as little as possible.

    Args:
        options: the options of each layer, the first keeps it as it is.
        budget: the most that all layers and what they carry may cost together.
        coupling: which layers lose channels with others.
        weights: how much the error of each layer counts; all equally if not given.

    Returns:
        The option of each layer, in order.

    Raises:
        BudgetError: even the cheapest options cost more than the budget.

    References:
        Everett 1963, Generalized Lagrange multiplier method; Shoham, Gersho 1988 (bit allocation by it).
    """
    problem = _Problem(options, coupling, weights)
    cheapest = problem.cheapest()
    if problem.cost(cheapest) > budget:
        raise BudgetError(f"budget {budget:.6g} is below the cheapest choice {problem.cost(cheapest):.6g}")
    choice = problem.filled(problem.priced(budget, cheapest), budget)
    return [layer[index] for layer, index in zip(options, choice, strict=True)]


def smallest_cost(options: Sequence[Sequence[Option]], coupling: Coupling) -> float:
    """Return what all layers and what they carry cost together at least."""
    problem = _Problem(options, coupling)
    return problem.cost(problem.cheapest())


class _Problem:
    """The options of all layers as arrays, and what choices of them cost and lose."""

    def __init__(
        self, options: Sequence[Sequence[Option]], coupling: Coupling, weights: Sequence[float] | None = None
    ) -> None:
        def of(field: str) -> list[NDArray[np.float64]]:
            return [np.array([getattr(option, field) for option in layer], float) for layer in options]

        self._costs, self._first, self._scaled, self._shares = of("cost"), of("first"), of("scaled"), of("share")
        ends = zip(self._costs, self._first, self._scaled, strict=True)
        self._both = [np.maximum(0.0, first + scaled - cost) for cost, first, scaled in ends]
        self._losses = [
            weight * (1 - np.array([option.plan.energy for option in layer]))
            for layer, weight in zip(options, weights or [1.0] * len(options), strict=True)
        ]
        self._carried = coupling.carried
        self._links_to: list[list[Link]] = [[] for _ in options]
        self._led: list[set[int]] = [set() for _ in options]
        for link in coupling.links:
            self._links_to[link.layer].append(link)
            self._led[link.reader].add(link.layer)

    def cheapest(self) -> Choice:
        """Return the choice that costs least, as far as turns find it."""
        alone = np.array([costs.argmin() for costs in self._costs], np.int64)
        return min((self.settled(np.inf, start) for start in (self.kept(), alone)), key=self.cost)

    def kept(self) -> Choice:
        """Return the choice that changes nothing."""
        return np.zeros(len(self._costs), np.int64)

    def cost(self, choice: Choice) -> float:
        """Return what a choice costs."""
        total = float(sum(self._carried))
        for layer, index in enumerate(choice):
            total += float(self._cost(layer, index, self._gone(layer, choice)))
            total -= (1 - self._shares[layer][index]) * self._carried[layer]
        return total

    def loss(self, choice: Choice) -> float:
        """Return what a choice loses."""
        return float(sum(losses[index] for losses, index in zip(self._losses, choice, strict=True)))

    def _gone(
        self, layer: int, choice: Choice, reader: int | None = None
    ) -> tuple[float | NDArray[np.float64], float | NDArray[np.float64]]:
        """Return the shares of a layer's inputs and filters that are left out.

        Args:
            layer: number of the layer.
            choice: an option of every layer.
            reader: number of a layer for all options of which they are wanted.
        """
        gone: list[Any] = [0.0, 0.0]
        for link in self._links_to[layer]:
            shares = self._shares[link.reader]
            gone[link.made] = gone[link.made] + link.share * (
                1 - (shares if link.reader == reader else shares[choice[link.reader]])
            )
        return gone[0], gone[1]

    def _cost(self, layer: int, index: Any, gone: tuple[Any, Any]) -> Any:
        """Return the cost of an option, or of several, where shares of inputs and filters are left out."""
        unmade, unread = gone
        cost = self._costs[layer][index] - unmade * self._first[layer][index] - unread * self._scaled[layer][index]
        return cost + unmade * unread * self._both[layer][index]

    def costs_of(self, layer: int, choice: Choice) -> NDArray[np.float64]:
        """Return what each option of a layer costs given the choice of the others, up to a constant."""
        costs: NDArray[np.float64] = self._cost(layer, slice(None), self._gone(layer, choice))
        costs = costs - (1 - self._shares[layer]) * self._carried[layer]
        for other in self._led[layer]:
            costs += self._cost(other, choice[other], self._gone(other, choice, layer))
        return costs

    def settled(self, price: float, choice: Choice) -> Choice:
        """Return the choice that layers come to in turns, each taking what is best for it at a price."""
        choice = choice.copy()
        for _ in range(_SWEEPS):
            before = choice.copy()
            for layer, losses in enumerate(self._losses):
                costs = self.costs_of(layer, choice)
                choice[layer] = (costs if np.isinf(price) else losses + price * costs).argmin()
            if np.array_equal(before, choice):
                break
        return choice

    def priced(self, budget: float, cheapest: Choice) -> Choice:
        """Return the choice at the lowest price that stays within the budget."""
        best, low, high = cheapest, 0.0, self._high_price()
        for _ in range(_BISECTIONS):
            price = np.sqrt(low * high) if low else high / 2**20
            starts = [self.settled(price, start) for start in (self.kept(), best)]
            within = [each for each in starts if self.cost(each) <= budget]
            if within:
                best = min([best, *within], key=self.loss)
                high = price
            else:
                low = price
            if low and high / low < 1 + 1e-6:
                break
        return best

    def _high_price(self) -> float:
        """Return a price at which cost is all that counts."""
        gaps = [np.diff(np.unique(costs)) for costs in self._costs]
        smallest = min((float(each.min()) for each in gaps if len(each)), default=1.0)
        return 10 * max(1e-12, *(float(losses.max()) for losses in self._losses)) / smallest

    def filled(self, choice: Choice, budget: float) -> Choice:
        """Return a choice with single options changed as long as that loses less within the budget."""
        choice, left = choice.copy(), budget - self.cost(choice)
        while True:
            best = (0.0, -1, -1, 0.0)
            for layer, losses in enumerate(self._losses):
                costs = self.costs_of(layer, choice)
                more, gain = costs - costs[choice[layer]], losses[choice[layer]] - losses
                possible = (more <= left) & (gain > 0)
                if possible.any():
                    worth = np.where(possible, gain / np.maximum(more, 1e-300), -np.inf)
                    index = int(worth.argmax())
                    if worth[index] > best[0]:
                        best = (float(worth[index]), layer, index, float(more[index]))
            _, layer, index, more_cost = best
            if layer < 0:
                return choice
            choice[layer], left = index, left - more_cost
