"""Choose options where the cost of one layer depends on that of another: fewer channels read are fewer ones made.

    minimise    sum_l error_l(o_l)
    subject to  sum_l cost_l(o_l) - (1 - share(o_reader(l))) scaled_l(o_l) + share(o_l) carried_l <= budget

by Lagrangian relaxation: for a price of a unit of cost, layers take turns in choosing the option that is best given
those of the others, until none changes; the price is found by bisection, and what is left of the budget is spent on the
single changes that gain most per unit.

| code    | meaning                                                                            |
|---------|------------------------------------------------------------------------------------|
| cost    | of an option, with all that it makes                                               |
| scaled  | part of that which falls in proportion to the channels that are still read of it   |
| share   | of the channels of its input that an option reads                                  |
| carried | cost of what lies between a layer and the makers of its input, and falls with them |
| reader  | the layer that reads what a layer makes, where that may be fewer channels          |

Use `select` where no option leaves channels out: it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.ranks.select import Option

_SWEEPS = 20  # over the layers, for one price; two or three are the rule
_BISECTIONS = 60

Choice = NDArray[np.int64]


@dataclass(frozen=True)
class Coupling:
    """Which layers read what others make.

    Attributes:
        readers: per layer, the number of the layer that reads what it makes, where that may be fewer channels.
        carried: per layer, cost of what else falls with the channels that it reads.
    """

    readers: Sequence[int | None]
    carried: Sequence[float]


def select_coupled(options: Sequence[Sequence[Option]], budget: float, coupling: Coupling) -> list[Option]:
    """Pick one option for every layer within the budget, so that errors add up to as little as possible.

    Args:
        options: the options of each layer, the first keeps it as it is.
        budget: the most that all layers and what they carry may cost together.
        coupling: which layers read what others make.

    Returns:
        The option of each layer, in order.

    Raises:
        BudgetError: even the cheapest options cost more than the budget.

    References:
        Everett 1963, Generalized Lagrange multiplier method; Shoham, Gersho 1988 (bit allocation by it).
    """
    problem = _Problem(options, coupling)
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

    def __init__(self, options: Sequence[Sequence[Option]], coupling: Coupling) -> None:
        def of(field: str) -> list[NDArray[np.float64]]:
            return [np.array([getattr(option, field) for option in layer], float) for layer in options]

        self._costs, self._scaled, self._shares = of("cost"), of("scaled"), of("share")
        self._losses = [1 - np.array([option.plan.energy for option in layer]) for layer in options]
        self._readers, self._carried = coupling.readers, coupling.carried
        self._makers: list[list[int]] = [[] for _ in options]
        for maker, reader in enumerate(coupling.readers):
            if reader is not None:
                self._makers[reader].append(maker)

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
            read = self._share_read(layer, choice)
            total += self._costs[layer][index] - (1 - read) * self._scaled[layer][index]
            total -= (1 - self._shares[layer][index]) * self._carried[layer]
        return total

    def loss(self, choice: Choice) -> float:
        """Return what a choice loses."""
        return float(sum(losses[index] for losses, index in zip(self._losses, choice, strict=True)))

    def _share_read(self, layer: int, choice: Choice) -> float:
        """Return the share of what a layer makes that is read."""
        reader = self._readers[layer]
        return 1.0 if reader is None else float(self._shares[reader][choice[reader]])

    def costs_of(self, layer: int, choice: Choice) -> NDArray[np.float64]:
        """Return what each option of a layer costs given the choice of the others, up to a constant."""
        made = self._carried[layer] + sum(self._scaled[maker][choice[maker]] for maker in self._makers[layer])
        read = self._share_read(layer, choice)
        costs: NDArray[np.float64] = self._costs[layer] - (1 - read) * self._scaled[layer]
        costs -= (1 - self._shares[layer]) * made
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
