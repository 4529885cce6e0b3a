"""Search along values in order where an error falls and rises again: downhill from where one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Tried = TypeVar("Tried")


@dataclass(frozen=True, eq=False)
class Lowest(Generic[Tried]):
    """What a search found.

    Attributes:
        value: the one with the lowest error.
        error: its error.
        result: what came of it.
    """

    value: float
    error: float
    result: Tried


def lowest(
    attempt: Callable[[float], tuple[float, Tried]], values: Sequence[float], start: float | None = None
) -> Lowest[Tried]:
    """Find the value with the lowest error, as long as it falls.

    Args:
        attempt: returns error and result of a value; called once per value at most.
        values: to choose from, in order.
        start: one of them to begin with; None for the middle one.
    """
    best = len(values) // 2 if start is None else values.index(start)
    tried = {best: attempt(values[best])}
    for direction in (-1, 1):
        while 0 <= (position := best + direction) < len(values):
            if position not in tried:
                tried[position] = attempt(values[position])
            if not tried[position][0] < tried[best][0]:
                break
            best = position
    return Lowest(values[best], *tried[best])
