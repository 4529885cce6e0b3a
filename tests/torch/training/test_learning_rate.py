"""The walk to a learning rate against all rates there are, and the rise and fall of it during a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isfinite, nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.torch.training.learning_rate import best_rate, find_learning_rate
from onnx_lowrank.torch.training.objective import Metrics
from onnx_lowrank.torch.training.trainer import warmup_cosine

RATES = [1e-6 * 10 ** (number / 2) for number in range(13)]  # up to 1, two a decade
FIRST = 6  # where the walk begins: 0.001


def place(rate: float) -> int:
    """Number of a rate."""
    number = round(2 * np.log10(rate / 1e-6))
    assert rate == pytest.approx(RATES[number], rel=1e-9)
    return number


def asked(losses: list[float]) -> tuple[Callable[[float], float], list[int]]:
    """A loss that keeps count of what it is asked for."""
    seen: list[int] = []

    def loss(rate: float) -> float:
        seen.append(place(rate))
        return losses[seen[-1]]

    return loss, seen


def best_of_all(losses: list[float], alike: float) -> int:
    """The highest rate that can be reached from the best one without leaving what is hardly worse."""
    best = int(np.argmin(losses))
    while best + 1 < len(losses) and losses[best + 1] < min(losses) * (1 + alike):
        best += 1
    return best


@st.composite
def valleys(draw: st.DrawFn) -> list[float]:
    """Losses that fall to one place and rise behind it."""
    steps = draw(st.lists(st.floats(0.01, 1), min_size=len(RATES), max_size=len(RATES)))
    bottom = draw(st.integers(0, len(RATES) - 1))
    down = np.cumsum(steps[:bottom])[::-1]
    up = np.cumsum(steps[bottom + 1 :])
    least = draw(st.floats(0.1, 10))
    return [*(least + down), least, *(least + up)]


@settings(deadline=None, max_examples=200)
@given(valleys(), st.sampled_from([0.0, 0.1, 0.25, 1.0]))
def test_the_walk_ends_where_a_look_at_all_rates_does(losses: list[float], alike: float) -> None:
    loss, _ = asked(losses)
    assert place(best_rate(loss, alike)) == best_of_all(losses, alike)


@pytest.mark.parametrize("bottom", [*range(len(RATES))])
def test_every_rate_can_be_found_and_is_tried_once(bottom: int) -> None:
    loss, seen = asked([1.0 + abs(number - bottom) for number in range(len(RATES))])
    assert place(best_rate(loss)) == bottom
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("from_", [*range(1, FIRST + 1), FIRST + 2, FIRST + 3])
def test_a_rate_that_leads_nowhere_is_never_taken(bad: float, from_: int) -> None:
    """Training falls apart from some rate on, which may be below the first one tried."""
    losses = [bad if number >= from_ else 2.0 - 0.1 * number for number in range(len(RATES))]
    loss, _ = asked(losses)
    found = place(best_rate(loss, 0.25))
    assert isfinite(losses[found])
    assert found == from_ - 1


@pytest.mark.parametrize("bad", [nan, inf])
def test_where_nothing_works_the_walk_ends(bad: float) -> None:
    loss, _ = asked([bad] * len(RATES))
    assert 0 < best_rate(loss, 0.25) <= 1.0


def test_of_rates_that_are_alike_the_highest_is_taken() -> None:
    """It leads further in a long training; without a margin the walk stays where it begins."""
    loss, seen = asked([1.0] * len(RATES))
    assert place(best_rate(loss)) == FIRST
    assert len(seen) == 3
    assert place(best_rate(loss, 0.25)) == len(RATES) - 1


class Trained:
    """Stands for a trainer whose trials all end best at one rate."""

    evaluates_labels = False

    def __init__(self, best: float) -> None:
        self.state_, self.best, self.steps, self.rate = {"w": 1}, best, set(), 0.0

    def state(self) -> dict[str, int]:
        return dict(self.state_)

    def set_state(self, state: dict[str, int]) -> None:
        self.state_ = dict(state)

    def train(self, batches: Iterable[int], rate: float, start: int, total: int) -> float:
        assert (start, self.state_) == (0, {"w": 1})
        self.steps.add((len(list(batches)), total))
        self.state_, self.rate = {"w": 2}, rate
        return 0.0

    def evaluate(self, limit: int) -> Metrics:
        assert limit == 512
        return Metrics(1 + abs(np.log(self.rate / self.best)))


class Endless:
    def epoch(self, number: int) -> list[int]:
        assert number < 0  # none of those trained on later
        return [0] * 7


@pytest.mark.parametrize(
    ("total", "steps", "best", "taken"),
    [(4000, 40, 1e-4, 1e-3), (160, 40, 1e-3, 2e-3), (90, 22, 1e-3, 1e-3 * sqrt(90 / 22)), (40, 10, 1e-3, 2e-3),
     (5, 5, 1e-3, 1e-3),
     (4000, 40, 1e-2, 1e-2), (40_000, 40, 1e-3, 5e-3), (4000, 40, 0.1, 0.1)],
)  # fmt: skip
def test_longer_trainings_get_higher_rates_within_reason(total: int, steps: int, best: float, taken: float) -> None:
    trainer: Any = Trained(best)
    dataset: Any = Endless()
    assert find_learning_rate(trainer, dataset, total) == pytest.approx(taken, rel=1e-9)
    assert trainer.steps == {(steps, steps)}
    assert trainer.state_ == {"w": 1}
    trainer.evaluates_labels = True  # at most twice as high
    assert find_learning_rate(trainer, dataset, total) == pytest.approx(
        max(best, min(best * np.sqrt(total / steps), 1e-2)), rel=1e-9
    )


# Rise and fall


@pytest.mark.parametrize("total", [1, 2, 3, 10, 19, 30, 100, 1000])
def test_the_rate_rises_to_its_highest_and_falls_to_nothing(total: int) -> None:
    shares = [warmup_cosine(step, total) for step in range(total)]
    top = int(np.argmax(shares))
    assert shares[top] == 1.0
    assert shares[0] == pytest.approx(1 / max(1, round(total / 20)), rel=1e-12)
    assert min(shares) > 0
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert abs(top + 1 - max(1, total / 20)) <= 1  # a twentieth of the steps
    if total >= 10:
        assert shares[-1] < 0.1
    if total >= 1000:
        assert shares[-1] < 1e-5


def test_the_rise_is_straight_and_the_fall_a_cosine() -> None:
    shares = [warmup_cosine(step, 200) for step in range(200)]
    np.testing.assert_allclose(shares[:10], np.arange(1, 11) / 10, rtol=1e-12)
    np.testing.assert_allclose(shares[10:], (1 + np.cos(np.pi * np.arange(190) / 190)) / 2, rtol=1e-12)
