"""Synthesize images with the statistics of photographs, for conversions without data.

To a convolution, photographs are edges at all scales, smooth surfaces between them, and correlated colours. The dead
leaves model, opaque shapes that fall on each other, has the same statistics if the sizes follow a power law::

    density of radii ~ r^-3 from smallest to largest     scale invariant: many small leaves, few large ones
    grey value, tint                                     one per leaf; tints are weak compared with grey values
    texture, light                                       on the whole picture: 1 / frequency noise, a linear gradient

The constants below were chosen so that the correlation of pixels at distances of 1, 2, 4, 8 and 16 is that of
photographs (.93, .86, .79, .71, .61 for 40 of ImageNet; .94, .89, .82, .71, .54 here).

Use real data wherever there are any: synthetic images are better than noise, but do not know the network's domain.

Lee, Mumford, Huang 2001, Occlusion models for natural images; Ruderman, Cronin, Chiao 1998 (colours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from onnx_lowrank.linalg.threads import on_threads
from onnx_lowrank.runtime.inputs import TensorSpec, shape_hint

SYNTHETIC_SAMPLES = 320  # a fifth of them to verify with
_COLOUR_FIT_SAMPLES = 64
_SIDE = 256  # pixels of a picture before it is resized to the input's size
_LEAVES = 250
_RADII = (20.0, 400.0)  # smallest and largest, in pixels; the largest fill the picture
_MAX_TEXTURE = 0.12  # standard deviation as a share of the range of values


@dataclass(frozen=True, eq=False)
class SyntheticSource:
    """Samples of one input that are synthesized on reading, each from the seed and its index alone.

    Attributes:
        spec: the model input.
        layout: of its images, with a fixed height and width.
        preprocessing: of the images.
        seed: of the random numbers.
        colours: map applied to the preprocessed images; None for no change.
        skipped: always empty.
    """

    spec: TensorSpec
    layout: ImageLayout
    preprocessing: Preprocessing
    seed: int
    colours: Colours | None = None
    skipped: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Where the samples come from and how many there are."""
        return f"synthetic images ({len(self)})"

    def __len__(self) -> int:
        """Return the number of samples."""
        return SYNTHETIC_SAMPLES

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Return True for every sample, shape (indices,)."""
        return np.ones(len(indices), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Synthesize images.

        Returns:
            Shape (indices, channels, height, width) or (indices, height, width, channels), of the layout's dtype.
        """

        def synthesize(index: int) -> NDArray[Any]:
            picture = dead_leaves(np.random.default_rng([self.seed, int(index)]))
            image = picture.convert("L") if self.layout.channels == 1 else picture
            return image_array(image, self.layout, self.preprocessing)

        images = np.stack(list(on_threads(synthesize, indices, DECODING_THREADS)))
        return images if self.colours is None else self.colours(images, channels_first=self.layout.channels_first)

    def with_fitted_colours(self, first: InputStatistics) -> SyntheticSource:
        """Return a source with colours fitted to the statistics of a network's first responses."""
        if self.layout.dtype.kind != "f":
            return self
        images = self.read(range(_COLOUR_FIT_SAMPLES))
        if not self.layout.channels_first:
            images = images.transpose(0, 3, 1, 2)
        return replace(self, colours=fit_colours(images, first))


def synthetic_sources(
    inputs: Sequence[TensorSpec], preprocessing: Preprocessing, seed: int, first: Mapping[str, InputStatistics]
) -> dict[str, SyntheticSource]:
    """Return a source of synthetic images for every input.

    Args:
        inputs: the model's inputs.
        preprocessing: of the images.
        seed: of the random numbers.
        first: by input name, statistics of the first responses that the network stores.

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
                "takes no images: pass `data` with sample inputs"
            ) from error
        if not (layout.height and layout.width):
            raise CalibrationError(
                f"data: none given, and input '{spec.name}' {shape_text(spec)} leaves the size of images open: pass "
                f"`data` with images, or {shape_hint(spec.name)}"
            )
        source = SyntheticSource(spec, layout, preprocessing, seed)
        sources[spec.name] = source.with_fitted_colours(first[spec.name]) if spec.name in first else source
    return sources


def dead_leaves(generator: np.random.Generator) -> Image.Image:
    """Draw one picture of the dead leaves model.

    Args:
        generator: source of randomness.

    Returns:
        A picture of mode RGB, 256 x 256 pixels.
    """
    colours = _colours(generator, _LEAVES + 1)
    picture = Image.new("RGB", (_SIDE, _SIDE), tuple(colours[-1]))
    draw = ImageDraw.Draw(picture)
    # Sampled by the inverse of their cumulative distribution.
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
    """Draw colours, shape (count, 3): grey values of one brightness and contrast, each with a weak tint."""
    brightness, contrast = generator.uniform(0.3, 0.65), generator.uniform(0.1, 0.3)
    grey = brightness + contrast * generator.standard_normal((count, 1))
    cast = 0.05 * generator.standard_normal(3)
    tints = generator.uniform(0.02, 0.12) * generator.standard_normal((count, 3))
    return (255 * (grey + cast + tints).clip(0, 1)).astype(np.uint8)


def _textured(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Add fine noise, most of it equal in all channels, and light from one side."""
    frequencies = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE))
    frequencies[0, 0] = np.inf
    noise = np.fft.rfft2(generator.standard_normal((2, _SIDE, _SIDE))) / frequencies
    grey, tint = np.fft.irfft2(noise, s=(_SIDE, _SIDE))
    texture = (grey / grey.std())[:, :, None] + 0.3 * (tint / tint.std())[:, :, None] * generator.standard_normal(3)
    across, down = generator.uniform(-0.3, 0.3, 2)
    slope = np.linspace(-1, 1, _SIDE)
    light = 1 + across * slope + down * slope[:, None]
    pixels = np.asarray(picture) * light[:, :, None] + 255 * generator.uniform(0, _MAX_TEXTURE) * texture
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
