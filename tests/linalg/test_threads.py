"""Work side by side keeps its order, and to the threads that it may take."""

from __future__ import annotations

import threading
import time

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onnx_lowrank.linalg.threads import on_threads, side_by_side, workers


def blas_threads() -> int:
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")


@pytest.mark.parametrize("allowed", [1, 2])
def test_side_by_side(allowed: int) -> None:
    meeting = threading.Barrier(allowed)
    inside: set[int] = set()

    def work(item: int) -> int:
        meeting.wait(timeout=30)  # all threads that are allowed are at work at once
        inside.add(blas_threads())
        return item * item

    with threadpool_limits(3), workers(allowed):
        assert list(side_by_side(work, range(6))) == [0, 1, 4, 9, 16, 25]
    assert inside == {1}


def test_work_inside_of_work_is_not_shared_out_again() -> None:
    def work(item: int) -> set[int]:
        here = threading.get_ident()
        return set(side_by_side(lambda _: threading.get_ident() - here, range(4)))

    with workers(2):
        assert list(side_by_side(work, range(4))) == [{0}] * 4


def test_most() -> None:
    meeting = threading.Barrier(2)
    with workers(2):
        assert threading.get_ident() in set(side_by_side(lambda _: threading.get_ident(), range(4), 1))
        assert len(set(side_by_side(lambda _: meeting.wait(timeout=30), range(4), 3))) == 2


def test_nothing_to_do() -> None:
    assert list(side_by_side(str, [])) == []


def test_errors_come_through() -> None:
    def fails(item: int) -> int:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(side_by_side(fails, range(3)))


def test_what_nobody_waits_for_is_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    results = on_threads(work, range(1_000), 2)
    assert next(results) == 0
    results.close()
    count = len(begun)
    assert count < 100
    time.sleep(0.1)
    assert len(begun) == count
