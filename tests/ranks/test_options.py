from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.cost import chain_macs
from onnx_lowrank.ranks import layer_options
from onnx_lowrank.ranks.options import rank_grid
from tests.layers import conv_layer


@pytest.mark.parametrize(
    ("most", "multiple", "expected"),
    [
        (64, 16, [1, 2, 4, 8, 16, 32, 48, 64]),
        (10, 8, [1, 2, 4, 8]),
        (5, 1, [1, 2, 3, 4, 5]),
        (3, 16, [1, 2]),
    ],
)
def test_rank_grid(most: int, multiple: int, expected: list[int]) -> None:
    assert rank_grid(most, multiple) == expected


def test_only_what_costs_less_than_the_layer_is_offered() -> None:
    layer = conv_layer(64, 3, (3, 3), (8, 8))
    options = layer_options(layer, np.linspace(0, 1, 65), chain_macs, ("channel",), 1)
    assert options[0].plan.method == "kept"
    # r * (27 + 64) < 64 * 27 holds up to r = 18.
    assert [option.plan.channel for option in options[1:]] == list(range(1, 19))
    assert all(option.cost < layer.macs for option in options[1:])


def test_methods_that_are_not_allowed_are_not_offered() -> None:
    layer = conv_layer(16, 16, (3, 3), (8, 8))
    assert len(layer_options(layer, np.linspace(0, 1, 17), chain_macs, (), 1)) == 1
