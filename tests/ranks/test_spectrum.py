from __future__ import annotations

import numpy as np
import scipy.linalg

from onnx_lowrank.ranks.spectrum import energy_curve


def test_energy_is_the_share_of_squared_singular_values_of_the_centred_rows() -> None:
    generator = np.random.default_rng(0)
    rows = (generator.normal(size=(200, 6)) @ generator.normal(size=(6, 6)) + 5).astype(np.float32)
    squares = scipy.linalg.svdvals(rows.astype(np.float64) - rows.mean(0, dtype=np.float64)) ** 2
    expected = np.concatenate([[0], np.cumsum(squares) / squares.sum()])
    np.testing.assert_allclose(energy_curve(rows), expected, atol=1e-10)


def test_fewer_rows_than_channels() -> None:
    curve = energy_curve(np.random.default_rng(0).normal(size=(4, 9)))
    assert curve.shape == (10,)
    np.testing.assert_allclose(curve[3:], 1.0, atol=1e-10)


def test_responses_that_never_vary_lose_nothing() -> None:
    np.testing.assert_array_equal(energy_curve(np.full((50, 3), 7.0)), np.ones(4))
