"""The limit of the linear algebra to one thread: whose it is, when it ends, and what else sets one."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_limits

from onnx_lowrank.linalg import blas_threads as module
from onnx_lowrank.linalg.blas_threads import one_thread, unlimited_threads
from onnx_lowrank.linalg.threads import on_threads, workers
from tests.helpers import blas_threads


def test_the_limit_of_one_thread_ends_with_the_last_that_holds_it() -> None:
    """Two conversions of one process, the first of which ends first."""
    with threadpool_limits(3, user_api="blas"):
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        assert (blas_threads(), unlimited_threads()) == (1, 3)
        first.__exit__(None, None, None)
        assert (blas_threads(), unlimited_threads()) == (1, 3)
        second.__exit__(None, None, None)
        assert (blas_threads(), unlimited_threads()) == (3, 3)


def test_limit_of_one_thread_beside_limits_of_another_thread() -> None:
    """Whoever limits the linear algebra on the main thread keeps no other thread from it, nor is kept from it."""
    inside: list[int] = []

    def limited() -> None:
        with one_thread():
            inside.append(blas_threads())

    threadpool_limits(3, user_api="blas").restore_original_limits()  # threadpoolctl 3.8 remembers this thread
    with threadpool_limits(3, user_api="blas"):
        other = threading.Thread(target=limited)
        other.start()
        other.join()
        assert inside == [1]
        assert blas_threads() == 3
        with threadpool_limits(2, user_api="blas"):
            assert blas_threads() == 2
        assert blas_threads() == 3


class OfEachThread(threading.local):
    """A library that each thread limits for itself, as OpenBLAS does that was built with OpenMP."""

    user_api, threading_layer, num_threads = "blas", "openmp", 3

    def set_num_threads(self, count: int) -> None:
        self.num_threads = count


def test_a_limit_that_each_thread_has_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    library = OfEachThread()
    monkeypatch.setattr(module, "_controller", lambda: SimpleNamespace(lib_controllers=[library]))

    def work(_: int) -> tuple[int, int]:
        with one_thread():
            inside = library.num_threads
        return inside, library.num_threads

    assert unlimited_threads() == 3
    with workers(2):
        assert library.num_threads == 1
        assert set(on_threads(work, range(20), 2)) == {(1, 3)}
    assert library.num_threads == 3


def test_holding_the_limit_of_one_thread_on_many_threads() -> None:
    def work(_: int) -> int:
        with one_thread():
            time.sleep(0.001)
            return blas_threads()

    with threadpool_limits(3, user_api="blas"):
        assert set(on_threads(work, range(100), 4)) == {1}
        assert blas_threads() == 3
