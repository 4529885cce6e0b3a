"""Memory that this process may still use, in bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from onnx_lowrank.runtime.cgroup import read_limits

_MEMINFO = Path("/proc/meminfo")
_FILES = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def budget_bytes(gigabytes: float | None, held: int = 0) -> int:
    """Return how many more bytes may be used.

    Args:
        gigabytes: bound on all that is held, in 1e9 bytes; None for half of what is free now.
        held: bytes that count against the bound already.
    """
    return free_bytes() // 2 if gigabytes is None else max(0, int(gigabytes * 1e9) - held)


def free_bytes() -> int:
    """Return the available memory of the machine or its container; half of all memory where neither is known."""
    available = [*_on_machine(), *_in_container()]
    return min(available) if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _on_machine() -> list[int]:
    with suppress(OSError, ValueError):
        lines = _MEMINFO.read_text().splitlines()
        return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return []


def _in_container() -> list[int]:
    found = read_limits("memory", *_FILES)
    return [max(0, limit - used) for limit, used in found if limit is not None and used is not None]
