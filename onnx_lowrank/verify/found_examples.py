"""A few held-out images with what both networks find in them, the worst first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.metrics import Predictor
from onnx_lowrank.metrics.images import image_size, images_of
from onnx_lowrank.metrics.protocol import Batch, Reading, ReadOutputs
from onnx_lowrank.metrics.readings import difference
from onnx_lowrank.verify.examples import pixels_of

MAX_SIDE = 320  # pixels of a picture; larger images are scaled down


@dataclass(frozen=True, eq=False)
class FoundExample:
    """A held-out image with what both networks find in it.

    Attributes:
        number: position among the held-out samples, from 1.
        pixels: shape (height, width) or (height, width, 3), uint8, scaled from the image's own range to 0..255.
        size: height and width of the network's input, which boxes are measured in.
        original: what the original finds.
        converted: what the converted network finds, of the same type.
        difference: share of it that is not the same, 0 to 1.
    """

    number: int
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    original: Reading
    converted: Reading
    difference: float


def found_examples(
    read: ReadOutputs, original: Predictor, converted: Predictor, batches: Iterable[Batch], most: int
) -> tuple[FoundExample, ...]:
    """Return the images that two networks differ most in.

    Args:
        read: reads the outputs of both.
        original: runs the original.
        converted: runs the converted network.
        batches: of samples; none of their images is kept unless an input holds some.
        most: images to keep, at most.

    Returns:
        The examples, the greatest difference first; of the same one those where something is found, in the order of
        the data.
    """
    kept: list[FoundExample] = []
    number = 0
    for batch in batches:
        images, size = images_of(batch), image_size(batch)
        if images is None or size is None:
            return ()
        pairs = zip(read(original(batch), batch), read(converted(batch), batch), strict=True)
        for image, (ours, theirs) in zip(images, pairs, strict=True):
            number += 1
            share = difference(ours, theirs)
            found = FoundExample(number, image, size, ours, theirs, share)
            if len(kept) < most or _place(found) < _place(kept[-1]):
                kept = sorted([*kept, replace(found, pixels=pixels_of(image, MAX_SIDE))], key=_place)[:most]
    return tuple(kept)


def _place(example: FoundExample) -> tuple[float, bool, int]:
    """Return what examples are sorted by."""
    nothing = len(example.original) == len(example.converted) == 0
    return -example.difference, nothing, example.number
