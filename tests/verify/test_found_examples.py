"""What two networks find in images, the images that they differ most in first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.detections.cells import cells
from onnx_lowrank.metrics.readings import difference, recognized_reader, same_boxes
from onnx_lowrank.verify import FoundExample, found_examples
from tests.metrics.predictors import Function

Array = NDArray[Any]


def boxes(*corners: tuple[float, float, float, float], labels: list[int] | None = None) -> Boxes:
    count = len(corners)
    scores, classes = np.linspace(0.9, 0.5, count), np.array(labels or [0] * count)
    return Boxes.of(np.array(corners, float).reshape(-1, 4), scores, classes)


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def test_boxes_have_one_partner_each_of_their_class() -> None:
    near_a, far_from_b = (0, 0, 10, 19), (26, 0, 36, 10)  # IoU 0.53 and 0.25
    first, second = same_boxes(boxes(A, A, B, C), boxes(near_a, far_from_b, C, labels=[0, 0, 1]))
    assert first.tolist() == [True, False, False, False]
    assert second.tolist() == [True, False, False]


def test_the_partner_is_the_one_that_overlaps_most() -> None:
    _, second = same_boxes(boxes(A), boxes((0, 0, 10, 14), A))
    assert second.tolist() == [False, True]


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        (boxes(A, B), boxes(B, C), 2 / 3),
        (boxes(A), boxes(A), 0),
        (boxes(A), boxes(), 1),
        (boxes(), boxes(), 0),
        (np.array([[0, 1], [2, 2]]), np.array([[0, 1], [2, 0]]), 0.25),
        ("kept", "kepts", 1 - 8 / 9),
        ((1, 2, 3), (1, 2, 3), 0),
    ],
)
def test_share_that_differs(first: Any, second: Any, share: float) -> None:
    assert difference(first, second) == pytest.approx(share)


def numbers(*found: int) -> Function:
    """A network that reads a number in the image of each place."""
    return Function(lambda images: {"out": np.array(found)[images[:, 0, 0, 0].astype(int)]}, ("out",))


def examples(converted: Function, most: int) -> tuple[FoundExample, ...]:
    images = np.zeros((5, 1, 8, 16), np.float32) + np.arange(5, dtype=np.float32).reshape(-1, 1, 1, 1)
    images[:, :, 0, 1] = 9

    def read(outputs: Any, batch: Any) -> list[Any]:
        return [tuple(map(int, str(each))) for each in outputs["out"]]

    batches = [{"images": images[:2]}, {"images": images[2:]}]
    return found_examples(read, numbers(1111, 2222, 3333, 4444, 5555), converted, batches, most)


def test_the_worst_come_first_and_no_more_than_wanted() -> None:
    found = examples(numbers(1111, 2223, 3333, 9999, 5599), 4)
    assert [each.number for each in found] == [4, 5, 2, 1]
    assert [each.difference for each in found] == [1, 0.5, 0.25, 0]
    assert found[1].original == (5, 5, 5, 5)
    assert found[1].converted == (5, 5, 9, 9)
    assert found[0].size == (8, 16)
    assert found[0].pixels.shape == (8, 16)
    assert found[0].pixels[0, 1] == 255


def test_where_something_is_found_comes_before_where_nothing_is() -> None:
    images = np.zeros((3, 1, 8, 8), np.float32) + np.arange(3, dtype=np.float32).reshape(-1, 1, 1, 1)
    found = [boxes(), boxes(A), boxes()]

    def read(outputs: Any, batch: Any) -> list[Any]:
        return [found[int(each)] for each in outputs["out"]]

    network = numbers(0, 1, 2)
    for most in (1, 2):
        kept = found_examples(read, network, network, [{"images": images[:1]}, {"images": images[1:]}], most)
        assert [each.number for each in kept] == [2, 1][:most]


def test_inputs_without_images_have_no_pictures() -> None:
    batches = [{"images": np.zeros((2, 40), np.float32)}]
    assert found_examples(lambda *_: [], numbers(1), numbers(1), batches, 4) == ()


def test_detectors_are_recognized_and_maps_are_not() -> None:
    batch = {"images": np.zeros((1, 3, 64, 64), np.float32)}
    values = np.zeros((1, 5, cells((64, 64), (8, 16, 32))), np.float32)
    values[0, :, 40] = [32, 24, 16, 8, 0.75]
    values[0, :, 41] = [10, 10, 16, 8, 0.25]
    read = recognized_reader({"output0": values}, batch)
    assert read is not None
    (found,) = read({"output0": values}, batch)
    assert isinstance(found, Boxes)
    np.testing.assert_allclose(found.corners, [[24, 20, 40, 28]])
    text = {"text": np.array(["a"], object), "map": np.full((1, 1, 64, 64), 0.5, np.float32)}
    assert recognized_reader(text, batch) is None
