from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.verify import compare_outputs
from onnx_lowrank.verify.examples import ExampleKeeper, ExamplePrediction
from tests.helpers import build, filters
from tests.networks import images

SCORES = np.float32([[3, 1, 2, 0], [0, 1, 2, 3], [5, 4, 6, 7], [9, 8, 7, 6], [1, 2, 3, 4]])


def kept(
    batch: np.ndarray, max_samples: int = 12, ours: np.ndarray = SCORES, theirs: np.ndarray = SCORES
) -> tuple[ExamplePrediction, ...]:
    keeper = ExampleKeeper(max_samples)
    keeper.add({"x": batch}, ours[: len(batch)], theirs[: len(batch)])
    return keeper.samples


def test_disagreements_come_first_and_no_more_than_wanted() -> None:
    theirs = SCORES.copy()
    theirs[[1, 3]] = theirs[[1, 3], ::-1]
    keeper = ExampleKeeper(4)
    for part in (slice(0, 2), slice(2, 5)):
        keeper.add({"x": images(5)[part]}, SCORES[part], theirs[part])
    assert [found.number for found in keeper.samples] == [2, 4, 1, 3]
    assert [found.agree for found in keeper.samples] == [False, False, True, True]
    assert keeper.samples[0].original == ((3, 3.0), (2, 2.0), (1, 1.0))
    assert keeper.samples[0].converted == ((0, 3.0), (1, 2.0), (2, 1.0))
    assert not keeper.samples[0].probabilities


@pytest.mark.parametrize("channels", [1, 3])
def test_both_layouts_give_the_same_picture(channels: int) -> None:
    first = images(2, channels=channels)
    for a, b in zip(kept(first), kept(np.moveaxis(first, 1, -1)), strict=True):
        assert a.pixels.shape == ((12, 12) if channels == 1 else (12, 12, 3))
        assert a.pixels.dtype == np.uint8
        assert (a.pixels.min(), a.pixels.max()) == (0, 255)
        np.testing.assert_array_equal(a.pixels, b.pixels)


def test_pixels_are_in_their_places() -> None:
    batch = np.zeros((1, 3, 9, 8), np.float32)
    batch[0, 1, 2, 3], batch[0, 0, 0, 0] = 5, -5
    (found,) = kept(batch)
    assert found.pixels[2, 3].tolist() == [128, 255, 128]
    assert found.pixels[0, 0].tolist() == [0, 128, 128]


def test_large_images_are_kept_small_and_flat_ones_black() -> None:
    (found,) = kept(np.ones((1, 3, 500, 1000), np.uint8))
    assert found.pixels.shape == (112, 224, 3)
    assert not found.pixels.any()


@pytest.mark.parametrize("shape", [(2, 10), (2, 5, 12, 12), (2, 3, 4, 4), (2, 3, 12), (3, 3, 12, 12)])
def test_what_is_no_image_is_not_kept(shape: tuple[int, ...]) -> None:
    keeper = ExampleKeeper(12)
    keeper.add({"x": np.zeros(shape, np.float32)}, SCORES[:2], SCORES[:2])
    assert keeper.samples == ()


def test_scores_that_add_up_to_one_are_probabilities() -> None:
    shares = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    assert all(found.probabilities for found in kept(images(2), ours=shares, theirs=shares.astype(np.float16)))
    assert not any(found.probabilities for found in kept(images(2), ours=shares, theirs=SCORES))


def test_pictures_come_with_a_comparison_where_they_are_wanted() -> None:
    graph = (
        "g (float[N, 3, 12, 12] x) => (float[N, 5] y) { c = Conv (x, w)  p = GlobalAveragePool (c)  y = Flatten (p) }"
    )
    sessions = [Session(build(graph, {"w": filters(seed, 5, 3, 3, 3)}), Provider()) for seed in (0, 1)]
    batches = [{"x": images(30)[:16]}, {"x": images(30)[16:]}]
    assert compare_outputs(*sessions, batches).samples == ()
    found = compare_outputs(*sessions, batches, None, 7)
    assert len(found.samples) == 7
    assert found == compare_outputs(*sessions, batches)
    assert "samples" not in found.to_dict()
