"""Boxes out of a detector's outputs, in the layout that they are in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from onnx_lowrank.errors import ModelError
from onnx_lowrank.metrics.detections.boxes import Boxes, from_centres
from onnx_lowrank.metrics.detections.cells import from_grid
from onnx_lowrank.metrics.detections.layouts import Layout, Outputs, scores_by_box
from onnx_lowrank.metrics.detections.text_maps import boxes_of_map
from onnx_lowrank.runtime.suppression import suppress

Array = NDArray[Any]
LEAST_SCORE = 0.001  # of a box; mAP looks at faint ones too
NMS_OVERLAP = 0.65
_MOST_OF_CLASS = 100  # boxes that mAP looks at


def read_boxes(
    outputs: Outputs,
    layout: Layout,
    size: tuple[int, int],
    images: int,
    least_score: float = LEAST_SCORE,
    nms_overlap: float = NMS_OVERLAP,
) -> list[Boxes]:
    """Return the objects of each image of a batch.

    Args:
        outputs: of a network.
        layout: of the outputs.
        size: height and width of the network's input.
        images: number of images in the batch.
        least_score: boxes of lower scores are left out.
        nms_overlap: intersection over union above which the worse of two boxes of a class is left out, for layouts
            without suppression of their own.

    Raises:
        ModelError: an output is missing, or of another shape.
    """
    if missing := [name for name in layout.outputs if name not in outputs]:
        raise ModelError(f"output '{missing[0]}': not there, layout {layout.name} is read from it: see `layout`")
    arrays = [np.asarray(outputs[name]) for name in layout.outputs]
    if layout.name == "map":
        return [boxes_of_map(each[0], size).above(least_score) for each in arrays[0].astype(np.float64)]
    if layout.name == "rows":
        found = _rows(arrays[0], images)
    elif layout.name == "objects":
        found = _objects(arrays, images)
    else:
        return _suppressed(*_candidates(arrays, layout, size), least_score, nms_overlap)
    scaled = [(_corners(boxes, layout, size), scores, labels) for boxes, scores, labels in found]
    return [Boxes.of(*each).above(least_score) for each in scaled]


def _rows(values: Array, images: int) -> list[tuple[Array, Array, Array]]:
    if values.ndim == 2:
        each = [values[values[:, 0] == image] for image in range(images)]
        return [(rows[:, 1:5], rows[:, 6], rows[:, 5]) for rows in each]
    return [(rows[:, :4], rows[:, 4], rows[:, 5]) for rows in values]


def _objects(arrays: list[Array], images: int) -> list[tuple[Array, Array, Array]]:
    boxes, scores, labels = (values.reshape(images, -1, *values.shape[values.ndim - tail :])
                             for values, tail in zip(arrays, (1, 0, 0), strict=True))  # fmt: skip
    return list(zip(boxes, scores, labels, strict=True))


def _candidates(arrays: list[Array], layout: Layout, size: tuple[int, int]) -> tuple[Array, Array]:
    """Return the corners and scores of all candidates, shapes (images, n, 4) and (images, classes, n)."""
    if layout.name == "anchors":
        boxes, scores = arrays[0], _probabilities(scores_by_box(arrays[1], arrays[0].shape[1]), layout)
    else:
        values = arrays[0].transpose(0, 2, 1) if layout.name == "yolov8" else arrays[0]
        start = 4 if layout.name == "yolov8" else 5
        boxes, scores = values[..., :4], values[..., start : start + (layout.classes or 0)]
        if layout.name != "yolov8":
            scores = scores * values[..., 4:5]
    return _corners(boxes, layout, size), scores.transpose(0, 2, 1)


def _probabilities(scores: Array, layout: Layout) -> Array:
    """Return probabilities of the classes that are objects."""
    if layout.logits:
        scores = expit(scores) if layout.logits == "sigmoid" else softmax(scores, axis=-1)
    if layout.background is None:
        return scores
    # The background keeps its place, so that classes keep their numbers; its boxes have no score.
    objects = np.array(scores)
    objects[..., layout.background] = 0
    return objects


def _corners(boxes: Array, layout: Layout, size: tuple[int, int]) -> Array:
    boxes = boxes.astype(np.float64)
    if layout.boxes == "grid":
        boxes = from_grid(boxes, size)
    if layout.boxes in ("grid", "centres"):
        boxes = from_centres(boxes)
    if layout.boxes == "corners-yx":
        boxes = boxes[..., [1, 0, 3, 2]]
    return boxes * np.tile(size[::-1], 2) if layout.normalized else boxes


def _suppressed(corners: Array, scores: Array, least_score: float, nms_overlap: float) -> list[Boxes]:
    kept = suppress(corners, scores, nms_overlap, least_score, _MOST_OF_CLASS)
    found = []
    for image in range(len(corners)):
        _, labels, boxes = kept[kept[:, 0] == image].T
        found.append(Boxes.of(corners[image, boxes], scores[image, labels, boxes], labels))
    return found


def class_count(outputs: Outputs, layout: Layout) -> int | None:
    """Return how many classes a detector scores, with a background; None where its outputs do not tell.

    Args:
        outputs: of a batch.
        layout: of the outputs.
    """
    if layout.name == "map":
        return 1
    if layout.name == "anchors":
        boxes, scores = (outputs[name] for name in layout.outputs)
        return int(scores_by_box(scores, boxes.shape[1]).shape[2])
    return layout.classes
