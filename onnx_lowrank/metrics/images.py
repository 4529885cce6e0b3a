"""The images in a batch of inputs."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.metrics.protocol import Batch

_MIN_SIDE = 8  # pixels; a smaller input is not taken for an image


def images_of(batch: Batch) -> NDArray[Any] | None:
    """Return the first input of a batch that holds images; None where none does.

    Args:
        batch: inputs by name.

    Returns:
        Shape (samples, 1 or 3, height, width) or (samples, height, width, 1 or 3).
    """
    return next((values for values in batch.values() if is_images(values)), None)


def is_images(values: NDArray[Any]) -> bool:
    """Return whether an input holds images, as `images_of` returns them."""
    if values.ndim != 4 or values.dtype.kind not in "fui":
        return False
    sides = values.shape[2:] if channels_first(values.shape[1:]) else values.shape[1:3]
    return min(sides) >= _MIN_SIDE and (channels_first(values.shape[1:]) or values.shape[3] in {1, 3})


def channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether an image of this shape has its channels before height and width."""
    return shape[0] in {1, 3}


def image_size(batch: Batch) -> tuple[int, int] | None:
    """Return height and width of the images in a batch; None where there are none.

    >>> import numpy as np
    >>> image_size({"x": np.zeros((2, 3, 32, 64))})
    (32, 64)
    """
    images = images_of(batch)
    if images is None:
        return None
    height, width = images.shape[2:] if channels_first(images.shape[1:]) else images.shape[1:3]
    return height, width
