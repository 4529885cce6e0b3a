"""Held-out images of the page: encoded as data URIs, with the predictions of both models."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import floor, log10

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.verify import ExamplePrediction

_MAX_PNG_SIDE = 64  # pixels; larger images are written as JPEG
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Guess:
    """One class of a prediction.

    Attributes:
        label: index of the class.
        score: as text.
        share: the score between 0 and 1 if it is a probability, else None.
    """

    label: int
    score: str
    share: float | None


@dataclass(frozen=True)
class Picture:
    """A held-out image, ready for the page.

    Attributes:
        number: position among the held-out samples, from 1.
        uri: the image as a data URI.
        size: width and height in pixels.
        small: whether it is small enough to be enlarged pixel by pixel.
        agree: whether both models have the same top class.
        guesses: pairs of the top classes (original, converted), best first.
    """

    number: int
    uri: str
    size: tuple[int, int]
    small: bool
    agree: bool
    guesses: tuple[tuple[Guess, Guess], ...]

    @property
    def text(self) -> str:
        """Text alternative for those who cannot see the image."""
        first, second = self.guesses[0]
        classes = f"class {first.label} in the original, class {second.label} in the converted model"
        return f"Held-out sample {self.number}: {classes}"


def picture(sample: ExamplePrediction) -> Picture:
    """Prepare a sample for the page.

    Args:
        sample: image and predictions.
    """
    height, width = sample.pixels.shape[:2]
    scores = [abs(score) for _, score in sample.original + sample.converted]
    form = ".1%" if sample.probabilities else _score_format(max(scores))
    pairs = zip(sample.original, sample.converted, strict=True)
    guesses = [(_guess(sample, form, *first), _guess(sample, form, *second)) for first, second in pairs]
    uri, small = data_uri(sample.pixels), is_small(sample.pixels)
    return Picture(sample.number, uri, (width, height), small, sample.agree, tuple(guesses))


def is_small(pixels: NDArray[np.uint8]) -> bool:
    """Return whether an image is small enough to be enlarged pixel by pixel."""
    return bool(max(pixels.shape[0], pixels.shape[1]) <= _MAX_PNG_SIDE)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return an image as a data URI: PNG for a small one, else JPEG.

    Args:
        pixels: shape (height, width) or (height, width, 3).
    """
    form = "png" if is_small(pixels) else "jpeg"
    stream = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if form == "jpeg" else {"optimize": True}
    Image.fromarray(pixels).save(stream, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _score_format(largest: float) -> str:
    """Return the format of scores that gives the largest three digits and the others the same decimals."""
    if not 1e-4 <= largest < 1e5:
        return ".2e"
    return f".{max(0, 2 - floor(log10(largest)))}f"


def _guess(sample: ExamplePrediction, form: str, label: int, score: float) -> Guess:
    return Guess(label, format(score, form), min(max(score, 0.0), 1.0) if sample.probabilities else None)
