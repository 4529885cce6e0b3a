"""The largest speedup whose loss stays within what is allowed: bisection on a logarithmic scale.

Losses grow with the speedup, up to noise. Quick attempts, on fewer images, narrow it down to a range. The final
attempts, converted as the network will be written, begin one step above the largest that holds, and go up or down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Generic, Protocol, TypeVar

from onnx_lowrank.errors import BudgetError

log = logging.getLogger(__name__)

MIN_SPEEDUP, MAX_SPEEDUP = 1.05, 64.0
_FIRST_SPEEDUP = 2.0
_STEP_FACTOR = 1.06
_QUICK_RATIO, _FINAL_RATIO = 1.1, 1.03  # of the smallest speedup that fails to the largest that holds, at the end


class Loss(Protocol):
    """What a network has lost; its text is part of error messages."""

    @property
    def value(self) -> float:
        """The loss, as a share."""
        ...


LossT = TypeVar("LossT", bound=Loss)
ConvertedT = TypeVar("ConvertedT")
Loss_co = TypeVar("Loss_co", bound=Loss, covariant=True)
Converted_co = TypeVar("Converted_co", covariant=True)


@dataclass(frozen=True)
class Search(Generic[ConvertedT, LossT]):
    """A finished search.

    Attributes:
        speedup: the largest whose loss is within what is allowed.
        network: converted at that speedup, not quickly.
        loss: of that network, on the samples that are searched with.
        tried: speedups and losses in the order they were tried, quick ones first.
    """

    speedup: float
    network: ConvertedT
    loss: LossT
    tried: tuple[tuple[float, float], ...]


class Attempt(Protocol[Converted_co, Loss_co]):
    """Converts at a speedup and judges the result."""

    def __call__(self, speedup: float, *, quick: bool) -> tuple[Converted_co, Loss_co]:
        """Return the converted network and its loss; raise BudgetError where the speedup is out of reach."""
        ...


def largest_speedup(attempt: Attempt[ConvertedT, LossT], allowed: float) -> Search[ConvertedT, LossT]:
    """Search for the largest speedup whose loss is within what is allowed.

    Args:
        attempt: converts at a speedup and judges the result.
        allowed: largest loss, as a share.

    Raises:
        BudgetError: not even `MIN_SPEEDUP` holds.
    """
    attempts = _Attempts(attempt, allowed)
    rough = _largest(attempts.hold_quickly, _FIRST_SPEEDUP, (lambda speedup: speedup**2, sqrt), _QUICK_RATIO)
    first = min((rough or MIN_SPEEDUP) * _STEP_FACTOR, MAX_SPEEDUP)
    _largest(
        attempts.hold,
        first,
        (lambda speedup: speedup * _STEP_FACTOR, lambda speedup: speedup / _STEP_FACTOR),
        _FINAL_RATIO,
    )
    if attempts.best is None:
        raise BudgetError(attempts.failure())
    speedup, network, loss = attempts.best
    return Search(speedup, network, loss, tuple((speedup, loss.value) for speedup, loss in attempts.tried))


class _Attempts(Generic[ConvertedT, LossT]):
    """Converts at speedups and remembers how much each lost, and the best network that holds."""

    def __init__(self, attempt: Attempt[ConvertedT, LossT], allowed: float) -> None:
        self._attempt_at, self._allowed = attempt, allowed
        self.best: tuple[float, ConvertedT, LossT] | None = None
        self.tried: list[tuple[float, LossT]] = []

    def hold_quickly(self, speedup: float) -> bool:
        return self._attempt(speedup, quick=True) is not None

    def hold(self, speedup: float) -> bool:
        attempt = self._attempt(speedup, quick=False)
        if attempt is not None and (self.best is None or speedup > self.best[0]):
            self.best = speedup, *attempt
        return attempt is not None

    def _attempt(self, speedup: float, *, quick: bool) -> tuple[ConvertedT, LossT] | None:
        """Attempt at a speedup; None where it is out of reach or loses more than is allowed."""
        where = f"max-drop {self._allowed:g}: attempt {len(self.tried) + 1}, {speedup:.2f}x"
        log.info("%s, %s", where, "solved quickly" if quick else "solved as it would be written")
        try:
            network, loss = self._attempt_at(speedup, quick=quick)
        except BudgetError as error:
            log.info("%s: out of reach: %s", where, error)
            return None
        self.tried.append((speedup, loss))
        holds = loss.value <= self._allowed
        log.info("%s: %s: %s", where, loss, "within" if holds else "too much")
        return (network, loss) if holds else None

    def failure(self) -> str:
        allowed = f"max-drop {self._allowed:g}"
        if not self.tried:
            return f"{allowed}: no speedup of {MIN_SPEEDUP:g} or more can be reached: most is in layers that stay"
        speedup, loss = min(reversed(self.tried), key=lambda each: each[0])
        return (
            f"{allowed}: no speedup of {MIN_SPEEDUP:g} or more stays within it; the smallest tried, "
            f"{speedup:.2f}: {loss}: allow more, or solve with more `samples`"
        )


_Step = Callable[[float], float]


def _largest(holds: Callable[[float], bool], first: float, steps: tuple[_Step, _Step], ratio: float) -> float | None:
    """Find the largest speedup that holds, up to a factor ``ratio``; None where not even the smallest does.

    Args:
        holds: whether a speedup does.
        first: where to begin.
        steps: the next speedup up and the next one down, until one holds and its neighbour does not.
        ratio: of the two to end with.
    """
    up, down = steps
    if holds(first):
        low = high = first
        while high < MAX_SPEEDUP:
            high = min(up(low), MAX_SPEEDUP)
            if not holds(high):
                break
            low = high
        else:
            return low
    else:
        low, high = down(first), first
        while low > MIN_SPEEDUP and not holds(low):
            low, high = down(low), low
        if low <= MIN_SPEEDUP:
            if not holds(MIN_SPEEDUP):
                return None
            low = MIN_SPEEDUP
    while high / low > ratio:
        middle = sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
