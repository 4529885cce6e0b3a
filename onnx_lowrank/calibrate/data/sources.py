"""Samples of one model input, read by index: rows of an array, or image files that are decoded on reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.calibrate.data.archives import ImageFiles
from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.calibrate.data.preprocess import (
    BadImageError,
    ImageLayout,
    Preprocessing,
    decode_image,
    image_array,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.linalg.threads import on_threads
from onnx_lowrank.runtime.inputs import TensorSpec, shape_hint

DECODING_THREADS = 4

Indices: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]


class SampleSource(Protocol):
    """Samples of one model input, read by index; safe to read from several threads."""

    @property
    def description(self) -> str:
        """Where the samples come from and how many there are."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Samples that `usable` could not read so far, as ``name: reason``."""
        ...

    def __len__(self) -> int:
        """Return the number of samples, usable or not."""
        ...

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Return whether each of the samples can be read, shape (indices,)."""
        ...

    def read(self, indices: Indices) -> NDArray[Any]:
        """Read samples as one array in the input's dtype, shape (indices, ...).

        Raises:
            CalibrationError: a sample cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Samples of one input in an array.

    Attributes:
        array: shape (samples, ...) as the input takes it, in memory or in a file; a float array may be of another
            float type.
        spec: the model input.
        where: how messages call the array.
        skipped: always empty.
    """

    array: NDArray[Any] | NpyFile
    spec: TensorSpec
    where: str
    skipped: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Where the samples come from and how many there are."""
        return f"{self.where} ({len(self)} samples)"

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.array)

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Return True for every sample, shape (indices,)."""
        return np.ones(len(indices), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Read samples in the input's dtype, shape (indices, ...).

        Raises:
            CalibrationError: a sample holds NaN or Inf.
        """
        with np.errstate(over="ignore"):  # numbers too large for float16 become Inf, which is checked below
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
    """Samples of one input as image files, decoded on reading.

    Attributes:
        files: the images.
        spec: the model input.
        layout: of the images; reading needs a fixed height and width, see `with_fixed_size`.
        preprocessing: of the images.
        only_size: the (width, height) that every image must have because the model leaves the size open; None for any.
        failures: reason by image name, of the images that `usable` could not decode.
    """

    files: ImageFiles
    spec: TensorSpec
    layout: ImageLayout
    preprocessing: Preprocessing
    only_size: tuple[int, int] | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Where the images come from and how many there are."""
        return f"{self.files.source} ({len(self)} images)"

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that `usable` could not decode, as ``name: reason``."""
        return tuple(f"{name}: {reason}" for name, reason in self.failures.items())

    def __len__(self) -> int:
        """Return the number of images, including damaged ones."""
        return len(self.files.names)

    def usable(self, indices: Indices) -> NDArray[np.bool_]:
        """Return whether each image can be decoded, shape (indices,).

        Raises:
            CalibrationError: an image is not of `only_size`.
        """

        def is_decodable(index: int) -> bool:
            try:
                self._decode(index)
            except BadImageError as error:
                self.failures[self.files.names[index]] = str(error)
                return False
            return True

        return np.array(list(on_threads(is_decodable, indices, DECODING_THREADS)), dtype=bool)

    def read(self, indices: Indices) -> NDArray[Any]:
        """Decode and preprocess images.

        Returns:
            Shape (indices, channels, height, width) or (indices, height, width, channels), of the layout's dtype.

        Raises:
            CalibrationError: an image cannot be decoded, or is not of `only_size`.
        """

        def load(index: int) -> NDArray[Any]:
            try:
                return image_array(self._decode(index), self.layout, self.preprocessing)
            except BadImageError as error:
                raise CalibrationError(
                    f"{self.files.source}: {self.files.names[index]} cannot be decoded ({error}): remove it"
                ) from error

        return np.stack(list(on_threads(load, indices, DECODING_THREADS)))

    def with_fixed_size(self) -> ImageSource:
        """Return a source whose open height and width are those of the first decodable image.

        All other images must have the same size.

        Raises:
            CalibrationError: no image can be decoded.
        """
        if self.layout.height and self.layout.width:
            return self
        for index in range(len(self)):
            try:
                image = self._decode(index)
            except BadImageError:
                continue
            height, width = self.layout.height or image.height, self.layout.width or image.width
            return replace(self, layout=replace(self.layout, height=height, width=width), only_size=image.size)
        raise CalibrationError(f"{self.description}: none of them can be decoded: pass images that open elsewhere")

    def _decode(self, index: int) -> Image.Image:
        name = self.files.names[index]
        try:
            content = self.files.read_member(name)
        except Exception as error:  # a damaged archive member, a deleted file
            raise BadImageError(str(error)) from error
        image = decode_image(content, self.layout.channels)
        if self.only_size not in (None, image.size):
            size, others = (f"{width} x {height}" for width, height in (image.size, self.only_size or image.size))
            example = ("1,{0},224,224" if self.layout.channels_first else "1,224,224,{0}").format(self.layout.channels)
            raise CalibrationError(
                f"{self.files.source}: {name} is {size}, others are {others}, and input '{self.spec.name}' "
                f"has no fixed size: pass one, as in {shape_hint(self.spec.name, example)}"
            )
        return image
