"""A few held-out images with the predictions of both models, disagreements first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.metrics.images import channels_first, images_of

_SHOWN_CLASSES = 3
_MAX_IMAGE_SIDE = 224  # pixels; larger images are scaled down
_PROBABILITY_SUM_TOLERANCE = 1e-2  # probabilities in half precision do not add up to 1 exactly

Scores = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class ExamplePrediction:
    """A held-out image with the predictions of both models.

    Attributes:
        number: position among the held-out samples, from 1.
        pixels: shape (height, width) or (height, width, 3), uint8, scaled from the image's own range to 0..255.
        original: class and score of the original's top classes, best first.
        converted: class and score of the converted model's top classes, best first.
        probabilities: whether the scores are probabilities.
    """

    number: int
    pixels: NDArray[np.uint8]
    original: Scores
    converted: Scores
    probabilities: bool

    @property
    def agree(self) -> bool:
        """Whether both models have the same top class."""
        return self.original[0][0] == self.converted[0][0]


class ExampleKeeper:
    """Keeps some samples of a sequence of batches as small pictures.

    Args:
        max_samples: number of samples to keep, at most.
    """

    def __init__(self, max_samples: int) -> None:
        self._max_samples, self._seen = max_samples, 0
        self._disagreements: list[ExamplePrediction] = []
        self._agreements: list[ExamplePrediction] = []

    @property
    def samples(self) -> tuple[ExamplePrediction, ...]:
        """Samples that the models disagree on, then others, each in the order of the data."""
        return tuple([*self._disagreements, *self._agreements][: self._max_samples])

    def add(self, batch: Mapping[str, NDArray[Any]], ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Keep samples of a batch, as long as there is room.

        Args:
            batch: inputs by name; nothing is kept unless one of them holds images, shape (samples, 1 or 3, height,
                width) or (samples, height, width, 1 or 3).
            ours: scores of the original, shape (samples, classes).
            theirs: scores of the converted model, shape (samples, classes).
        """
        count = len(ours)
        images = images_of(batch)
        if images is not None and len(images) != count:
            images = None
        same = ours.argmax(-1) == theirs.argmax(-1)
        for index in range(count if images is not None else 0):
            kept = self._agreements if same[index] else self._disagreements
            if images is not None and len(kept) < self._max_samples:
                kept.append(_sample(self._seen + index + 1, images[index], ours[index], theirs[index]))
        self._seen += count


def is_scores(output: NDArray[Any]) -> bool:
    """Return whether an output scores classes: shape (samples, classes), at least two classes, floating point."""
    return output.ndim == 2 and output.shape[-1] > 1 and np.issubdtype(output.dtype, np.floating)


def scores_images(output: NDArray[Any], images: int) -> bool:
    """Return whether an output scores classes with one row for each of a batch's images."""
    return is_scores(output) and len(output) == images


def _sample(number: int, image: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any]) -> ExamplePrediction:
    probabilities = all(_are_probabilities(scores) for scores in (ours, theirs))
    return ExamplePrediction(number, pixels_of(image, _MAX_IMAGE_SIDE), _best(ours), _best(theirs), probabilities)


def pixels_of(image: NDArray[Any], most: int) -> NDArray[np.uint8]:
    """Return a model input as an image, scaled from its own range to 0..255.

    Args:
        image: shape (1 or 3, height, width) or (height, width, 1 or 3).
        most: pixels on a side; larger images are scaled down.

    Returns:
        Shape (height, width) or (height, width, 3).
    """
    values = np.nan_to_num(image.astype(np.float64))
    values = np.moveaxis(values, 0, -1) if channels_first(values.shape) else values
    values -= values.min()
    spread = np.rint(values * (255 / (values.max() or 1))).astype(np.uint8)
    picture = Image.fromarray(spread[..., 0] if spread.shape[-1] == 1 else spread)
    picture.thumbnail((most, most))
    return np.asarray(picture)


def _are_probabilities(scores: NDArray[Any]) -> bool:
    return bool(scores.min() >= 0) and abs(float(scores.sum(dtype=np.float64)) - 1) <= _PROBABILITY_SUM_TOLERANCE


def _best(scores: NDArray[Any]) -> Scores:
    first = np.argsort(-scores.astype(np.float64), kind="stable")[:_SHOWN_CLASSES]
    return tuple((int(index), float(scores[index])) for index in first)
