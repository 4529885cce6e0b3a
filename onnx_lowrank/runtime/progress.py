"""Progress of long-running stages, for the command line to show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Follows stages; the command line draws bars, all others use `Silent`."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """Yield ``items`` and count them as steps of a stage.

        Args:
            items: what the stage works on.
            stage: its name.
            total: number of items.
        """
        ...


class Silent:
    """Shows nothing."""

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:  # noqa: ARG002
        """Yield ``items``."""
        yield from items
