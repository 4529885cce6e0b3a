"""The same objects, written in every layout that detectors use, are read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.metrics.detections.cells import cells
from onnx_lowrank.metrics.detections.layouts import Layout, layouts_as, recognize_layout
from onnx_lowrank.metrics.detections.read import class_count, read_boxes

Array = NDArray[Any]
Outputs = dict[str, Array]
SIZE = (64, 96)  # height and width
CLASSES = 3
CELLS = cells(SIZE, (8, 16, 32))  # 126

# Left, top, right, bottom; score; class: two objects in the first image, one in the second.
OBJECTS: list[list[tuple[tuple[float, float, float, float], float, int]]] = [
    [((8, 16, 40, 48), 0.875, 2), ((60, 4, 92, 20), 0.5, 0)],
    [((20, 8, 84, 60), 0.75, 1)],
]


def centres(corners: Array) -> Array:
    left, top, right, bottom = corners.T
    return np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], axis=1)


def heads(objectness: bool, anchors: int = 1) -> Array:
    """Rows of a head, most of them faint: (images, anchors * cells, 4 [+ 1] + classes), boxes as centres."""
    columns = 4 + int(objectness) + CLASSES
    values = np.zeros((len(OBJECTS), anchors * CELLS, columns), np.float32)
    values[..., :4] = [48, 32, 8, 8]
    for image, objects in enumerate(OBJECTS):
        for number, (corners, score, label) in enumerate(objects):
            row = values[image, 10 + 30 * number]
            row[:4] = centres(np.array([corners]))[0]
            row[4 + int(objectness) + label] = score / (0.875 if objectness else 1)
            if objectness:
                row[4] = 0.875
            values[image, 11 + 30 * number] = row  # the next cell finds the object too, a little worse
            values[image, 11 + 30 * number, 4:] *= 0.875
    return values


def raw_yolox() -> Outputs:
    """Centres as offsets from the cells, sizes as logarithms, both in strides."""
    values, start = heads(objectness=True), 0
    for stride in (8, 16, 32):
        columns, rows = SIZE[1] // stride, SIZE[0] // stride
        for cell in range(rows * columns):
            row = values[:, start + cell]
            row[:, 0] = row[:, 0] / stride - cell % columns
            row[:, 1] = row[:, 1] / stride - cell // columns
            row[:, 2:4] = np.log(row[:, 2:4] / stride)
        start += rows * columns
    return {"output": values}


def padded() -> tuple[Array, Array, Array]:
    """Corners, scores and classes of five objects an image, those that are not there of score 0."""
    corners, scores, labels = np.zeros((2, 5, 4), np.float32), np.zeros((2, 5), np.float32), np.zeros((2, 5))
    for image, objects in enumerate(OBJECTS):
        for number, (box, score, label) in enumerate(objects):
            corners[image, number], scores[image, number], labels[image, number] = box, score, label
    return corners, scores, labels


def rows() -> Outputs:
    corners, scores, labels = padded()
    return {"output0": np.concatenate([corners, scores[..., None], labels[..., None]], axis=2).astype(np.float32)}


def counted_rows() -> Outputs:
    found = [[image, *box, label, score] for image, each in enumerate(OBJECTS) for box, score, label in each]
    return {"output": np.array(found, np.float32)}


def tensorflow() -> Outputs:
    corners, scores, labels = padded()
    shares = corners / np.tile(SIZE[::-1], 2)
    return {
        "detection_boxes": shares[..., [1, 0, 3, 2]].astype(np.float32),
        "detection_classes": labels.astype(np.float32),
        "detection_scores": scores,
        "num_detections": np.array([2, 1], np.float32),
    }


def whole_numbers() -> Outputs:
    corners, scores, labels = padded()
    return {"labels": labels.astype(np.int64), "scores": scores, "boxes": corners}


def anchors(form: str) -> Outputs:
    """Boxes and scores apart; SSD has a background that comes first, DETR one that comes last, PP-YOLOE none."""
    values = heads(objectness=False)
    boxes, scores = values[..., :4] / np.tile(SIZE[::-1], 2).astype(np.float32), values[..., 4:]
    rest = 1 - scores.sum(axis=2, keepdims=True)
    if form == "pp-yoloe":
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=2)
        pixels = corners * np.tile(SIZE[::-1], 2).astype(np.float32)
        return {"boxes": pixels, "scores": scores.transpose(0, 2, 1)}
    if form == "ssd":
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=2)
        return {"scores": np.concatenate([rest, scores], axis=2), "boxes": corners}
    logits = np.log(np.concatenate([scores, rest], axis=2) + 1e-6)
    return {"logits": logits, "pred_boxes": boxes}


CASES: dict[str, tuple[Callable[[], Outputs], Layout, int | None]] = {
    "yolov5": (
        lambda: {"output0": heads(True, 3)},
        Layout("yolov5", ("output0",), "centres", suppressed=False, classes=3),
        3,
    ),
    "yolox raw": (raw_yolox, Layout("yolox", ("output",), "grid", suppressed=False, classes=3), 3),
    "yolox decoded": (
        lambda: {"output": heads(True)},
        Layout("yolox", ("output",), "centres", suppressed=False, classes=3),
        3,
    ),
    "yolov8": (
        lambda: {"output0": heads(False).transpose(0, 2, 1)},
        Layout("yolov8", ("output0",), "centres", suppressed=False, classes=3),
        3,
    ),
    "rows": (rows, Layout("rows", ("output0",)), None),
    "counted rows": (counted_rows, Layout("rows", ("output",)), None),
    "tensorflow": (
        tensorflow,
        Layout("objects", ("detection_boxes", "detection_scores", "detection_classes"), "corners-yx", True),
        None,
    ),
    "whole numbers": (whole_numbers, Layout("objects", ("boxes", "scores", "labels")), None),
    "ssd": (
        lambda: anchors("ssd"),
        Layout("anchors", ("boxes", "scores"), "corners", True, 0, None, False),
        4,
    ),
    "pp-yoloe": (
        lambda: anchors("pp-yoloe"),
        Layout("anchors", ("boxes", "scores"), suppressed=False),
        3,
    ),
    "detr": (
        lambda: anchors("detr"),
        Layout("anchors", ("pred_boxes", "logits"), "centres", True, -1, "softmax", False),
        4,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_objects_are_read_in_every_layout(case: str) -> None:
    make, layout, classes = CASES[case]
    outputs = make()
    assert recognize_layout(outputs, SIZE, 2) == layout
    assert class_count(outputs, layout) == classes
    first = 1 if case == "ssd" else 0  # the background is class 0
    for found, wanted in zip(read_boxes(outputs, layout, SIZE, 2, least_score=0.1), OBJECTS, strict=True):
        np.testing.assert_allclose(found.corners, [each[0] for each in wanted], atol=1e-4)
        np.testing.assert_allclose(found.scores, [each[1] for each in wanted], atol=1e-4)
        assert found.labels.tolist() == [each[2] + first for each in wanted]


def test_regions_of_a_map_become_boxes_that_are_grown() -> None:
    values = np.full((1, 1, *SIZE), 0.1, np.float32)
    values[0, 0, 20:30, 40:80] = 0.75
    values[0, 0, 5:7, 5:7] = 0.875  # a speck
    layout = recognize_layout({"sigmoid": values}, SIZE, 1)
    assert layout == Layout("map", ("sigmoid",))
    (found,) = read_boxes({"sigmoid": values}, layout, SIZE, 1)
    grown = 1.5 * 10 * 40 / (2 * (10 + 40))
    np.testing.assert_allclose(found.corners, [[40 - grown, 20 - grown, 80 + grown, 30 + grown]])
    np.testing.assert_allclose(found.scores, [0.75])


def test_a_smaller_map_is_measured_in_pixels_of_the_input() -> None:
    values = np.zeros((1, 1, SIZE[0] // 4, SIZE[1] // 4), np.float32)
    values[0, 0, 4:10, 6:18] = 0.5
    (found,) = read_boxes({"map": values}, Layout("map", ("map",)), SIZE, 1)
    grown = 1.5 * 6 * 12 / (2 * (6 + 12))
    np.testing.assert_allclose(found.corners / 4, [[6 - grown, 4 - grown, 18 + grown, 10 + grown]])


def test_an_empty_map_holds_nothing() -> None:
    (found,) = read_boxes({"map": np.zeros((1, 1, *SIZE), np.float32)}, Layout("map", ("map",)), SIZE, 1)
    assert len(found) == 0


def test_as_many_cells_as_columns() -> None:
    """80 classes on 64 x 64: both ways round the shape is that of a head."""
    values = np.zeros((1, 84, 84), np.float32)
    values[0, :4] = np.array([30, 20, 10, 8])[:, None]
    values[0, 4 + 79, 5] = 0.5
    layout = recognize_layout({"output0": values}, (64, 64), 1)
    assert layout == Layout("yolov8", ("output0",), "centres", suppressed=False, classes=80)
    layout = recognize_layout({"output0": values.transpose(0, 2, 1)}, (64, 64), 1)
    assert layout is not None
    assert (layout.name, layout.classes) == ("yolox", 79)


def test_columns_of_masks_are_no_scores() -> None:
    coefficients = np.random.default_rng(0).normal(size=(2, 32, CELLS)).astype(np.float32)
    values = np.concatenate([heads(False).transpose(0, 2, 1), coefficients], axis=1)
    outputs = {"output0": values, "output1": np.zeros((2, 32, 16, 24), np.float32)}
    layout = recognize_layout(outputs, SIZE, 2)
    assert layout == CASES["yolov8"][1]
    for found, wanted in zip(read_boxes(outputs, layout, SIZE, 2, least_score=0.1), OBJECTS, strict=True):
        assert found.labels.tolist() == [each[2] for each in wanted]


@pytest.mark.parametrize(
    "outputs",
    [
        {"scores": np.zeros((2, 1000), np.float32)},
        {"classes of pixels": np.zeros((2, 21, *SIZE), np.float32)},
        {"features": np.full((2, 126, 256, 2), 0.5, np.float32)},
        {"rows": np.full((2, 100, 6), 0.5, np.float32)},  # no classes among them
        {"steps": np.zeros((2, 40, 97), np.float32)},
        {"names": np.array([["a"] * 6] * 2, object), "maps": [{"a": 1.0}]},
        {"nothing": np.zeros((0, 7), np.float32), "boxes": np.zeros((2, 0, 4), np.float32)},
    ],
    ids=lambda outputs: next(iter(outputs)),
)
def test_other_outputs_are_not_taken_for_boxes(outputs: Outputs) -> None:
    assert recognize_layout(outputs, SIZE, 2) is None


def test_one_image_at_a_time_with_as_many_rows_as_objects() -> None:
    corners, scores, labels = (values[0, :2] for values in padded())
    outputs = {"boxes": corners, "labels": labels.astype(np.int64), "scores": scores}
    layout = recognize_layout(outputs, SIZE, 1)
    assert layout == Layout("objects", ("boxes", "scores", "labels"))
    (found,) = read_boxes(outputs, layout, SIZE, 1)
    assert found.labels.tolist() == [2, 0]
    (nothing,) = read_boxes({name: values[:0] for name, values in outputs.items()}, layout, SIZE, 1)
    assert len(nothing) == 0
    empty = {"output": np.zeros((0, 7), np.float32)}
    assert [len(each) for each in read_boxes(empty, Layout("rows", ("output",)), SIZE, 2)] == [0, 0]


def test_a_layout_can_be_asked_for() -> None:
    values = {"output": np.zeros((2, CELLS, 6), np.float32)}
    recognized = recognize_layout(values, SIZE, 2)
    assert recognized is not None
    assert recognized.name == "yolox"
    assert [layout.name for layout in layouts_as("rows", values, SIZE, 2)] == ["rows"]
    assert not list(layouts_as("yolov8", values, SIZE, 2))


def test_a_network_without_the_output_is_refused() -> None:
    message = "output 'output0': not there, layout rows is read from it: see `layout`"
    with pytest.raises(ModelError, match=f"^{message}$"):
        read_boxes({}, Layout("rows", ("output0",)), SIZE, 2)
