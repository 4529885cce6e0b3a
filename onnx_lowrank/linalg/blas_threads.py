"""How many threads the linear algebra of NumPy and SciPy uses: one, while anybody here asks for that."""

from __future__ import annotations

import _thread
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class _OneThread:
    """The limit of the linear algebra to one thread: it is the whole process's, and ends with the last that holds it.

    Were every holder to restore what it found, the last one would restore the limit of another, for good.
    """

    def __init__(self) -> None:
        self._lock = _thread.RLock()  # an abandoned block may end wherever garbage is collected, here too
        self._holders: list[object] = []
        self._before: list[tuple[Any, int]] | None = None  # libraries and their threads; None where nobody holds it

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the limit inside the block."""
        holder = object()
        of_this_thread: list[tuple[Any, int]] = []
        try:
            with self._lock:
                self._holders.append(holder)
                if self._before is None:
                    self._before = _numbers(of_each_thread=False)
                    _set((library, 1) for library, _ in self._before)
            of_this_thread = _numbers(of_each_thread=True)
            _set((library, 1) for library, _ in of_this_thread)
            yield
        finally:
            _set(of_this_thread)
            with self._lock:
                if holder in self._holders:
                    self._holders.remove(holder)
                if self._before is not None and not self._holders:
                    _set(self._before)
                    self._before = None

    def without(self) -> int:
        """Return the threads that the linear algebra takes where nobody holds the limit."""
        shared = self._before or _numbers(of_each_thread=False)
        return max((count for _, count in (*shared, *_numbers(of_each_thread=True))), default=1)


def _numbers(*, of_each_thread: bool) -> list[tuple[Any, int]]:
    """Return libraries and their numbers of threads: those that each thread sets for itself, or those of the process.

    OpenBLAS that was built with OpenMP has one for each thread.
    """
    libraries = [each for each in _controller().lib_controllers if each.user_api == "blas"]
    own = [getattr(each, "threading_layer", None) == "openmp" for each in libraries]
    return [
        (each, int(each.num_threads)) for each, is_own in zip(libraries, own, strict=True) if is_own == of_each_thread
    ]


def _set(numbers: Iterable[tuple[Any, int]]) -> None:
    """Set the threads of libraries, whichever thread did so last.

    From 3.8 on, threadpoolctl lets only the first thread set those of OpenBLAS that ever did, until it is made to
    forget it.
    """
    for library, count in numbers:
        forget = getattr(library, "clear_controlling_thread", lambda **_: None)
        forget(force=True)
        library.set_num_threads(count)
        forget(force=True)


_one_thread = _OneThread()


def one_thread() -> AbstractContextManager[None]:
    """Limit the linear algebra to one thread inside the block, for eigenvalue problems and small products.

    Eigenvalue problems synchronize threads so often that a second one gains nothing, and each time wait for a core
    that is busy: 512 x 512 may take seconds instead of hundredths of a second.
    """
    return _one_thread.held()


def unlimited_threads() -> int:
    """Return the threads that the linear algebra takes by itself, outside of `one_thread`."""
    return _one_thread.without()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
