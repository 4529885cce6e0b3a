"""Images that nobody took, with the statistics of photographs: for networks that come without data.

What a convolution sees of photographs is edges at all scales, surfaces that are smooth in between, and colours that go
together. Leaves that fall on each other have the same (the dead leaves model), if their sizes follow a power law::

    density of radii ~ r^-3,  smallest .. largest        many small ones, few large ones: the same at every scale
    grey value, tint                                     of a leaf; tints are weak beside grey values
    texture, light                                       over all: noise of amplitude 1 / frequency, a slope of light

The numbers below were set so that pixels 1, 2, 4, 8 and 16 apart are as much alike as in photographs (correlations
.93, .86, .79, .71, .61 in 40 of ImageNet, .94, .89, .82, .71, .54 here).

Lee, Mumford, Huang 2001, Occlusion models for natural images; Ruderman, Cronin, Chiao 1998 (colours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnx_lowrank.calibrate.data.colours import Colours, fit_colours
from onnx_lowrank.calibrate.data.preprocess import ImageLayout, Preprocessing, image_array, image_layout, shape_text
from onnx_lowrank.calibrate.data.sources import DECODING_THREADS, Indices
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layers.input_statistics import InputStatistics
from onnx_lowrank.runtime.inputs import TensorSpec

_LOOKED_AT = 64  # images whose colours are compared with the network's statistics
COUNT = 320  # a fifth of them to verify with
_SIDE = 256  # pixels of a picture, before it is brought to the input's size
_LEAVES = 250
_RADII = (20.0, 400.0)  # up to surfaces that fill the picture
_TEXTURE = 0.12  # of the range of values, at most


@dataclass(frozen=True, eq=False)
class SyntheticSource:
    """Samples of one input that are made when they are read, each from its number alone.

    Attributes:
        spec: the model input.
        layout: of its images, with a height and width.
        preprocessing: of the images.
        seed: of all of them.
        colours: what is done to theirs; None leaves them.
    """

    spec: TensorSpec
    layout: ImageLayout
    preprocessing: Preprocessing
    seed: int
    colours: Colours | None = None
    skipped: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where the samples come from and how many there are."""
        return f"made-up images ({len(self)})"

    def __len__(self) -> int:
        """Count the samples."""
        return COUNT

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Every sample is usable, shape (indices,)."""
        return np.ones(len(indices), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Make and stack images, first axis as ``indices``."""

        def make(index: int) -> NDArray[Any]:
            picture = dead_leaves(np.random.default_rng([self.seed, int(index)]))
            image = picture.convert("L") if self.layout.channels == 1 else picture
            return image_array(image, self.layout, self.preprocessing)

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            images = np.stack(list(pool.map(make, indices)))
        return images if self.colours is None else self.colours(images, channels_first=self.layout.channels_first)

    def like(self, first: InputStatistics) -> SyntheticSource:
        """The same with the colours that a network's first statistics tell of."""
        if self.layout.dtype.kind != "f":
            return self
        images = self.read(range(_LOOKED_AT))
        return replace(
            self, colours=fit_colours(images if self.layout.channels_first else images.transpose(0, 3, 1, 2), first)
        )


def synthetic_sources(
    inputs: Sequence[TensorSpec], preprocessing: Preprocessing, seed: int, first: Mapping[str, InputStatistics]
) -> dict[str, SyntheticSource]:
    """Made-up images for every input.

    Args:
        inputs: the model's inputs.
        preprocessing: of the images.
        seed: of the images.
        first: what the network knows of its first responses, by input, where it does.

    Raises:
        CalibrationError: an input takes no images, or leaves their size open.
    """
    sources = {}
    for spec in inputs:
        try:
            layout = image_layout(spec, preprocessing)
        except CalibrationError as error:
            raise CalibrationError(
                f"data: none given, and there is nothing to make up for input '{spec.name}' {shape_text(spec)}, which "
                "takes no images: pass --data with sample inputs"
            ) from error
        if not (layout.height and layout.width):
            raise CalibrationError(
                f"data: none given, and input '{spec.name}' {shape_text(spec)} leaves the size of images open: pass "
                f"--data with images, or --input-shapes {spec.name}:1,3,224,224"
            )
        source = SyntheticSource(spec, layout, preprocessing, seed)
        sources[spec.name] = source.like(first[spec.name]) if spec.name in first else source
    return sources


def dead_leaves(generator: np.random.Generator) -> Image.Image:
    """One picture of leaves on leaves, mode RGB.

    Args:
        generator: source of randomness.
    """
    colours = _colours(generator, _LEAVES + 1)
    picture = Image.new("RGB", (_SIDE, _SIDE), tuple(colours[-1]))
    draw = ImageDraw.Draw(picture)
    # Inverse of the distribution of radii.
    low, high = (radius**-2 for radius in _RADII)
    radii = (low - generator.random(_LEAVES) * (low - high)) ** -0.5
    centres = generator.uniform(-0.1, 1.1, (_LEAVES, 2)) * _SIDE
    corners = generator.integers(3, 7, _LEAVES)
    for radius, centre, count, colour in zip(radii, centres, corners, colours, strict=False):
        if count > 5:
            stretch = radius * generator.uniform(0.5, 1.5, 2)
            draw.ellipse([*(centre - stretch), *(centre + stretch)], fill=tuple(colour))
        else:
            angles = generator.uniform(0, 2 * pi) + np.sort(generator.uniform(0, 2 * pi, count))
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            draw.polygon(list(map(tuple, points)), fill=tuple(colour))
    return _textured(picture, generator)


def _colours(generator: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Colours of leaves, shape (count, 3): grey values of one brightness and contrast, and a weak tint each."""
    brightness, contrast = generator.uniform(0.3, 0.65), generator.uniform(0.1, 0.3)
    grey = brightness + contrast * generator.standard_normal((count, 1))
    cast = 0.05 * generator.standard_normal(3)
    tints = generator.uniform(0.02, 0.12) * generator.standard_normal((count, 3))
    return (255 * (grey + cast + tints).clip(0, 1)).astype(np.uint8)


def _textured(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The picture with fine noise, most of it in common to all colours, and light from one side."""
    frequencies = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE))
    frequencies[0, 0] = np.inf
    noise = np.fft.rfft2(generator.standard_normal((2, _SIDE, _SIDE))) / frequencies
    grey, tint = np.fft.irfft2(noise, s=(_SIDE, _SIDE))
    texture = (grey / grey.std())[:, :, None] + 0.3 * (tint / tint.std())[:, :, None] * generator.standard_normal(3)
    across, down = generator.uniform(-0.3, 0.3, 2)
    slope = np.linspace(-1, 1, _SIDE)
    light = 1 + across * slope + down * slope[:, None]
    pixels = np.asarray(picture) * light[:, :, None] + 255 * generator.uniform(0, _TEXTURE) * texture
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
