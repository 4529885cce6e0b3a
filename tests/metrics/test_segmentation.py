"""Mean intersection over union: by hand, with masks and without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import Placement, Resampled
from onnx_lowrank.metrics.segmentation import build
from tests.metrics.predictors import Function, samples, save_mask, score

Array = NDArray[Any]


def scene(seed: int = 0, count: int = 3, side: int = 32) -> Array:
    """Images whose pixels are 0, 1 or 2, in blocks."""
    blocks = np.random.default_rng(seed).integers(0, 3, (count, 1, side // 8, side // 8))
    return np.repeat(np.repeat(blocks, 8, axis=2), 8, axis=3).astype(np.float32)


def one_hot(images: Array) -> Mapping[str, Array]:
    """Scores of three classes, shape (samples, 3, height, width): that of the pixel's number is the highest."""
    return {"scores": np.concatenate([images == label for label in range(3)], axis=1).astype(np.float32)}


SEGMENTER = Function(one_hot, ("scores",))
# Sees class 2 as class 1.
BLIND = Function(lambda images: one_hot(np.minimum(images, 1)), ("scores",))


def iou_by_hand(found: Array, truth: Array) -> float:
    pairs = [(found == label, truth == label) for label in np.union1d(found, truth)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def test_the_originals_classes_are_the_truth_without_masks() -> None:
    images = scene()
    data = samples(images)
    prepared = build("").prepare(SEGMENTER, data)
    assert prepared.truth == "the original's classes of pixels"
    assert score(prepared, SEGMENTER, data) == 1
    assert score(prepared, BLIND, data) == pytest.approx(iou_by_hand(np.minimum(images, 1), images))


def test_classes_are_counted_over_all_drawn_samples() -> None:
    images = scene()
    data = samples(images)
    found = build("").prepare(SEGMENTER, data).score(BLIND, data)
    assert isinstance(found, Resampled)
    chosen = np.array([2, 2, 0])
    assert found.score_of(chosen) == pytest.approx(iou_by_hand(np.minimum(images[chosen], 1), images[chosen]))


@pytest.mark.parametrize("form", ["channels last", "classes", "small"])
def test_other_forms_of_the_output(form: str) -> None:
    def convert(images: Array) -> Mapping[str, Array]:
        scores = one_hot(images)["scores"]
        shown = {
            "channels last": scores.transpose(0, 2, 3, 1),
            "classes": scores.argmax(1),
            "small": scores[:, :, ::4, ::4],
        }
        return {"scores": shown[form]}

    data = samples(scene())
    prepared = build("").prepare(Function(convert, ("scores",)), data)
    blind = Function(lambda images: convert(np.minimum(images, 1)), ("scores",))
    assert score(prepared, blind, data) == pytest.approx(iou_by_hand(np.minimum(scene(), 1), scene()))


@pytest.mark.parametrize("logits", [False, True])
def test_one_score_means_two_classes(logits: bool) -> None:
    images = np.minimum(scene(), 1)

    def two(images: Array) -> Mapping[str, Array]:
        return {"mask": images * 8 - 4 if logits else images * 0.8 + 0.1}

    data = samples(images)
    prepared = build("").prepare(Function(two, ("mask",)), data)
    all_ones = Function(lambda images: two(np.ones_like(images)), ("mask",))
    assert score(prepared, Function(two, ("mask",)), data) == 1
    assert score(prepared, all_ones, data) == pytest.approx(iou_by_hand(np.ones_like(images), images))


def masked(folder: Path, images: Array, **placed: Any) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    names = [f"{number}.jpg" for number in range(len(images))]
    return samples(images, names=names, source=folder / "images", **placed)


def test_masks_beside_the_images(tmp_path: Path) -> None:
    images = scene()
    for number, image in enumerate(images):
        mask = np.minimum(image[0], 1)
        mask[:8] = 255  # not known
        save_mask(tmp_path / "masks" / f"{number}.png", mask)
    data = masked(tmp_path, images)
    prepared = build("").prepare(SEGMENTER, data)
    assert prepared.truth == f"the masks in {tmp_path / 'masks'}"
    assert score(prepared, BLIND, data) == 1
    known = images[:, :, 8:]
    assert score(prepared, SEGMENTER, data) == pytest.approx(iou_by_hand(known, np.minimum(known, 1)))


def test_classes_by_number_may_be_others_in_masks(tmp_path: Path) -> None:
    images = np.zeros((3, 1, 32, 32), np.float32)
    for number in range(3):
        save_mask(tmp_path / "masks" / f"{number}.png", np.repeat([0, 200], 16)[:, None] * np.ones((1, 32)))
    network = Function(lambda images: {"classes": images.astype(np.int64)}, ("classes",))
    data = masked(tmp_path, images)
    assert score(build("").prepare(network, data), network, data) == pytest.approx(0.25)  # 0.5 and 0


def test_masks_are_laid_where_the_image_lies(tmp_path: Path) -> None:
    images = scene()
    inside = images.copy()
    for number, image in enumerate(images):
        # The image is 16 x 48, three times as high: it fills the middle columns of the input.
        mask = np.repeat(np.repeat(image[0, 8:24, 8:24], 3, axis=0), 1, axis=1)
        save_mask(tmp_path / "masks" / f"{number}.png", mask)
    placement = Placement((1.0, 1 / 3), (8.0, 8.0))
    data = masked(tmp_path, images, sizes=[(16, 48)] * 3, placements=[placement] * 3)
    prepared = build("").prepare(SEGMENTER, data)
    assert score(prepared, SEGMENTER, data) == 1
    inside = images[:, :, 8:24, 8:24]
    assert score(prepared, BLIND, data) == pytest.approx(iou_by_hand(np.minimum(inside, 1), inside))


def test_black_and_white_masks_have_two_classes(tmp_path: Path) -> None:
    images = np.minimum(scene(), 1)
    for number, image in enumerate(images):
        save_mask(tmp_path / "masks" / f"{number}.png", image[0] * 255)
    data = masked(tmp_path, images)
    network = Function(lambda images: {"mask": images * 0.9}, ("mask",))
    assert score(build("").prepare(network, data), network, data) == 1


def refused(folder: Path, images: Array, message: str, **placed: Any) -> None:
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(SEGMENTER, masked(folder, images, **placed))


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    images, masks = scene(count=1), tmp_path / "masks"
    masks.mkdir()
    refused(tmp_path, images, f"{masks}: no mask for '0.jpg', '0.png' is wanted: add it, or leave out the image")
    save_mask(masks / "0.png", np.full((32, 32), 3))
    refused(
        tmp_path,
        images,
        f"{masks}: class 3 found in the mask of '0.jpg', output 'scores' scores 3 classes, 0 to 2: renumber the masks, "
        "255 for pixels without class",
    )
    refused(
        tmp_path,
        images,
        f"{masks / '0.png'}: 32 x 32, its image is 64 x 32: save the mask in that size",
        sizes=[(64, 32)],
    )
    save_mask(masks / "0.png", np.zeros((32, 32, 3)))
    refused(
        tmp_path,
        images,
        f"{masks / '0.png'}: pixels of mode RGB found, one number for each is wanted, its class: save it in grey or "
        "with a palette",
    )


def test_samples_of_arrays_have_no_masks(tmp_path: Path) -> None:
    message = f"{tmp_path}: samples of arrays have no names to look up: pass a folder of images"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build(f"labels={tmp_path}").prepare(SEGMENTER, samples(scene()))


def test_outputs_without_classes_of_pixels() -> None:
    scores = Function(lambda images: {"scores": np.zeros((len(images), 10), np.float32)}, ("scores",))
    message = (
        "metric miou: the outputs 'scores' (2, 10) give pixels no classes, (samples, classes, height, width) is "
        "wanted: choose another metric"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(scores, samples(scene()))
