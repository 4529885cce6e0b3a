"""Samples of one model input: rows of an array, or image files that are decoded when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.calibrate.data.archives import ImageFiles
from onnx_lowrank.calibrate.data.preprocess import (
    BadImageError,
    ImageLayout,
    Preprocessing,
    decode_image,
    image_array,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec, shape_hint

DECODING_THREADS = 4

Indices: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Samples of one input in an array, in memory or mapped from a file.

    Attributes:
        array: shape (samples, ...), as the input wants it but for the float type.
        spec: the model input.
        where: what to call the array.
    """

    array: NDArray[Any]
    spec: TensorSpec
    where: str
    skipped: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where the samples come from and how many there are."""
        return f"{self.where} ({len(self)} samples)"

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.array)

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Every sample of an array is usable, shape (indices,)."""
        return np.ones(len(indices), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Stack samples, first axis as ``indices``; NaN and Inf are a `CalibrationError`."""
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes Inf, found below
            batch = self.array[np.asarray(indices, dtype=np.int64)].astype(self.spec.dtype, copy=False)
        finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
        if not finite.all():
            bad = indices[int(finite.argmin())]
            raise CalibrationError(
                f"{self.where}: input '{self.spec.name}': sample {bad} holds NaN or Inf "
                f"(as {self.spec.dtype}), finite numbers are wanted: correct or remove it"
            )
        return batch


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Samples of one input as image files, decoded when read.

    Attributes:
        files: the images.
        spec: the model input.
        layout: of the model input, with a height and width.
        preprocessing: of the images.
        only_size: the (width, height) every image must have, where the model leaves the size open.
        failures: image name -> why it cannot be decoded, of those that `usable` tried.
    """

    files: ImageFiles
    spec: TensorSpec
    layout: ImageLayout
    preprocessing: Preprocessing
    only_size: tuple[int, int] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the images come from and how many there are."""
        return f"{self.files.source} ({len(self)} images)"

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that `usable` found could not be decoded, with the reason."""
        return tuple(f"{name}: {reason}" for name, reason in self.failures.items())

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files.names)

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Decode images to find out which can be, shape (indices,)."""

        def decodes(index: int) -> bool:
            try:
                self._decode(index)
            except BadImageError as error:
                self.failures[self.files.names[index]] = str(error)
                return False
            return True

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            return np.array(list(pool.map(decodes, indices)), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Decode and stack images, first axis as ``indices``."""

        def load(index: int) -> NDArray[Any]:
            try:
                return image_array(self._decode(index), self.layout, self.preprocessing)
            except BadImageError as error:
                raise CalibrationError(
                    f"{self.files.source}: {self.files.names[index]} cannot be decoded ({error}): remove it"
                ) from error

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            return np.stack(list(pool.map(load, indices)))

    def sized(self) -> ImageSource:
        """Give an input of open size that of the first image that decodes; the others must share it."""
        if self.layout.height and self.layout.width:
            return self
        for index in range(len(self)):
            try:
                image = self._decode(index)
            except BadImageError:
                continue
            height, width = self.layout.height or image.height, self.layout.width or image.width
            return replace(self, layout=replace(self.layout, height=height, width=width), only_size=image.size)
        raise CalibrationError(f"{self.source}: none of them can be decoded: pass images that open elsewhere")

    def _decode(self, index: int) -> Image.Image:
        name = self.files.names[index]
        try:
            content = self.files.read_member(name)
        except Exception as error:  # a damaged member of an archive, a file that is gone
            raise BadImageError(str(error)) from error
        image = decode_image(content, self.layout.channels)
        if self.only_size not in (None, image.size):
            found, wanted = (f"{size[0]} x {size[1]}" for size in (image.size, self.only_size or image.size))
            example = ("1,{0},224,224" if self.layout.channels_first else "1,224,224,{0}").format(self.layout.channels)
            raise CalibrationError(
                f"{self.files.source}: {name} is {found}, others are {wanted}, and input '{self.spec.name}' "
                f"has no fixed size: pass one, as in {shape_hint(self.spec.name, example)}"
            )
        return image
