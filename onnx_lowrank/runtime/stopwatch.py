"""Wall-clock seconds by stage, and the peak memory of the process."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")  # of Linux


class Stopwatch:
    """Adds up wall-clock seconds by stage."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start

    def seconds(self, stages: tuple[str, ...]) -> dict[str, float]:
        """Return seconds by stage, 0 for those that never ran, and the ``total`` since the start."""
        measured = {stage: self._seconds.get(stage, 0.0) for stage in stages}
        return measured | {"total": self.total}


def peak_memory_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    On Linux this is VmHWM, which begins anew with every program. The maximum that `resource` gives is handed down: in a
    conversion that a program of 10 GB has started, it would be at least 10 GB.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak if sys.platform == "darwin" else peak * 1024
