"""How many threads this process should use by default: what it may use of the machine, not what the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path

from onnx_lowrank.linalg.blas_threads import unlimited_threads
from onnx_lowrank.linalg.threads import workers
from onnx_lowrank.runtime.cgroup import read_limits

_CPUS = Path("/sys/devices/system/cpu")


def usable_cores() -> int:
    """Return the number of cores that this process may keep busy.

    The fewer of the cores that it may run on, two threads of one counted once, and of what its control groups allow.
    """
    return min([_cores(), *_allowed()])


def _allowed() -> list[int]:
    """Return the cores that control groups allow: microseconds of work in a period, by its length."""
    quotas = read_limits("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return [ceil(quota / period) for quota, period in quotas if quota and period]


def _cores() -> int:
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in cpus:
        siblings = str(cpu)
        with suppress(OSError):
            siblings = (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        cores.add(siblings)
    return len(cores)


@contextmanager
def linear_algebra_threads(count: int | None) -> Iterator[None]:
    """Share work that can be out among threads inside the block, each with one thread of the linear algebra.

    Args:
        count: threads; None for as many as the linear algebra takes by itself, and no more than there are usable cores.
    """
    with workers(count or min(unlimited_threads(), usable_cores())):
        yield
