"""Held-out images of the page with what both networks find in them: boxes, classes of pixels or texts."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.protocol import Reading, Text
from onnx_lowrank.metrics.readings import same_boxes
from onnx_lowrank.report.pictures import data_uri, is_small
from onnx_lowrank.verify import FoundExample

_OPACITY = 0.6  # of the colours of classes over an image
_GOLDEN_ANGLE = 0.381966  # of a turn: colours of many classes stay apart


@dataclass(frozen=True)
class ShownBox:
    """A box, in pixels of the network's input.

    Attributes:
        place: left, top, width, height.
        text: class and score.
        same: whether the other network finds it too.
    """

    place: tuple[float, float, float, float]
    text: str
    same: bool


@dataclass(frozen=True)
class Shown:
    """What one network finds in an image.

    Attributes:
        caption: in a few words.
        boxes: that are drawn over the image.
        uri: the image with the colours of classes; None to show the image itself.
        text: that is read; None where none is.
    """

    caption: str
    boxes: tuple[ShownBox, ...] = ()
    uri: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class FoundPicture:
    """A held-out image, ready for the page.

    Attributes:
        number: position among the held-out samples, from 1.
        kind: of what is found.
        uri: the image as a data URI.
        size: width and height in pixels of the network's input.
        small: whether it is small enough to be enlarged pixel by pixel.
        original: what the original finds.
        converted: what the converted network finds.
        verdict: how much of it is the same.
        same: whether all of it is.
    """

    number: int
    kind: Literal["boxes", "pixels", "text"]
    uri: str
    size: tuple[int, int]
    small: bool
    original: Shown
    converted: Shown
    verdict: str
    same: bool

    @property
    def sides(self) -> tuple[tuple[str, str, Shown], ...]:
        """Name, CSS class and finds of both networks."""
        return ("original", "before", self.original), ("converted", "after", self.converted)

    def alternative(self, name: str) -> str:
        """Return a text alternative for those who cannot see an image.

        Args:
            name: of the network.
        """
        shown = self.original if name == "original" else self.converted
        return f"Held-out sample {self.number}, {name}: {shown.caption}; {self.verdict}"


def found_picture(example: FoundExample) -> FoundPicture:
    """Prepare an image for the page.

    Args:
        example: the image and what is found in it.
    """
    first, second = example.original, example.converted
    kind: Literal["boxes", "pixels", "text"]
    if isinstance(first, Boxes) and isinstance(second, Boxes):
        partners = same_boxes(first, second)
        kind, sides = "boxes", [_boxes(*each) for each in zip((first, second), partners, strict=True)]
        verdict = f"{int(partners[0].sum())} the same" if len(first) + len(second) else "nothing in either"
    elif isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        kind, sides = "pixels", [_pixels(example.pixels, each) for each in (first, second)]
        verdict = f"{_percent(1 - example.difference)} of the pixels the same"
    else:
        kind, sides = "text", [_text(each) for each in (first, second)]
        verdict = "the same" if example.difference == 0 else f"{_percent(1 - example.difference)} the same"
    height, width = example.size
    return FoundPicture(
        example.number,
        kind,
        data_uri(example.pixels),
        (width, height),
        is_small(example.pixels),
        sides[0],
        sides[1],
        verdict,
        example.difference == 0,
    )


def _boxes(boxes: Boxes, same: NDArray[np.bool_]) -> Shown:
    shown = []
    for (left, top, right, bottom), score, label, alike in zip(
        boxes.corners.round(1).tolist(), boxes.scores.tolist(), boxes.labels.tolist(), same.tolist(), strict=True
    ):
        place = (left, top, round(right - left, 1), round(bottom - top, 1))
        shown.append(ShownBox(place, f"class {label}, score {score:.2f}", alike))
    return Shown("1 box" if len(boxes) == 1 else f"{len(boxes)} boxes", tuple(shown))


def _pixels(image: NDArray[np.uint8], classes: NDArray[np.int64]) -> Shown:
    size = image.shape[1], image.shape[0]
    nearest = Image.fromarray(classes.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    numbers = np.asarray(nearest)
    grey = image if image.ndim == 2 else image.mean(axis=2)
    colours = np.array([_colour(number) for number in range(int(numbers.max()) + 1)])
    mixed = (1 - _OPACITY) * grey[..., None] + _OPACITY * colours[numbers]
    shares = np.bincount(classes.ravel()) / classes.size
    largest = [int(each) for each in np.argsort(-shares, kind="stable")[:3] if shares[each]]
    caption = ", ".join(f"class {each} on {_percent(float(shares[each]))}" for each in largest)
    return Shown(caption, uri=data_uri(mixed.round().astype(np.uint8)))


def _text(text: Reading) -> Shown:
    assert isinstance(text, str | tuple)
    shown = _written(text)
    return Shown(f"reads {shown}" if shown else "reads nothing", text=shown)


def _written(text: Text) -> str:
    return text if isinstance(text, str) else " ".join(map(str, text))


def _colour(number: int) -> Sequence[float]:
    """Return red, green and blue of a class, 0 to 255; class 0, often the background, is black."""
    if number == 0:
        return 0, 0, 0
    return [255 * each for each in colorsys.hls_to_rgb((0.58 + _GOLDEN_ANGLE * (number - 1)) % 1, 0.55, 0.8)]


def _percent(share: float) -> str:
    """Return a share as text; 100 % only where it is all."""
    return "all" if share == 1 else f"{min(share, 0.999):.1%}"
