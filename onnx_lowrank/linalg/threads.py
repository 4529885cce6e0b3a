"""How many threads the linear algebra takes, and how a number of threads is put in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Made = TypeVar("Made")

_SIDE_BY_SIDE = 4  # items in work at a time, at most: each takes memory


def one_thread() -> AbstractContextManager[Any]:
    """Keep eigenvalue problems on one thread inside the block.

    They hand over between threads so often that a second one gains nothing, and where the other core is busy each
    hand-over waits for it: 512 x 512 was seen to take seconds instead of hundredths.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


def side_by_side(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What ``work`` makes of each item, on as many threads as the linear algebra may take now; within, it takes one."""
    allowed = [int(library["num_threads"]) for library in _controller().info() if library["user_api"] == "blas"]
    with one_thread(), ThreadPoolExecutor(min(_SIDE_BY_SIDE, max(allowed, default=1))) as pool:
        return list(pool.map(work, items))


def threads_text(count: int | None) -> str:
    """A number of threads in words; 0 or None is the default of whoever runs them.

    >>> threads_text(1), threads_text(2), threads_text(0)
    ('1 thread', '2 threads', 'default threads')
    """
    return f"{count} thread{'s' if count > 1 else ''}" if count else "default threads"


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
