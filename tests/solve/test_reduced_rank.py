from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.errors import RankError
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.row_blocks import BLOCK_ROWS
from onnx_lowrank.solve.reduced_rank import RankFactors, reduced_rank_regression
from onnx_lowrank.solve.truncated_svd import truncated_svd

Matrix = NDArray[np.float64]


def rows(seed: int, count: int, inputs: int, targets: int) -> tuple[Matrix, Matrix]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, inputs)) * generator.uniform(0.2, 3, inputs) + generator.normal(size=inputs)
    y = x @ generator.normal(size=(inputs, targets)) + 0.5 * generator.normal(size=(count, targets)) + 2
    return x, y


def loss(x: Matrix, y: Matrix, factors: RankFactors) -> float:
    return float(np.square(y - x @ factors.Q.T @ factors.P.T - factors.offset).sum())


def by_svd(x: Matrix, y: Matrix, rank: int) -> float:
    """The textbook solution: project the least-squares fit on its leading right singular vectors."""
    x, y = x - x.mean(0), y - y.mean(0)
    fitted = x @ scipy.linalg.lstsq(x, y)[0]
    right = scipy.linalg.svd(fitted, full_matrices=False)[2][:rank]
    return float(np.square(y - fitted @ right.T @ right).sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.data())
def test_is_the_optimum_that_a_full_svd_finds(seed: int, inputs: int, targets: int, data: Any) -> None:
    rank = data.draw(st.integers(1, targets))
    x, y = rows(seed, 60, inputs, targets)
    factors = reduced_rank_regression(x, y, rank, ridge=0.0)
    assert factors.P.shape == (targets, rank)
    assert factors.Q.shape == (rank, inputs)
    np.testing.assert_allclose(factors.P.T @ factors.P, np.eye(rank), atol=1e-10)
    np.testing.assert_allclose(loss(x, y, factors), by_svd(x, y, rank), rtol=1e-6)


def test_no_other_map_of_that_rank_is_better() -> None:
    x, y = rows(3, 80, 5, 4)
    best = reduced_rank_regression(x, y, 2, ridge=0.0)
    generator = np.random.default_rng(0)
    for _ in range(200):
        step = [generator.normal(size=part.shape) * 1e-3 for part in (best.P, best.Q, best.offset)]
        other = RankFactors(best.P + step[0], best.Q + step[1], best.offset + step[2])
        assert loss(x, y, other) > loss(x, y, best)


def test_full_rank_without_noise_is_exact() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    truth = np.random.default_rng(1).normal(size=(4, 4))
    factors = reduced_rank_regression(x, x @ truth.T + 1.5, 4, ridge=0.0)
    np.testing.assert_allclose(factors.P @ factors.Q, truth, atol=1e-8)
    np.testing.assert_allclose(factors.offset, 1.5, atol=1e-8)


def test_ridge_pulls_toward_the_prior_and_equals_augmented_rows() -> None:
    x, y = rows(5, 30, 4, 4)
    ridge = 0.3
    strong = reduced_rank_regression(x, y, 4, ridge=1e6)
    np.testing.assert_allclose(strong.P @ strong.Q, np.eye(4), atol=1e-3)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    rho = ridge * np.trace(centred_x.T @ centred_x) / 4
    augmented_x = np.vstack([centred_x, np.sqrt(rho) * np.eye(4)])
    augmented_y = np.vstack([centred_y, np.sqrt(rho) * np.eye(4)])
    expected = scipy.linalg.lstsq(augmented_x, augmented_y)[0].T
    found = reduced_rank_regression(x, y, 4, ridge=ridge)
    np.testing.assert_allclose(found.P @ found.Q, expected, rtol=1e-6, atol=1e-8)


def test_dead_and_duplicated_channels_and_fewer_rows_than_channels() -> None:
    x, _ = rows(7, 6, 10, 1)
    x[:, 3] = 0
    x[:, 4] = x[:, 5]
    factors = reduced_rank_regression(x, x, 5, ridge=1e-3)
    assert np.isfinite(factors.P).all()
    assert np.isfinite(factors.Q).all()
    # Six rows span five centred directions, so five are enough for all of them.
    assert loss(x, x, factors) < 1e-4 * np.square(x - x.mean(0)).sum()


@pytest.mark.parametrize("rank", [0, 5])
def test_rank_out_of_range(rank: int) -> None:
    x, y = rows(0, 20, 4, 4)
    with pytest.raises(RankError, match=rf"rank must be 1\.\.4, got {rank}"):
        reduced_rank_regression(x, y, rank, ridge=0.1)


def test_moments_are_those_of_numpy_and_add_up() -> None:
    x, y = rows(9, BLOCK_ROWS + 77, 5, 3)
    whole = Moments.of(x, y)
    np.testing.assert_allclose(whole.gram, np.cov(x.T, bias=True) * len(x), rtol=1e-10)
    np.testing.assert_allclose(whole.cross, (y - y.mean(0)).T @ (x - x.mean(0)), rtol=1e-9, atol=1e-7)
    both = Moments.of(x[:1000], y[:1000]) + Moments.of(x[1000:], y[1000:])
    for name in ("count", "input_mean", "target_mean", "gram", "cross"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-10, atol=1e-7)


def test_truncated_svd_is_eckart_young_and_keeps_the_bias() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(6, 3, 2, 2)), generator.normal(size=6)
    factors = truncated_svd(weight, bias, 2)
    flat = weight.reshape(6, -1)
    lost = np.square(flat - factors.P @ factors.Q @ flat).sum()
    np.testing.assert_allclose(lost, np.square(scipy.linalg.svdvals(flat)[2:]).sum(), rtol=1e-10)
    np.testing.assert_allclose(factors.P @ factors.Q @ bias + factors.offset, bias, rtol=1e-10)
