"""Threads of the linear algebra, and the text for a number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_WORKERS = 4  # items that are worked on at a time: each takes memory


def one_thread() -> AbstractContextManager[Any]:
    """Limit the linear algebra to one thread inside the block, for eigenvalue problems and small products.

    Eigenvalue problems synchronize threads so often that a second one gains nothing, and each time wait for a core
    that is busy: 512 x 512 may take seconds instead of hundredths of a second.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, on as many threads as the linear algebra may use; it then uses one.

    Read it to its end: until then the linear algebra stays at one thread.
    """
    allowed = [int(library["num_threads"]) for library in _controller().info() if library["user_api"] == "blas"]
    with one_thread(), ThreadPoolExecutor(min(_MAX_WORKERS, max(allowed, default=1))) as pool:
        yield from pool.map(work, items)


def threads_text(count: int | None) -> str:
    """Return a number of threads in words; 0 or None stands for the default of the runtime.

    >>> threads_text(1), threads_text(2), threads_text(0)
    ('1 thread', '2 threads', 'default threads')
    """
    return f"{count} thread{'s' if count > 1 else ''}" if count else "default threads"


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
