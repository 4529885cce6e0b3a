"""Threads: of the linear algebra, and of work that is shared out.

The thread that signals reach takes no lock here that is written in Python. Ctrl-C raises an exception between any two
of its instructions: inside of `concurrent.futures` that leaves a lock held which the pool's threads wait for, and the
pool's end waits for them, for ever. So a pool lives on a thread of its own, where no exception lands from outside, and
who waits for it waits in C.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Generic, TypeVar

from threadpoolctl import ThreadpoolController

from onnx_lowrank import interruption

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_WORKERS = 4  # items that are worked on at a time: each takes memory
_LONGEST_WAIT_S = 0.1  # in one piece: on Windows, waiting for a lock holds Ctrl-C up


class Background(Generic[Result]):
    """A call on a thread of its own, which signals do not reach.

    Args:
        call: what to do.
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._outcome: Callable[[], Result] | None = None
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        _thread.start_new_thread(self._run, ())

    def wait(self) -> None:
        """Wait for the call to end, however it does."""
        while self._outcome is None:
            self._ended.acquire(timeout=_LONGEST_WAIT_S)

    def result(self) -> Result:
        """Wait for the call to end and return its result, or raise its exception."""
        self.wait()
        assert self._outcome is not None
        return self._outcome()

    def _run(self) -> None:
        try:
            self._outcome = _returning(self._call())
        except BaseException as error:  # raised again by `result`
            self._outcome = _raising(error)
        self._ended.release()


def on_threads(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> list[Result]:
    """Return ``work(item)`` of every item, on several threads.

    Args:
        work: what to do.
        items: what to do it with.
        count: threads.

    Raises:
        BaseException: what ``work`` raises; items that have not been begun by then are left out.
    """
    abandoned = False

    def work_on(item: Item) -> Result:
        interruption.check()
        if abandoned:
            raise InterruptedError  # nobody waits for it any more
        return work(item)

    def work_on_all() -> list[Result]:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work_on, items))

    background = Background(work_on_all)
    try:
        return background.result()
    except BaseException:
        abandoned = True
        background.wait()
        raise


def one_thread() -> AbstractContextManager[Any]:
    """Limit the linear algebra to one thread inside the block, for eigenvalue problems and small products.

    Eigenvalue problems synchronize threads so often that a second one gains nothing, and each time wait for a core
    that is busy: 512 x 512 may take seconds instead of hundredths of a second.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return ``work(item)`` of every item, on as many threads as the linear algebra may use; it then uses one."""
    allowed = [int(library["num_threads"]) for library in _controller().info() if library["user_api"] == "blas"]
    with one_thread():
        return on_threads(work, items, min(_MAX_WORKERS, max(allowed, default=1)))


def threads_text(count: int | None) -> str:
    """Return a number of threads in words; 0 or None stands for the default of the runtime.

    >>> threads_text(1), threads_text(2), threads_text(0)
    ('1 thread', '2 threads', 'default threads')
    """
    return f"{count} thread{'s' if count > 1 else ''}" if count else "default threads"


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _returning(result: Result) -> Callable[[], Result]:
    return lambda: result


def _raising(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again
