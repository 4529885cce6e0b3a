"""The energies that come with measured errors, beside those of the responses themselves."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.ranks import energy_losses
from onnx_lowrank.ranks.spectrum import energy_curve
from onnx_lowrank.solve.rank_losses import measure_rank_losses
from tests.example_layers import conv_layer
from tests.helpers import normal


def test_they_are_those_of_the_responses() -> None:
    responses = (normal(0, 400, 12) @ normal(1, 12, 12) + 3).astype(np.float32)
    layer = conv_layer(12, 4, (3, 3), (10, 10))
    wanted = energy_curve(responses)
    for found in (measure_rank_losses(layer, TargetResponses(responses), 20), energy_losses(layer, responses)):
        assert found.energies is not None
        np.testing.assert_allclose(found.energies, wanted, atol=1e-6, rtol=0)
    assert (wanted[0], wanted[-1]) == (0, pytest.approx(1))


def test_responses_that_never_vary_are_kept_by_any_rank() -> None:
    found = measure_rank_losses(
        conv_layer(12, 4, (3, 3), (10, 10)), TargetResponses(np.full((50, 12), 2, np.float32)), 25
    )
    assert found.energies is not None
    assert found.energies.tolist() == [1.0] * 13
