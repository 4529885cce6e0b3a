"""How much memory this process may still take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def within(gigabytes: float | None, held: int = 0) -> int:
    """Bytes that a bound leaves beside those that are ``held`` already; half of what is free where there is none."""
    return free_bytes() // 2 if gigabytes is None else max(0, int(gigabytes * 1e9) - held)


def free_bytes() -> int:
    """Memory that is available, on the machine and in its container; half of all there is where nothing says it."""
    found = [*_on_machine(), *_in_container()]
    return min(found) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _on_machine() -> list[int]:
    with suppress(OSError, ValueError):
        lines = _MEMINFO.read_text().splitlines()
        return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return []


def _in_container() -> list[int]:
    with suppress(OSError, ValueError):  # no limit is the word max
        limit, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        return [max(0, limit - used)]
    return []
