"""The largest speedup whose loss stays within what is allowed: bisection on a logarithmic scale.

Losses grow with the speedup, up to noise. Quick attempts, solved roughly, bring it down to a range; what they find is
then tried as it will be written, and moved up or down until it holds there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Generic, Protocol, TypeVar

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.verify import AccuracyLoss

SMALLEST, LARGEST = 1.05, 64.0
_FIRST = 2.0
_STEP = 1.06
_QUICK_ENOUGH, _ENOUGH = 1.1, 1.03  # ratio of the smallest speedup that fails to the largest that holds

_Step = Callable[[float], float]
Made_co = TypeVar("Made_co", covariant=True)
Made = TypeVar("Made")


class Attempt(Protocol[Made_co]):
    """Converts at a speedup and judges."""

    def __call__(self, speedup: float, *, quick: bool) -> tuple[Made_co, AccuracyLoss]:
        """What was made, and its loss; raises BudgetError where the speedup is out of reach."""
        ...


@dataclass(frozen=True)
class Search(Generic[Made]):
    """What a search found.

    Attributes:
        speedup: the largest whose loss is within what is allowed.
        made: at that speedup, not quickly.
        drop: its loss on the samples that were searched with.
        tried: speedups and losses in the order they were tried, quick ones first.
    """

    speedup: float
    made: Made
    drop: AccuracyLoss
    tried: tuple[tuple[float, float], ...]


def largest_speedup(attempt: Attempt[Made], allowed: float) -> Search[Made]:
    """Search for the largest speedup whose loss is within what is allowed.

    Args:
        attempt: converts at a speedup.
        allowed: largest loss.

    Raises:
        BudgetError: not even `SMALLEST` holds.
    """
    found: list[Search[Made]] = []
    tried: list[tuple[float, AccuracyLoss]] = []

    def holds(speedup: float, *, quick: bool) -> bool:
        try:
            made, drop = attempt(speedup, quick=quick)
        except BudgetError:
            return False
        tried.append((speedup, drop))
        good = drop.value <= allowed
        if good and not quick and (not found or speedup > found[0].speedup):
            found[:] = [Search(speedup, made, drop, ())]
        return good

    roughly = _narrowed(partial(holds, quick=True), _FIRST, (lambda each: each**2, sqrt), _QUICK_ENOUGH)
    steps = (lambda each: each * _STEP, lambda each: each / _STEP)
    _narrowed(partial(holds, quick=False), min((roughly or SMALLEST) * _STEP, LARGEST), steps, _ENOUGH)
    if not found:
        raise BudgetError(_none_holds(allowed, tried))
    best = found[0]
    return Search(best.speedup, best.made, best.drop, tuple((speedup, drop.value) for speedup, drop in tried))


def _narrowed(holds: Callable[[float], bool], first: float, steps: tuple[_Step, _Step], enough: float) -> float | None:
    """The largest speedup that holds, up to a factor ``enough``; None where not even the smallest does.

    Args:
        holds: whether a speedup does.
        first: where to begin.
        steps: the next speedup up and the next one down, until one holds and its neighbour does not.
        enough: ratio of the two to end with.
    """
    up, down = steps
    if holds(first):
        low = high = first
        while high < LARGEST:
            high = min(up(low), LARGEST)
            if not holds(high):
                break
            low = high
        else:
            return low
    else:
        low, high = down(first), first
        while low > SMALLEST and not holds(low):
            low, high = down(low), low
        if low <= SMALLEST:
            if not holds(SMALLEST):
                return None
            low = SMALLEST
    while high / low > enough:
        middle = sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _none_holds(allowed: float, tried: list[tuple[float, AccuracyLoss]]) -> str:
    if not tried:
        return f"max-drop {allowed:g}: no speedup of {SMALLEST:g} or more can be reached: most is in layers that stay"
    speedup, drop = min(reversed(tried), key=lambda each: each[0])
    return (
        f"max-drop {allowed:g}: no speedup of {SMALLEST:g} or more stays within it; the smallest tried, "
        f"{speedup:.2f}: {drop}: allow more, or solve with more `samples`"
    )
