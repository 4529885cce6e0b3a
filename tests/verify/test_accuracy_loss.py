"""What a network loses, against counts by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.verify import measure_loss
from onnx_lowrank.verify.cached_session import CachedSession
from onnx_lowrank.verify.intervals import paired_interval, share_interval
from tests.helpers import normal, relative

Array = NDArray[Any]


class Made:
    """Takes the place of a session: what it makes of a batch is a function of it."""

    def __init__(self, **outputs: Any) -> None:
        self._outputs, self.runs = outputs, 0
        self.outputs = self.numeric_outputs = tuple(outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.runs += 1
        return {name: function(feeds["x"]) for name, function in self._outputs.items()}


def scores(classes: Array) -> Array:
    return np.eye(4, dtype=np.float32)[classes]


def batches(values: Array, size: int) -> Iterator[dict[str, Array]]:
    for start in range(0, len(values), size):
        yield {"x": values[start : start + size]}


GENERATOR = np.random.default_rng(3)
OURS, THEIRS, TRUTH = (GENERATOR.integers(0, 4, 90) for _ in range(3))


def networks() -> tuple[Made, Made]:
    return Made(y=lambda x: scores(OURS[x])), Made(y=lambda x: scores(THEIRS[x]))


@pytest.mark.parametrize("size", [1, 7, 90])
def test_another_class(size: int) -> None:
    found = measure_loss(*networks(), batches(np.arange(90), size))
    other = int((OURS != THEIRS).sum())
    assert (found.value, found.images, found.what) == (other / 90, 90, "other top class")
    assert found.interval == share_interval(other, 90)


@pytest.mark.parametrize("size", [4, 90])
def test_loss_of_top_1(size: int) -> None:
    found = measure_loss(*networks(), batches(np.arange(90), size), TRUTH)
    lost = int(((OURS == TRUTH) & (THEIRS != TRUTH)).sum())
    won = int(((OURS != TRUTH) & (THEIRS == TRUTH)).sum())
    assert found.value == pytest.approx((OURS == TRUTH).mean() - (THEIRS == TRUTH).mean(), abs=1e-12, rel=0)
    assert (found.images, found.what) == (90, "loss of top-1")
    assert found.interval == paired_interval(lost, won, 90)


def test_the_worst_output_where_nothing_scores_classes() -> None:
    x = normal(0, 40, 3, 5, 5)
    near, far = normal(1, 40, 3, 5, 5), normal(2, 40, 3, 5, 5)
    place = {x[number].tobytes(): number for number in range(40)}

    def shifted(noise: Array, share: float) -> Any:
        return lambda batch: batch + share * noise[[place[each.tobytes()] for each in batch]]

    original = Made(a=lambda batch: batch, b=lambda batch: batch, n=lambda batch: np.full(7, len(batch)))
    converted = Made(a=shifted(near, 0.1), b=shifted(far, 0.3), n=lambda batch: np.full(7, 100 * len(batch)))
    found = measure_loss(original, converted, batches(x, 6))
    assert found.value == pytest.approx(relative(x, x + 0.3 * far), rel=1e-5, abs=0)
    assert (found.images, found.what) == (40, "relative error")
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_what_cannot_be_judged() -> None:
    one, other = Made(a=lambda x: x), Made(a=lambda x: x[:1])
    with pytest.raises(ModelError, match="max-drop: no output of numbers has the same shape in both models"):
        measure_loss(one, other, batches(normal(0, 6, 3, 2, 2), 3))
    with pytest.raises(ModelError, match="does not score 4 classes: compare without `labels`"):
        measure_loss(one, one, batches(normal(0, 4, 3, 2, 2), 4), np.arange(4))


def test_infinities_are_a_loss_without_bounds() -> None:
    found = measure_loss(Made(a=lambda x: x), Made(a=lambda x: x * np.inf), batches(normal(0, 6, 3, 2, 2), 3))
    assert (found.value, found.interval) == (np.inf, None)


def test_a_drop_in_words() -> None:
    text = str(measure_loss(*networks(), batches(np.arange(90), 90)))
    low, high = share_interval(int((OURS != THEIRS).sum()), 90)
    assert (
        text == f"other top class {(OURS != THEIRS).mean():.2%} (95 % interval {low:.2%} .. {high:.2%}) on 90 samples"
    )


def test_batches_that_come_again_are_not_run_again() -> None:
    made = Made(y=lambda x: 2 * x)
    known = CachedSession(made)  # type: ignore[arg-type]
    first, second = {"x": normal(0, 2, 3)}, {"x": normal(1, 2, 3)}
    for feeds in (first, second, first, {"x": first["x"].copy()}):
        np.testing.assert_array_equal(known.run(feeds)["y"], 2 * feeds["x"])
    assert made.runs == 2
    known.run({"x": first["x"].astype(np.float64)})
    known.run({"x": first["x"].reshape(3, 2)})
    assert made.runs == 4


def test_what_does_not_fit_is_run_again() -> None:
    made = Made(y=lambda x: x)
    known = CachedSession(made, max_bytes=30)  # type: ignore[arg-type]
    small, large = {"x": normal(0, 2, 3)}, {"x": normal(1, 4, 3)}
    for feeds in (large, small, large, small):
        known.run(feeds)
    assert made.runs == 3
