"""Threads that work is shared out among.

The thread that signals reach takes no lock here that is written in Python. Ctrl-C raises an exception between any two
of its instructions: inside of `concurrent.futures` that leaves a lock held which the pool's threads wait for, and the
pool's end waits for them, for ever. So work goes to other threads, and results come back, through queues written in C.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from onnx_lowrank import interruption
from onnx_lowrank.linalg.blas_threads import one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

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


class Crew:
    """Threads that wait for work, and begin when the first of it comes.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # None ends a thread
        self._missing = size

    def do(self, work: Callable[[], None]) -> None:
        """Have the next thread that is free do some work, which must not raise."""
        while self._missing:
            self._missing -= 1
            _thread.start_new_thread(self._serve, ())
        self._works.put(work)

    def dismiss(self) -> None:
        """End the threads once they have done what they were given."""
        for _ in range(self.size - self._missing):
            self._works.put(None)

    def _serve(self) -> None:
        while (work := self._works.get()) is not None:
            work()


class _Shared(Generic[Item, Result]):
    """Work on items that several threads take from a queue.

    Args:
        work: what to do.
        items: what to do it with.

    Attributes:
        count: of the items.
        results: the number of an item and what returns or raises its result, in any order.
    """

    def __init__(self, work: Callable[[Item], Result], items: Iterable[Item]) -> None:
        self._work, self._is_wanted = work, True
        self._items: SimpleQueue[tuple[int, Item]] = SimpleQueue()
        self.results: SimpleQueue[tuple[int, Callable[[], Result]]] = SimpleQueue()
        self.count = 0
        for item in items:
            self._items.put((self.count, item))
            self.count += 1
        self._at_work: list[_thread.LockType] = []

    def take(self) -> None:
        """Do one item after the other until none is left, or none wanted."""
        at_work = _thread.allocate_lock()
        with at_work, interruption.while_wanted(lambda: self._is_wanted):
            self._at_work.append(at_work)  # before it looks: so `end` knows of it, or it sees the end
            while self._is_wanted:
                try:
                    number, item = self._items.get_nowait()
                except Empty:
                    return
                self.results.put((number, self._done(item)))

    def end(self) -> None:
        """Have no more items begun, and wait for those that are, up to their next `interruption.check`."""
        self._is_wanted = False
        for at_work in self._at_work:
            while not at_work.acquire(timeout=_LONGEST_WAIT_S):
                pass

    def _done(self, item: Item) -> Callable[[], Result]:
        try:
            interruption.check()
            return _returning(self._work(item))
        except BaseException as error:  # raised where the result is waited for
            return _raising(error)


_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)  # no other thread sees what is set: work inside work


def on_threads(
    work: Callable[[Item], Result], items: Iterable[Item], count: int, crew: Crew | None = None
) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, on several threads.

    Args:
        work: what to do.
        items: what to do it with.
        count: threads at most.
        crew: whose threads they are; of their own if not given.

    Raises:
        BaseException: what ``work`` raises; items that have not been begun by then are left out.
    """
    shared, threads = _Shared(work, items), crew or Crew(count)
    arrived: dict[int, Callable[[], Result]] = {}
    try:
        for _ in range(min(count, shared.count)):
            threads.do(shared.take)
        for number in range(shared.count):
            while number not in arrived:
                other, result = shared.results.get()
                arrived[other] = result
            yield arrived.pop(number)()
    finally:
        shared.end()
        if crew is None:
            threads.dismiss()


@contextmanager
def workers(count: int) -> Iterator[None]:
    """Have `side_by_side` use so many threads inside the block, and the linear algebra one on each of them.

    The linear algebra's own threads wait for each other after every product, and keep a core busy while they do. Beside
    other programs that takes several times as long as one thread; work in larger pieces does not mind.
    """
    crew = Crew(count)
    token = _crew.set(crew)
    try:
        with one_thread():
            yield
    finally:
        _crew.reset(token)
        crew.dismiss()


def allowed() -> int:
    """Return how many threads `side_by_side` uses here."""
    crew = _crew.get()
    return 1 if crew is None else crew.size


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], most: int | None = None) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, on the threads that `workers` allows; what is inside uses one.

    Args:
        work: what to do.
        items: what to do it with.
        most: threads at most.
    """
    count = allowed() if most is None else min(allowed(), most)
    if count > 1:
        yield from on_threads(work, items, count, _crew.get())
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


def _returning(result: Result) -> Callable[[], Result]:
    return lambda: result


def _raising(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again
