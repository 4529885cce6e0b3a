"""A few held-out images with what both models make of them, those first on which they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SHOWN_CLASSES = 3
_SMALLEST, _LARGEST = 8, 224  # sides of an image: what is smaller is none, what is larger is kept smaller
_SUM_TO_ONE = 1e-2  # how far scores may be from adding up to 1 and still be probabilities; half precision is coarse

Scores = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class ExamplePrediction:
    """A held-out image and what both models make of it.

    Attributes:
        number: its place among the held-out samples, from 1.
        pixels: shape (height, width) or (height, width, 3), uint8, its own range of values spread over 0..255.
        original: class and score of the original's best classes, best first.
        converted: the same of the converted model.
        probabilities: whether scores are shares of 1.
    """

    number: int
    pixels: NDArray[np.uint8]
    original: Scores
    converted: Scores
    probabilities: bool

    @property
    def agree(self) -> bool:
        """Whether both models put the same class first."""
        return self.original[0][0] == self.converted[0][0]


class ExampleKeeper:
    """Keeps some samples out of batches that pass by, as small pictures.

    Args:
        most: samples to keep.
    """

    def __init__(self, most: int) -> None:
        self._most, self._seen = most, 0
        self._apart: list[ExamplePrediction] = []
        self._alike: list[ExamplePrediction] = []

    @property
    def samples(self) -> tuple[ExamplePrediction, ...]:
        """Those that the models disagree on, then others, in the order they came."""
        return tuple([*self._apart, *self._alike][: self._most])

    def look(self, batch: Mapping[str, NDArray[Any]], ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Look a batch through.

        Args:
            batch: inputs by name; nothing is kept where none is an image.
            ours: scores of the original, shape (samples, classes).
            theirs: scores of the converted model, likewise.
        """
        count = len(ours)
        images = next((values for values in batch.values() if len(values) == count and _is_images(values)), None)
        same = ours.argmax(-1) == theirs.argmax(-1)
        for place in range(count if images is not None else 0):
            kept = self._alike if same[place] else self._apart
            if images is not None and len(kept) < self._most:
                kept.append(_sample(self._seen + place + 1, images[place], ours[place], theirs[place]))
        self._seen += count


def is_scores(output: NDArray[Any]) -> bool:
    """Whether an output is a row of scores per sample, as classifiers have them."""
    return output.ndim == 2 and output.shape[-1] > 1 and np.issubdtype(output.dtype, np.floating)


def _is_images(values: NDArray[Any]) -> bool:
    if values.ndim != 4 or values.dtype.kind not in "fui":
        return False
    sides = values.shape[2:] if _channels_first(values.shape[1:]) else values.shape[1:3]
    return min(sides) >= _SMALLEST and (_channels_first(values.shape[1:]) or values.shape[3] in {1, 3})


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] in {1, 3}


def _sample(number: int, image: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any]) -> ExamplePrediction:
    probabilities = all(_are_probabilities(scores) for scores in (ours, theirs))
    return ExamplePrediction(number, _pixels(image), _best(ours), _best(theirs), probabilities)


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image as the model gets it, its range of values spread over 0..255."""
    values = np.nan_to_num(image.astype(np.float64))
    values = np.moveaxis(values, 0, -1) if _channels_first(values.shape) else values
    values -= values.min()
    spread = np.rint(values * (255 / (values.max() or 1))).astype(np.uint8)
    picture = Image.fromarray(spread[..., 0] if spread.shape[-1] == 1 else spread)
    picture.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(picture)


def _are_probabilities(scores: NDArray[Any]) -> bool:
    return bool(scores.min() >= 0) and abs(float(scores.sum(dtype=np.float64)) - 1) <= _SUM_TO_ONE


def _best(scores: NDArray[Any]) -> Scores:
    first = np.argsort(-scores.astype(np.float64), kind="stable")[:_SHOWN_CLASSES]
    return tuple((int(index), float(scores[index])) for index in first)
