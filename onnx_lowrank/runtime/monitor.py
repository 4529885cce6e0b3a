"""Watch one conversion: its progress, and its seconds by stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from onnx_lowrank import interruption
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.runtime.stopwatch import Stopwatch

Item = TypeVar("Item")


class Monitor:
    """Hands progress on to whoever watches, and adds up seconds by stage.

    Args:
        progress: watches; None for nobody.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress: Progress = progress or Silent()
        self._stopwatch = Stopwatch()

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
        """Hand ``items`` through while counting them as steps of ``stage``, of which there are ``total``."""
        for item in self._progress.track(items, stage, total):
            interruption.check()
            yield item

    def measure(self, stage: str) -> AbstractContextManager[None]:
        """Count what happens inside the block as time of ``stage``."""
        return self._stopwatch.measure(stage)

    def seconds(self, stages: tuple[str, ...]) -> dict[str, float]:
        """Return seconds by stage, 0 for those that never ran, and the ``total`` since the start."""
        return self._stopwatch.seconds(stages)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return self._stopwatch.total

    def restarted(self) -> Monitor:
        """Return a monitor with the same progress whose seconds start at zero."""
        return Monitor(self._progress)
