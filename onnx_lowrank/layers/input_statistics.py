"""Statistics of the images that a network was trained on, as its first BatchNormalization stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """A convolution that reads images, and the mean and variance of its responses over the training images.

    Attributes:
        weight: shape (d, c, kh, kw).
        strides: vertical, horizontal.
        pads: ((top, bottom), (left, right)).
        mean: of the responses without bias over all images and positions, shape (d,).
        variance: of the same responses, shape (d,).
    """

    weight: NDArray[np.float64]
    strides: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def patches(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the part of the images that the kernel covers at every position, its axes flattened.

        Args:
            images: shape (images, height, width), of one channel.

        Returns:
            Shape (images * positions, kh * kw).
        """
        padded = np.pad(images, [(0, 0), *self.pads])
        kernel = self.weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))
        windows = windows[:, :: self.strides[0], :: self.strides[1]]
        return windows.reshape(-1, kernel[0] * kernel[1])
