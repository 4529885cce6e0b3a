"""Relative errors against NumPy's norms."""

from __future__ import annotations

from math import inf, isnan, nan

import numpy as np
import pytest

from onnx_lowrank.linalg.relative_error import relative_error


def test_is_the_ratio_of_the_norms() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 3))
    error = relative_error(float(np.square(a - b).sum()), float(np.square(a).sum()))
    assert error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)


@pytest.mark.parametrize(("squared_error", "wanted"), [(0.0, 0.0), (1e-300, inf), (inf, inf), (nan, inf)])
def test_an_empty_reference(squared_error: float, wanted: float) -> None:
    assert relative_error(squared_error, 0.0) == wanted


def test_an_error_that_is_not_finite() -> None:
    assert relative_error(inf, 2.0) == inf
    assert isnan(relative_error(nan, 2.0))
