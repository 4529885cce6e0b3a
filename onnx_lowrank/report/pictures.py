"""Held-out images for the page: as data URIs, with the predictions of both models."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import floor, log10

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.verify import ExamplePrediction

_EXACT = 64  # longer side of images that are written as PNG; larger ones as JPEG
_QUALITY = 90


@dataclass(frozen=True)
class Guess:
    """One class of a prediction.

    Attributes:
        label: its index.
        score: as text.
        share: of 1, where scores are probabilities; else None.
    """

    label: int
    score: str
    share: float | None


@dataclass(frozen=True)
class Picture:
    """A held-out image as the page shows it.

    Attributes:
        number: its place among the held-out samples, from 1.
        uri: the image.
        size: width and height in pixels.
        agree: whether both models put the same class first.
        guesses: the best classes of both models, row by row.
    """

    number: int
    uri: str
    size: tuple[int, int]
    agree: bool
    guesses: tuple[tuple[Guess, Guess], ...]

    @property
    def text(self) -> str:
        """What it shows, for those who cannot see it."""
        first, second = self.guesses[0]
        return f"Held-out sample {self.number}: class {first.label} by the original, {second.label} by the converted"


def picture(sample: ExamplePrediction) -> Picture:
    """A sample as the page shows it.

    Args:
        sample: image and predictions.
    """
    height, width = sample.pixels.shape[:2]
    form = ".1%" if sample.probabilities else _form(max(abs(score) for _, score in sample.original + sample.converted))
    pairs = zip(sample.original, sample.converted, strict=True)
    guesses = [(_guess(sample, form, *first), _guess(sample, form, *second)) for first, second in pairs]
    return Picture(sample.number, _data_uri(sample.pixels), (width, height), sample.agree, tuple(guesses))


def _form(largest: float) -> str:
    """How scores are written so that the largest has three digits and the others as many places."""
    if not 1e-4 <= largest < 1e5:
        return ".2e"
    return f".{max(0, 2 - floor(log10(largest)))}f"


def _guess(sample: ExamplePrediction, form: str, label: int, score: float) -> Guess:
    return Guess(label, format(score, form), min(max(score, 0.0), 1.0) if sample.probabilities else None)


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    kind = "png" if max(pixels.shape[:2]) <= _EXACT else "jpeg"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": _QUALITY} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
