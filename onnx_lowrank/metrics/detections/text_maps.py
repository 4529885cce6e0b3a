"""Boxes around the regions of a map that says for each pixel how likely it is part of text (DB and its like)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from onnx_lowrank.metrics.detections.boxes import Boxes

REGION_THRESHOLD = 0.3  # of the probability of a pixel
_GROWTH = 1.5  # maps are trained on shrunk areas: area times this by circumference is what a box grows on every side
_LEAST_SIDE = 3  # pixels of the map; smaller regions are specks


def boxes_of_map(probabilities: NDArray[Any], size: tuple[int, int], threshold: float = REGION_THRESHOLD) -> Boxes:
    """Return upright boxes around the connected regions of a map; the score is the mean probability of a region.

    Args:
        probabilities: shape (h, w).
        size: height and width of the network's input, which boxes are measured in.
        threshold: pixels above it belong to a region.

    References:
        Liao, Wan, Yao, Chen, Bai 2020, Real-time scene text detection with differentiable binarization, AAAI, section
        "Deployment", for thresholds and how boxes grow.
    """
    numbers, count = ndimage.label(probabilities > threshold, structure=np.ones((3, 3)))
    slices = ndimage.find_objects(numbers)
    corners = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices], np.float64).reshape(-1, 4)
    means = np.asarray(ndimage.mean(probabilities, numbers, np.arange(1, count + 1)), np.float64).reshape(-1)
    sides = corners[:, 2:] - corners[:, :2]
    large = sides.min(axis=1, initial=np.inf) >= _LEAST_SIDE
    corners, sides, means = corners[large], sides[large], means[large]
    growth = _GROWTH * sides.prod(axis=1) / (2 * sides.sum(axis=1))
    corners += growth[:, None] * [-1, -1, 1, 1]
    scale = np.array(size[::-1]) / np.array(probabilities.shape[::-1])
    grown = np.clip(corners * np.tile(scale, 2), 0, np.tile(size[::-1], 2))
    return Boxes.of(grown, means, np.zeros(len(means), np.int64))
