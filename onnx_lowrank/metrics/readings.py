"""What a network finds in a sample, boxes, classes of pixels or a text; and how far two networks differ in it."""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.detections.layouts import Layout, Outputs, recognize_layout
from onnx_lowrank.metrics.detections.read import LEAST_SCORE, NMS_OVERLAP, read_boxes
from onnx_lowrank.metrics.images import image_size
from onnx_lowrank.metrics.protocol import Batch, Reading, ReadOutputs

SAME_OVERLAP = 0.5  # intersection over union from which on two boxes are of the same object
_SURE = 0.3  # score of a box that is shown where nobody says which ones count


def box_reader(layout: Layout, least_score: float = _SURE, nms_overlap: float = NMS_OVERLAP) -> ReadOutputs:
    """Return what reads the boxes out of a detector's outputs.

    Args:
        layout: of the outputs.
        least_score: of a box.
        nms_overlap: as in `read_boxes`.
    """

    def read(outputs: Outputs, batch: Batch) -> list[Reading]:
        count = len(next(iter(batch.values())))
        least = max(least_score, LEAST_SCORE)
        return list(read_boxes(outputs, layout, image_size(batch) or (0, 0), count, least, nms_overlap))

    return read


def recognized_reader(outputs: Outputs, batch: Batch) -> ReadOutputs | None:
    """Return what reads outputs that can be taken for nothing else than boxes; None for others.

    Args:
        outputs: of the original network.
        batch: its inputs.
    """
    layout = recognized_layout(outputs, batch)
    return None if layout is None else box_reader(layout)


def recognized_layout(outputs: Outputs, batch: Batch) -> Layout | None:
    """Return the layout of outputs that can be taken for nothing else than boxes; None for others.

    Args:
        outputs: of the original network.
        batch: its inputs.
    """
    size = image_size(batch)
    with np.errstate(all="ignore"):  # NaN and infinity are found by others
        layout = None if size is None else recognize_layout(outputs, size, len(next(iter(batch.values()))))
    return None if layout is None or layout.name == "map" else layout


def difference(first: Reading, second: Reading) -> float:
    """Return which share of two readings is not the same, 0 to 1.

    >>> difference("page", "pace"), difference((3, 1), (3, 1))
    (0.25, 0.0)
    """
    if isinstance(first, Boxes) and isinstance(second, Boxes):
        same = int(same_boxes(first, second)[0].sum())
        every = len(first) + len(second) - same
        return 1 - same / every if every else 0.0
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return float((first != second).mean())
    assert isinstance(first, str | tuple)
    assert isinstance(second, str | tuple)
    return 1 - SequenceMatcher(None, first, second, autojunk=False).ratio()


def same_boxes(first: Boxes, second: Boxes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which boxes have a partner among the others: of the same class, on the same place, each of its own.

    Args:
        first: in the order of their scores, in which they choose.
        second: among which they choose the one that overlaps most.

    Returns:
        Of shapes (first,) and (second,).
    """
    chosen, taken = np.zeros(len(first), bool), np.zeros(len(second), bool)
    for index, (corners, label) in enumerate(zip(first.corners, first.labels, strict=True)):
        overlaps = np.where(taken | (second.labels != label), 0.0, _overlaps(corners, second.corners))
        best = int(overlaps.argmax()) if len(second) else 0
        if len(second) and overlaps[best] >= SAME_OVERLAP:
            chosen[index] = taken[best] = True
    return chosen, taken


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intersection over union of a box with each of others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = np.prod(box[2:] - box[:2]) + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(np.divide(shared, areas, out=np.zeros(len(others)), where=areas > 0))
