"""Decode, resize and scale images into the array that a model input takes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec

# Formats whose decoders run no other program; Pillow's EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

ChannelOrder = Literal["rgb", "bgr"]
Resize = Literal["crop", "stretch", "pad"]


class BadImageError(CalibrationError):
    """Raised for a file that is not an image, or is damaged."""


_ROUNDING = 1e-3  # of a mean that is written with few digits


@dataclass(frozen=True)
class Preprocessing:
    """The formula that turns pixels into model inputs: ``(pixel * scale - mean) / std``, pixels from 0 to 255.

    As in ``Preprocessing(mean=127, std=128)``. Change single fields of a preset with ``dataclasses.replace``. Inputs of
    type uint8 take the pixels as they are.

    Attributes:
        name: of the preset that it is or was derived from.
        scale: factor on the pixels, before mean and std.
        mean: subtracted, a number or one per channel in the order of the model's channels; kept as a tuple.
        std: divided by, a number or one per channel in the order of the model's channels; kept as a tuple.
        channel_order: ``rgb`` or ``bgr``; models of one channel get grayscale images.
        resize: ``crop`` resizes the image to cover the input and cuts out the centre, ``stretch`` changes its
            aspect ratio, ``pad`` fits all of it in and leaves the borders black.
        crop_share: share of the covering side that ``crop`` keeps, 0 to 1: 224/256 for ImageNet models.

    Raises:
        CalibrationError: a number is not finite, std holds 0, mean is more than any pixel gives, crop_share is outside
            (0, 1].
        TypeError: mean or std is neither a number nor a sequence of numbers.
        ValueError: unknown channel order or resize mode.
    """

    name: str = "custom"
    scale: float = 1.0
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    channel_order: ChannelOrder = "rgb"
    resize: Resize = "crop"
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        for field in ("mean", "std"):  # the dataclass is frozen
            object.__setattr__(self, field, _numbers(field, getattr(self, field)))
        if self.channel_order not in get_args(ChannelOrder) or self.resize not in get_args(Resize):
            raise ValueError(f"unknown channel order '{self.channel_order}' or resize mode '{self.resize}'")
        if not all(map(isfinite, (self.scale, *self.means, *self.stds))) or 0 in self.stds:
            raise CalibrationError(
                f"preprocessing: scale {self.scale}, mean {self.mean}, std {self.std}: "
                f"finite numbers are wanted, and no 0 in std: correct `scale`, `mean` or `std`"
            )
        largest = 255 * self.scale
        if self.scale > 0 and max(self.means) > largest * (1 + _ROUNDING):
            raise CalibrationError(
                f"preprocessing: mean {max(self.means):g} is more than any pixel gives, 0 to {largest:g} with scale "
                f"{self.scale:.3g}: means of 0 to 255 want `scale` 1, or divide them by 255"
            )
        if not 0 < self.crop_share <= 1:
            raise CalibrationError(f"preprocessing: crop_share must lie in (0, 1], got {self.crop_share}: correct it")

    def __str__(self) -> str:
        """Return the formula with its numbers, then how images are resized: ``(pixel * 1 - 127) / 128, rgb, crop``."""
        mean, std = (
            f"{each[0]:g}" if len(each) == 1 else f"[{', '.join(f'{number:g}' for number in each)}]"
            for each in (self.means, self.stds)
        )
        return f"(pixel * {self.scale:.6g} - {mean}) / {std}, {self.channel_order}, {self.resize}"

    @property
    def means(self) -> tuple[float, ...]:
        """``mean`` as a tuple, of one value or of one per channel."""
        return _numbers("mean", self.mean)

    @property
    def stds(self) -> tuple[float, ...]:
        """``std`` as a tuple, of one value or of one per channel."""
        return _numbers("std", self.std)


def _numbers(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """Return a number or several as a tuple."""
    if isinstance(value, Real):
        return (float(value),)
    wrong = f"preprocessing: {name} must be a number or one per channel, got {value!r}"
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(wrong)
    try:
        return tuple(map(float, value))
    except (TypeError, ValueError) as error:
        raise TypeError(wrong) from error


_PRESETS = (
    Preprocessing("imagenet", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_share=224 / 256),
    Preprocessing("keras-caffe", 1.0, (103.939, 116.779, 123.68), channel_order="bgr"),
    Preprocessing("zero-one", 1 / 255),
    Preprocessing("minus-one-one", 1 / 127.5, (1.0,)),
    Preprocessing("raw"),
)
PRESETS = tuple(preprocessing.name for preprocessing in _PRESETS)


def preset(name: str) -> Preprocessing:
    """Return a common preprocessing.

    Args:
        name: ``imagenet`` (torchvision's models), ``keras-caffe`` (Keras' VGG and ResNet: BGR minus the
            mean), ``zero-one`` (pixel / 255), ``minus-one-one`` (pixel / 127.5 - 1) or ``raw`` (0 to 255).

    Raises:
        ValueError: no preset has this name.
    """
    for preprocessing in _PRESETS:
        if preprocessing.name == name:
            return preprocessing
    raise ValueError(f"no preset '{name}': one of {', '.join(each.name for each in _PRESETS)} is wanted")


DEFAULT = preset("zero-one")  # where nothing is said


@dataclass(frozen=True)
class ImageLayout:
    """The shape of images in one model input.

    Attributes:
        dtype: a float type or uint8.
        channels: 1 or 3.
        height: in pixels; None if the model takes any.
        width: in pixels; None if the model takes any.
        channels_first: whether arrays are (channels, height, width) rather than (height, width, channels).
    """

    dtype: np.dtype[Any]
    channels: int
    height: int | None
    width: int | None
    channels_first: bool


def image_layout(spec: TensorSpec, preprocessing: Preprocessing) -> ImageLayout:
    """Derive the layout of images from the shape of a model input.

    Raises:
        CalibrationError: the shape is not that of images, the type is neither float nor uint8, or the lengths of mean
            and std do not match the channels.
    """
    if spec.samples_axis not in (0, None):
        raise CalibrationError(f"input '{spec.name}': samples on axis {spec.samples_axis}, images need them first")
    where, remedy = f"input '{spec.name}'", "pass arrays as .npy instead of images"
    candidates = [axis for axis in (1, 3) if len(spec.shape) == 4 and spec.shape[axis] in (1, 3)]
    if len(candidates) != 1:
        axes = "both" if candidates else "none"
        raise CalibrationError(
            f"{where}: shape {shape_text(spec)} found, four axes wanted for images, either the second or the "
            f"last with 1 or 3 channels (that holds for {axes}): {remedy}, or set `input_shapes`"
        )
    if spec.dtype != np.uint8 and not np.issubdtype(spec.dtype, np.floating):
        raise CalibrationError(f"{where}: type {spec.dtype}: images become float or uint8 inputs only: {remedy}")
    channels = spec.shape[candidates[0]] or 0
    for option, values in (("mean", preprocessing.means), ("std", preprocessing.stds)):
        if spec.dtype != np.uint8 and len(values) not in (1, channels):
            raise CalibrationError(
                f"{where}: {option} of preprocessing '{preprocessing.name}' has {len(values)} values, the "
                f"input {channels} channel(s): pass `{option}` with one value, or one per channel"
            )
    height, width = spec.shape[2:4] if candidates == [1] else spec.shape[1:3]
    return ImageLayout(spec.dtype, channels, height, width, candidates == [1])


def shape_text(spec: TensorSpec) -> str:
    """Format a shape for messages: ``(samples, 3, ?, ?)``."""
    return f"({', '.join(['samples', *('?' if size is None else str(size) for size in spec.shape[1:])])})"


def decode_image(content: bytes, channels: int) -> Image.Image:
    """Decode an image file; an EXIF rotation is ignored, as training pipelines do.

    Args:
        content: the file's bytes.
        channels: 1 for grayscale, 3 for RGB.

    Returns:
        The image in mode L or RGB.

    Raises:
        BadImageError: the format is unknown, or the image is damaged, truncated or suspiciously large (a decompression
            bomb).
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image)
            image.load()
            return _eight_bits(image).convert("L" if channels == 1 else "RGB")
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image of a known format") from error
    except Exception as error:  # damaged images raise nearly everything, from SyntaxError to IndexError
        raise BadImageError(str(error)) from error


def _check_pixels(image: Image.Image) -> None:
    """Raise for an image that is too large; Pillow only warns unless it has twice as many pixels."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BadImageError(f"{image.width} x {image.height} pixels, more than the {limit} safe to decode")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert modes that Pillow's ``convert`` would clip or warn about to pixels from 0 to 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImageError(f"pixels of 32 bits (mode {image.mode}) have no known range")
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def resize_image(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """Resize an image, bilinear with antialiasing.

    Args:
        image: of any size.
        size: the new (width, height).
        preprocessing: resize mode and crop share.
    """
    bilinear = Image.Resampling.BILINEAR
    if preprocessing.resize == "stretch":
        return image.resize(size, bilinear)
    ratios = size[0] / image.width, size[1] / image.height
    if preprocessing.resize == "pad":
        fitted = [max(1, round(side * min(ratios))) for side in image.size]
        canvas = Image.new(image.mode, size)
        canvas.paste(
            image.resize((fitted[0], fitted[1]), bilinear),
            ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2),
        )
        return canvas
    # Resizing a box gives the pixels of resizing and cropping in less memory: a 10 x 9999 strip stays small.
    factor = max(ratios) / preprocessing.crop_share
    left, right = _centre(image.width, size[0], factor)
    top, bottom = _centre(image.height, size[1], factor)
    return image.resize(size, bilinear, box=(left, top, right, bottom))


def image_placement(
    image_size: tuple[int, int], size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return where `resize_image` puts an image: point ``p`` of it is at ``p * scale + offset``, along x and along y.

    Args:
        image_size: its (width, height).
        size: the new (width, height).
        preprocessing: resize mode and crop share.

    Returns:
        The scales along x and y, and the offsets.
    """
    ratios = [new / old for new, old in zip(size, image_size, strict=True)]
    if preprocessing.resize == "stretch":
        return (ratios[0], ratios[1]), (0.0, 0.0)
    if preprocessing.resize == "pad":
        fitted = [max(1, round(side * min(ratios))) for side in image_size]
        scale = [new / old for new, old in zip(fitted, image_size, strict=True)]
        left, top = ((new - side) // 2 for new, side in zip(size, fitted, strict=True))
        return (scale[0], scale[1]), (float(left), float(top))
    factor = max(ratios) / preprocessing.crop_share
    boxes = [_centre(old, new, factor) for old, new in zip(image_size, size, strict=True)]
    scale = [new / (end - start) for new, (start, end) in zip(size, boxes, strict=True)]
    offset = [-start * each for (start, _), each in zip(boxes, scale, strict=True)]
    return (scale[0], scale[1]), (offset[0], offset[1])


def _centre(side: int, new_side: int, factor: float) -> tuple[float, float]:
    """Return start and end, in pixels before resizing, of the central ``new_side`` pixels after it."""
    covering = max(new_side, floor(side * factor + 1e-6))
    start = round((covering - new_side) / 2)
    return start * side / covering, min(side, (start + new_side) * side / covering)


def image_array(image: Image.Image, layout: ImageLayout, preprocessing: Preprocessing) -> NDArray[Any]:
    """Resize, scale and lay out one decoded image.

    Args:
        image: mode L or RGB, as `decode_image` returns it.
        layout: of the model input; an open height or width is that of the image.
        preprocessing: the formula, channel order and resize mode.

    Returns:
        Shape (channels, height, width) or (height, width, channels), of the layout's dtype.
    """
    size = layout.width or image.width, layout.height or image.height
    pixels = np.asarray(resize_image(image, size, preprocessing))
    pixels = pixels.reshape(size[1], size[0], layout.channels)
    if preprocessing.channel_order == "bgr":
        pixels = pixels[:, :, ::-1]
    if layout.dtype != np.uint8:
        mean, std = (np.array(values, np.float32) for values in (preprocessing.means, preprocessing.stds))
        pixels = (pixels * np.float32(preprocessing.scale) - mean) / std
    if layout.channels_first:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels, dtype=layout.dtype)
