"""Work side by side keeps its order, and to the threads that it may take."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from threadpoolctl import threadpool_limits

from onnx_lowrank import interruption
from onnx_lowrank.linalg.threads import Crew, on_threads, side_by_side, workers
from tests.helpers import blas_threads


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


def test_what_has_begun_is_waited_for() -> None:
    """So that nothing works on with files or arrays that its caller takes away."""
    first_is_done = threading.Event()
    ended: list[int] = []

    def work(item: int) -> int:
        if item:
            first_is_done.wait(timeout=30)
            time.sleep(0.1)
        ended.append(item)
        return item

    results = on_threads(work, range(2), 2)
    assert next(results) == 0
    first_is_done.set()
    results.close()
    assert ended == [0, 1]


def test_a_crew_keeps_its_threads_and_ends_with_its_block() -> None:
    def names() -> set[int]:
        meeting = threading.Barrier(3)

        def work(_: int) -> int:
            meeting.wait(timeout=30)
            return threading.get_ident()

        return set(side_by_side(work, range(3)))

    with workers(3):
        threads = names()
        assert threads == names()
    end = time.monotonic() + 30
    while threads & sys._current_frames().keys():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_crew_has_as_few_at_work_as_asked_for() -> None:
    crew, at_work, most = Crew(4), set[int](), 0

    def work(item: int) -> int:
        nonlocal most
        at_work.add(item)
        most = max(most, len(at_work))
        time.sleep(0.01)
        at_work.remove(item)
        return item

    assert list(on_threads(work, range(8), 2, crew)) == list(range(8))
    crew.dismiss()
    assert most == 2


def test_a_crew_does_several_works_at_a_time() -> None:
    """One is not over when the next begins: its results are fetched later."""
    with workers(2):
        first = side_by_side(str, range(4))
        assert next(first) == "0"
        assert list(side_by_side(str, range(3))) == ["0", "1", "2"]
        assert list(first) == ["1", "2", "3"]


def test_work_that_fails_leaves_the_crew_intact() -> None:
    def fails(item: int) -> int:
        raise ValueError(f"item {item}")

    with workers(2):
        for _ in range(3):
            with pytest.raises(ValueError, match="item 0"):
                list(side_by_side(fails, range(5)))
        assert list(side_by_side(str, range(3))) == ["0", "1", "2"]


def test_work_that_nobody_waits_for_ends_at_its_next_look() -> None:
    begun = threading.Event()

    def work(item: int) -> int:
        if item:
            begun.set()
            while True:
                interruption.check()
                time.sleep(0.001)
        begun.wait(timeout=30)
        return item

    results = on_threads(work, range(2), 2)
    assert next(results) == 0
    results.close()
    interruption.check()  # this thread is wanted
    assert list(on_threads(str, range(2), 2)) == ["0", "1"]
