"""Weights as trained ones are: matrices whose singular values fall, and scales near 1. Needs NumPy alone."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DECAY = 8.0  # the last singular value is exp(-8) of the first


def falling(
    generator: np.random.Generator, shape: tuple[int, ...], *, filters_last: bool = False
) -> NDArray[np.float32]:
    """Draw a weight whose few leading directions do most of the work, and which keeps variances behind a ReLU.

    Args:
        generator: of the numbers.
        shape: (filters, channels, kernel...), or with the filters last.
        filters_last: whether the filters are the last axis, as in TensorFlow and JAX.

    Returns:
        Array of that shape.
    """
    filters = shape[-1] if filters_last else shape[0]
    reads = prod(shape) // max(filters, 1)
    rank = min(filters, reads)
    shares = np.exp(-_DECAY * np.arange(rank) / rank)
    left = generator.standard_normal((filters, rank)) * (shares / np.linalg.norm(shares))
    matrix = left @ generator.standard_normal((rank, reads)) * np.sqrt(2 / reads)
    return np.asarray((matrix.T if filters_last else matrix).reshape(shape), np.float32)


def image_batch(generator: np.random.Generator, shape: tuple[int, ...], *, channels_last: bool = False) -> Any:
    """Draw images that are smoother than noise: each pixel is a sum along both axes, brought to variance 1.

    Args:
        generator: of the numbers.
        shape: (N, C, H, W), or (N, H, W, C) with ``channels_last``.
        channels_last: where the channels are.
    """
    axes = (1, 2) if channels_last else (2, 3)
    images = generator.standard_normal(shape)
    for axis in axes:
        images = images.cumsum(axis)
    images -= images.mean(axes, keepdims=True)
    return (images / images.std(axes, keepdims=True)).astype(np.float32)
