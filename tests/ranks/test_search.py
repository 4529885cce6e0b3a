"""The search for the largest speedup, with losses that are made up."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import pytest

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.ranks.search import MAX_SPEEDUP, MIN_SPEEDUP, largest_speedup
from onnx_lowrank.verify import AccuracyLoss

Loss = Callable[[float, bool], float]


def always(value: float, quick_value: float | None = None) -> Loss:
    def loss(speedup: float, quick: bool) -> float:
        return value if quick_value is None or not quick else quick_value

    return loss


class Attempts:
    """Converts to what says how it came about; beyond the largest speedup nothing can be reached."""

    def __init__(self, loss: Loss, largest: float = 1e9) -> None:
        self._loss, self._largest = loss, largest
        self.made: list[tuple[float, bool]] = []

    def __call__(self, speedup: float, *, quick: bool) -> tuple[str, AccuracyLoss]:
        if speedup > self._largest:
            raise BudgetError(f"speedup {speedup:g} cannot be reached")
        self.made.append((speedup, quick))
        value = self._loss(speedup, quick)
        return f"{'quick' if quick else 'whole'} at {speedup:.3f}", AccuracyLoss(
            value, (value / 2, 2 * value), 1000, "loss"
        )


def at(limit: float, quick_limit: float | None = None) -> Loss:
    """A loss that reaches 0.01 at a limit, another one for what is solved quickly."""
    return lambda speedup, quick: 0.01 * log(speedup) / log(quick_limit or limit if quick else limit)


@pytest.mark.parametrize("limit", [1.08, 1.3, 2.0, 2.9, 7.7, 30.0])
@pytest.mark.parametrize("rough", [0.9, 1.0, 1.1])
def test_it_finds_the_limit(limit: float, rough: float) -> None:
    attempts = Attempts(at(limit, max(1.06, rough * limit)))
    found = largest_speedup(attempts, 0.01)
    assert limit / 1.035 <= found.speedup <= limit * (1 + 1e-9)
    assert found.network == f"whole at {found.speedup:.3f}"
    assert found.loss.value <= 0.01 * (1 + 1e-9)
    assert [speedup for speedup, _ in found.tried] == [speedup for speedup, _ in attempts.made]
    assert len(attempts.made) <= 18
    assert sum(not quick for _, quick in attempts.made) <= 7


def test_what_holds_quickly_but_not_in_the_end_is_stepped_down() -> None:
    found = largest_speedup(Attempts(at(2.0, 4.0)), 0.01)
    assert 2 / 1.035 <= found.speedup <= 2


def test_no_further_than_can_be_reached() -> None:
    found = largest_speedup(Attempts(always(0.0), largest=5.0), 0.01)
    assert 5 / 1.035 <= found.speedup <= 5
    assert max(speedup for speedup, _ in found.tried) <= 5


def test_a_network_that_loses_nothing_ends_the_search() -> None:
    found = largest_speedup(Attempts(always(0.0)), 0.01)
    assert found.speedup == MAX_SPEEDUP


def test_where_none_holds_the_smallest_one_tried_is_named() -> None:
    with pytest.raises(BudgetError) as caught:
        largest_speedup(Attempts(always(0.125, 0.25)), 0.01)
    assert str(caught.value) == (
        "max-drop 0.01: no speedup of 1.05 or more stays within it; the smallest tried, 1.05: "
        "loss 12.50% (95 % interval 6.25% .. 25.00%) on 1000 samples: allow more, or solve with more `samples`"
    )


def test_where_nothing_can_be_reached_at_all() -> None:
    with pytest.raises(BudgetError, match="no speedup of 1.05 or more can be reached"):
        largest_speedup(Attempts(always(0.0), largest=1.0), 0.01)


def test_every_attempt_is_logged_with_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = largest_speedup(Attempts(at(3.0), largest=3.9), 0.01)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:4] == [
        "max-drop 0.01: attempt 1, 2.00x, solved quickly",
        "max-drop 0.01: attempt 1, 2.00x: loss 0.63% (95 % interval 0.32% .. 1.26%) on 1000 samples: within",
        "max-drop 0.01: attempt 2, 4.00x, solved quickly",
        "max-drop 0.01: attempt 2, 4.00x: out of reach: speedup 4 cannot be reached",
    ]
    assert sum(text.endswith(": too much") for text in messages) == sum(loss > 0.01 for _, loss in found.tried) > 0
    assert sum(text.endswith(": within") for text in messages) == sum(loss <= 0.01 for _, loss in found.tried)
    assert any(text.endswith("solved as it would be written") for text in messages)


def test_losses_that_go_up_and_down_end_at_one_that_holds() -> None:
    def noisy(speedup: float, quick: bool) -> float:
        return 0.01 * speedup * (1 + 0.2 * (round(1e6 * speedup) % 3))

    found = largest_speedup(Attempts(noisy), 0.03)
    assert dict(found.tried)[found.speedup] <= 0.03
    assert found.speedup >= MIN_SPEEDUP
