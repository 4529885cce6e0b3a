"""Flips and shifts against every window there is, written out by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.torch.training.augment import augment_images
from tests.helpers import normal

Array = NDArray[Any]
Place = tuple[int, int, bool]


def keys(count: int, seed: int = 0) -> list[list[int]]:
    return [[seed, 0, number] for number in range(count)]


def mirrored(place: int, size: int) -> int:
    """The pixel that a place outside of an image shows."""
    if place < 0:
        return -place
    return 2 * (size - 1) - place if place >= size else place


def windows(image: Array) -> dict[bytes, Place]:
    """All results there may be of an image (channels, height, width), with their shift and flip."""
    _, height, width = image.shape
    tall, wide = height // 8, width // 8
    found = {}
    for down in range(-tall, tall + 1):
        for right in range(-wide, wide + 1):
            rows = [mirrored(row + down, height) for row in range(height)]
            columns = [mirrored(column + right, width) for column in range(width)]
            window = np.stack([[channel[row, columns] for row in rows] for channel in image])
            found[window.tobytes()] = (down, right, False)
            found[np.ascontiguousarray(window[:, :, ::-1]).tobytes()] = (down, right, True)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 26), st.integers(1, 26), st.booleans(), st.integers(0, 2**40), st.integers(1, 3)
)
def test_every_result_is_a_window_of_the_mirrored_image(
    channels: int, height: int, width: int, first: bool, seed: int, count: int
) -> None:
    batch = normal(seed % 97, count, channels, height, width)
    given_ = batch if first else np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    before = given_.copy()
    found = augment_images(given_, keys(count, seed), channels_first=first)
    assert (found.shape, found.dtype) == (given_.shape, given_.dtype)
    np.testing.assert_array_equal(given_, before)  # it is still needed
    for image, result in zip(batch, found if first else found.transpose(0, 3, 1, 2), strict=True):
        assert np.ascontiguousarray(result).tobytes() in windows(image)


def places(count: int, height: int, width: int) -> list[Place]:
    """Where windows of one image were taken."""
    image = normal(0, 1, height, width)
    known = windows(image)
    assert len(known) == 2 * (2 * (height // 8) + 1) * (2 * (width // 8) + 1)  # else a flip and a shift look the same
    found = augment_images(np.stack([image] * count), keys(count), channels_first=True)
    return [known[each.tobytes()] for each in found]


def test_every_shift_comes_up_about_as_often_with_half_of_them_flipped() -> None:
    count = 3000
    found = places(count, 16, 9)
    assert {(down, right) for down, right, _ in found} == {(d, r) for d in range(-2, 3) for r in range(-1, 2)}
    flips = sum(flipped for *_, flipped in found)
    assert abs(flips - count / 2) < 4 * np.sqrt(count / 4)  # four standard deviations
    for share in Counter((down, right) for down, right, _ in found).values():
        assert abs(share - count / 15) < 4 * np.sqrt(count / 15)
    # Whether one is flipped has nothing to do with where it is shifted.
    assert 0.4 < np.mean([flipped for down, _, flipped in found if down == 2]) < 0.6


def test_sides_below_eight_pixels_are_only_flipped() -> None:
    assert set(places(40, 7, 7)) == {(0, 0, False), (0, 0, True)}
    assert {down for down, *_ in places(60, 7, 8)} == {0}
    assert {right for _, right, _ in places(60, 7, 8)} == {-1, 0, 1}


@pytest.mark.parametrize("first", [True, False])
def test_a_result_depends_on_its_key_and_on_nothing_else(first: bool) -> None:
    shape = (12, 3, 17, 24) if first else (12, 17, 24, 3)
    batch, each = normal(1, *shape), keys(12, seed=5)
    whole = augment_images(batch, each, channels_first=first)
    for number in range(12):
        alone = augment_images(batch[number : number + 1], [each[number]], channels_first=first)
        np.testing.assert_array_equal(alone[0], whole[number])
    order = np.random.default_rng(0).permutation(12)
    moved = augment_images(batch[order], [each[number] for number in order], channels_first=first)
    np.testing.assert_array_equal(moved, whole[order])
    assert not np.array_equal(augment_images(batch, keys(12, seed=6), channels_first=first), whole)


def test_both_layouts_give_the_same() -> None:
    batch = normal(2, 9, 3, 20, 11)
    last = augment_images(batch.transpose(0, 2, 3, 1), keys(9), channels_first=False)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), augment_images(batch, keys(9), channels_first=True))
