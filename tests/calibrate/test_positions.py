from __future__ import annotations

import numpy as np

from onnx_lowrank.calibrate import layer_positions
from onnx_lowrank.calibrate.positions import MAX_PATCH_BYTES, MIN_LAYER_ROWS, ROWS_PER_FILTER
from tests.example_layers import conv_layer


def test_positions_are_enough_for_the_filters() -> None:
    small, wide = conv_layer(8, 3, (3, 3), (64, 64), name="a"), conv_layer(512, 3, (3, 3), (64, 64), name="b")
    drawn = layer_positions([small, wide], 10, None, seed=0)
    assert drawn["a"].shape == (10, MIN_LAYER_ROWS // 10)
    assert drawn["b"].shape == (10, 512 * ROWS_PER_FILTER // 10)


def test_a_thorough_solution_has_twice_the_rows_unless_their_number_is_given() -> None:
    wide = conv_layer(512, 3, (3, 3), (64, 64))
    assert layer_positions([wide], 10, None, seed=0, thorough=True)["conv"].shape == (10, 1024 * ROWS_PER_FILTER // 10)
    assert layer_positions([wide], 10, 7, seed=0, thorough=True)["conv"].shape == (10, 7)


def test_patches_of_wide_layers_stay_within_memory() -> None:
    huge = conv_layer(64, 1024, (5, 5), (100, 100))  # 100 kB a patch
    drawn = layer_positions([huge], 10, None, seed=0)["conv"]
    size = 4 * 1024 * 25
    assert MAX_PATCH_BYTES - 10 * size <= drawn.size * size <= MAX_PATCH_BYTES + 10 * size


def test_no_more_positions_than_a_map_has() -> None:
    drawn = layer_positions([conv_layer(8, 3, (3, 3), (4, 5))], 10, 100, seed=0)
    np.testing.assert_array_equal(drawn["conv"], np.tile(np.arange(20), (10, 1)))


def test_positions_are_seeded_and_each_layer_has_its_own() -> None:
    layers = [conv_layer(8, 3, (3, 3), (32, 32), name=name) for name in "ab"]
    first, again, other = (layer_positions(layers, 4, 9, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["a"], again["a"])
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(first["a"], other["a"])
