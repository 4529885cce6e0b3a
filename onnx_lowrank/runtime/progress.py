"""How a long-running stage tells whoever watches how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Watches stages; the command line draws bars, everyone else uses `Silent`."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """Hand ``items`` through while counting them as steps of ``stage``."""
        ...


class Silent:
    """Watches nothing."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:  # noqa: ARG002
        """Hand ``items`` through."""
        yield from items
