"""Progress counts samples, whatever the size of the batches they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.runtime.progress import track_samples


class Counted:
    """Follows one stage."""

    def __init__(self) -> None:
        self.stage, self.total, self.done, self.ended = "", 0, 0, False

    def track(self, items: Iterable[Any], stage: str, total: int) -> Iterator[Any]:
        self.stage, self.total = stage, total
        for item in items:
            yield item
            self.done += 1
        self.ended = True


def batches(*sizes: int) -> list[dict[str, Any]]:
    return [{"x": np.zeros((size, 3)), "y": np.zeros(size)} for size in sizes]


def test_samples_are_counted_once_they_have_been_worked_on() -> None:
    counted = Counted()
    seen = [(len(batch["x"]), counted.done) for batch in track_samples(counted, batches(4, 4, 2), "collect", 10)]
    assert seen == [(4, 0), (4, 4), (2, 8)]
    assert (counted.stage, counted.total, counted.done, counted.ended) == ("collect", 10, 10, True)


def test_an_error_on_the_way_comes_through() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from batches(2)
        raise ValueError("second batch")

    counted = Counted()
    with pytest.raises(ValueError, match="second batch"):
        list(track_samples(counted, broken(), "verify", 4))
    assert (counted.done, counted.ended) == (2, False)
