"""Images with what two networks find in them."""

from __future__ import annotations

import numpy as np

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.protocol import Reading
from onnx_lowrank.metrics.readings import difference
from onnx_lowrank.verify import FoundExample


def found(number: int, original: Reading, converted: Reading, size: tuple[int, int] = (120, 160)) -> FoundExample:
    pixels = np.resize(np.arange(256, dtype=np.uint8), (*size, 3))
    return FoundExample(number, pixels, size, original, converted, difference(original, converted))


def boxes(*corners: tuple[float, float, float, float]) -> Boxes:
    scores = np.linspace(0.875, 0.5, len(corners))
    return Boxes.of(np.array(corners, float).reshape(-1, 4), scores, np.full(len(corners), 3))


def classes(*numbers: int) -> np.ndarray:
    """Stripes of classes from top to bottom."""
    return np.repeat(np.array(numbers), 120 // len(numbers))[:, None] * np.ones((1, 160), int)


FOUND_BOXES = (
    found(7, boxes((10, 20, 60, 50), (80, 30, 150, 110)), boxes((11, 20, 61, 50))),
    found(2, boxes((10, 20, 60, 50)), boxes((10, 20, 60, 50))),
    found(1, boxes(), boxes()),
)
FOUND_PIXELS = (found(3, classes(0, 2, 5, 5), classes(0, 2, 2, 5)),)
FOUND_TEXTS = (
    found(5, "kept <words>", "kept wards"),
    found(6, (12, 7), (12, 7)),
    found(8, "", ""),
)
