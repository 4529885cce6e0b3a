"""Samples as metrics see them: batches, and the image files that they come from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.calibrate.data.preprocess import FORMATS, image_placement
from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.calibrate.data.sources import ImageSource
from onnx_lowrank.metrics import MetricSamples, Placement


def metric_samples(
    samples: Samples, indices: NDArray[np.int64], batches: Callable[[], Iterator[dict[str, NDArray[Any]]]]
) -> MetricSamples:
    """Return samples for a metric.

    Args:
        samples: the data.
        indices: which of them, in the order of the batches.
        batches: starts an iteration over them.
    """
    labels = None if samples.labels is None else samples.labels[indices]
    images = next((each for each in samples.sources.values() if isinstance(each, ImageSource)), None)
    if images is None:
        return MetricSamples(batches, (None,) * len(indices), None, labels, samples.check_labels)

    def image_sizes() -> tuple[tuple[int, int], ...]:
        return tuple(_size(images, index) for index in indices)

    def placements() -> tuple[Placement, ...]:
        size = images.layout.width or 0, images.layout.height or 0
        return tuple(Placement(*image_placement(each, size, images.preprocessing)) for each in image_sizes())

    names = tuple(images.files.names[index] for index in indices)
    return MetricSamples(
        batches, names, Path(images.files.source), labels, samples.check_labels, image_sizes, placements
    )


def _size(images: ImageSource, index: int) -> tuple[int, int]:
    """Return width and height of an image that could be decoded, from its header."""
    with Image.open(io.BytesIO(images.files.read_member(images.files.names[index])), formats=FORMATS) as image:
        return image.size
