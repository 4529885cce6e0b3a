"""Masks: images whose pixels are classes, laid where the image lies in the network's input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import Placement

VOID = 255  # of pixels without a class
_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif")


def check_named(folder: Path, images: Iterable[str | None]) -> None:
    """Raise CalibrationError for images without a name that masks could be looked up by."""
    if None in images:
        raise CalibrationError(f"{folder}: samples of arrays have no names to look up: pass a folder of images")


def find_masks(source: Path | None, given: Path | None) -> Path | None:
    """Return the folder of masks: the given one, or ``masks`` beside the folder or archive of images; None for none."""
    if given is not None:
        if not given.is_dir():
            raise CalibrationError(f"labels {given}: no such folder: pass the folder of masks")
        return given
    folder = None if source is None else source.absolute().parent / "masks"
    return folder if folder is not None and folder.is_dir() and folder != source else None


def read_mask(
    folder: Path, name: str, image: tuple[int, int] | None, placement: Placement | None, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the classes of an image's pixels, as they lie in a map of the network's input.

    Args:
        folder: of the masks, with the same subfolders and names as the images, whatever the ending.
        name: path of the image inside its folder.
        image: its width and height.
        placement: of the image in the map.
        shape: height and width of the map.

    Returns:
        Shape ``shape``; `VOID` where there is no image.

    Raises:
        CalibrationError: there is no mask, it is no mask, or of another size than the image.
    """
    stem = name.rpartition(".")[0] or name
    paths = [folder / f"{each}{ending}" for each in (stem, stem.rpartition("/")[2]) for ending in _ENDINGS]
    path = next((each for each in paths if each.is_file()), None)
    if path is None:
        raise CalibrationError(
            f"{folder}: no mask for '{name}', '{stem}.png' is wanted: add it, or leave out the image"
        )
    try:
        with Image.open(path) as opened:
            opened.load()
            mask = opened.copy()
    except OSError as error:
        raise CalibrationError(f"{path}: not an image ({error}): save it again") from error
    if mask.mode not in ("1", "L", "P"):
        raise CalibrationError(
            f"{path}: pixels of mode {mask.mode} found, one number for each is wanted, its class: save it in grey or "
            "with a palette"
        )
    if image is not None and mask.size != image:
        raise CalibrationError(
            f"{path}: {mask.width} x {mask.height}, its image is {image[0]} x {image[1]}: save the mask in that size"
        )
    values = Image.fromarray(np.asarray(mask).astype(np.uint8))
    scale, offset = ((1.0, 1.0), (0.0, 0.0)) if placement is None else (placement.scale, placement.offset)
    back = (1 / scale[0], 0, -offset[0] / scale[0], 0, 1 / scale[1], -offset[1] / scale[1])
    laid = values.transform(shape[::-1], Image.Transform.AFFINE, back, Image.Resampling.NEAREST, fillcolor=VOID)
    return np.asarray(laid)
