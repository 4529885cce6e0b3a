"""Intervals against published figures, against the tests they invert, and against many samples."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from onnx_lowrank.verify.intervals import paired_interval, ratio_interval, share_interval

QUANTILE = 1.959963984540054  # of the normal distribution, at 97.5 %


@pytest.mark.parametrize(
    ("hits", "count", "wanted"),
    # Newcombe 1998, Statistics in Medicine 17: 857, table I, score method.
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_shares_as_published(hits: int, count: int, wanted: tuple[float, float]) -> None:
    assert share_interval(hits, count) == pytest.approx(wanted, abs=6e-5, rel=0)


@given(count=st.integers(1, 5_000), part=st.floats(0, 1))
def test_the_ends_of_a_share_are_just_not_rejected(count: int, part: float) -> None:
    hits = round(part * count)
    low, high = share_interval(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            score = abs(hits / count - end) / sqrt(end * (1 - end) / count)
            assert score == pytest.approx(QUANTILE, rel=1e-6, abs=0)


def test_a_paired_difference_as_published() -> None:
    # Airway hyper-responsiveness before and after transplantation, 1 and 7 of 21 changed: Fagerland, Lydersen,
    # Laake 2014, Statistics in Medicine 33: 2850, Tango's interval of the difference.
    assert paired_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=6e-4, rel=0)


def score(lost: int, won: int, count: int, difference: float) -> float:
    """The score statistic of a difference, the rest of the multinomial found by maximizing its likelihood."""

    def unlikely(rare: float) -> float:
        often = rare + difference
        same = 1 - rare - often
        terms = [(lost, often), (won, rare), (count - lost - won, same)]
        return -sum(number * np.log(max(share, 1e-300)) for number, share in terms if number)

    low, high = max(0.0, -difference), (1 - difference) / 2
    rare = float(minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x)
    variance = count * (2 * rare + difference - difference**2)
    return (lost - won - count * difference) / sqrt(variance)


@pytest.mark.parametrize(
    ("lost", "won", "count"), [(30, 10, 1000), (5, 0, 300), (0, 4, 50), (12, 12, 400), (3, 5, 2000), (40, 1, 90)]
)
def test_the_ends_of_a_paired_difference_are_just_not_rejected(lost: int, won: int, count: int) -> None:
    low, high = paired_interval(lost, won, count)
    assert -1 < low < (lost - won) / count < high < 1
    assert score(lost, won, count, low) == pytest.approx(QUANTILE, rel=1e-3, abs=0)
    assert score(lost, won, count, high) == pytest.approx(-QUANTILE, rel=1e-3, abs=0)


@given(count=st.integers(1, 3_000), lost=st.integers(0, 3_000), won=st.integers(0, 3_000))
def test_paired_differences_keep_to_their_range_and_turn_round(count: int, lost: int, won: int) -> None:
    lost = min(lost, count)
    won = min(won, count - lost)
    low, high = paired_interval(lost, won, count)
    assert -1 <= low <= (lost - won) / count <= high <= 1
    assert low < high
    turned = paired_interval(won, lost, count)
    assert turned == pytest.approx((-high, -low), abs=1e-9, rel=0)


def test_nothing_lost_and_nothing_won_is_as_sure_as_a_share_of_none() -> None:
    for count in (10, 380, 4_000):
        assert paired_interval(0, 0, count)[1] == pytest.approx(share_interval(0, count)[1], rel=1e-9, abs=0)


def test_paired_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    lost, won, count = 0.03, 0.015, 500
    drawn = generator.multinomial(count, [lost, won, 1 - lost - won], size=2_000)
    held = [low <= lost - won <= high for low, high in (paired_interval(int(a), int(b), count) for a, b, _ in drawn)]
    assert 0.935 <= np.mean(held) <= 0.968


def test_relative_errors_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(2_000):
        sizes = generator.gamma(4.0, 1.0, 300)
        differences = 0.01 * sizes * generator.gamma(5.0, 0.2, 300)
        interval = ratio_interval(differences, sizes)
        assert interval is not None
        held.append(interval[0] <= 0.1 <= interval[1])
    assert 0.93 <= np.mean(held) <= 0.965


def test_where_nothing_can_be_said_of_a_relative_error() -> None:
    one = np.ones(1)
    assert ratio_interval(one, one) is None
    assert ratio_interval(np.zeros(5), np.zeros(5)) is None
    assert ratio_interval(np.array([1.0, np.inf]), np.ones(2)) is None
    assert ratio_interval(np.full(4, 0.25), np.ones(4)) == (0.5, 0.5)
