"""Threads: of the linear algebra, and of work that is shared out.

The thread that signals reach takes no lock here that is written in Python. Ctrl-C raises an exception between any two
of its instructions: inside of `concurrent.futures` that leaves a lock held which the pool's threads wait for, and the
pool's end waits for them, for ever. So a pool lives on a thread of its own, where no exception lands from outside, and
who waits for it waits in C.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from onnx_lowrank import interruption

Item = TypeVar("Item")
Result = TypeVar("Result")

_workers: ContextVar[int] = ContextVar("workers", default=1)  # no other thread sees what is set: work inside of work
_LONGEST_WAIT_S = 0.1  # in one piece: on Windows, waiting for a lock holds Ctrl-C up


class Background:
    """A call on a thread of its own, which signals do not reach.

    Args:
        call: what to do; it must not raise.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._is_over = False
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        _thread.start_new_thread(self._run, ())

    def wait(self) -> None:
        """Wait for the call to end."""
        while not self._is_over:
            self._ended.acquire(timeout=_LONGEST_WAIT_S)

    def _run(self) -> None:
        try:
            self._call()
        finally:
            self._is_over = True
            self._ended.release()


def on_threads(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, on several threads.

    Args:
        work: what to do.
        items: what to do it with.
        count: threads.

    Raises:
        BaseException: what ``work`` raises; items that have not been begun by then are left out.
    """
    results: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()  # written in C; None comes last
    is_wanted = True

    def work_on(item: Item) -> Result:
        interruption.check()
        if not is_wanted:
            raise InterruptedError  # which nobody sees
        return work(item)

    def work_on_all() -> None:
        try:
            with ThreadPoolExecutor(count) as pool:
                for result in pool.map(work_on, items):
                    results.put(_returning(result))
        except BaseException as error:  # raised where the result is waited for
            results.put(_raising(error))
        results.put(None)

    background = Background(work_on_all)
    try:
        while (result := results.get()) is not None:
            yield result()
    finally:
        is_wanted = False
        background.wait()


def one_thread() -> AbstractContextManager[Any]:
    """Limit the linear algebra to one thread inside the block, for eigenvalue problems and small products.

    Eigenvalue problems synchronize threads so often that a second one gains nothing, and each time wait for a core
    that is busy: 512 x 512 may take seconds instead of hundredths of a second.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Have `side_by_side` use so many threads inside the block, and the linear algebra one on each of them.

    The linear algebra's own threads wait for each other after every product, and keep a core busy while they do. Beside
    other programs that takes several times as long as one thread; work in larger pieces does not mind.
    """
    token = _workers.set(count)
    try:
        with one_thread():
            yield
    finally:
        _workers.reset(token)


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], most: int | None = None) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, on the threads that `workers` allows; what is inside uses one.

    Args:
        work: what to do.
        items: what to do it with.
        most: threads at most.
    """
    count = _workers.get() if most is None else min(_workers.get(), most)
    if count > 1:
        yield from on_threads(work, items, count)
        return
    for item in items:
        interruption.check()
        yield work(item)


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
