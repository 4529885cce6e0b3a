"""Samples as metrics see them: names, labels, and where images lie in the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnx_lowrank.calibrate import Preprocessing, iterate_batches, open_samples
from onnx_lowrank.calibrate.metric_samples import metric_samples
from onnx_lowrank.metrics import MetricSamples
from onnx_lowrank.runtime.inputs import TensorSpec

SPEC = TensorSpec("x", np.dtype(np.float32), (None, 1, 48, 64))


def opened(data: Any, indices: list[int], preprocessing: Preprocessing | None = None) -> MetricSamples:
    samples = open_samples(data, [SPEC], preprocessing)
    drawn = np.array(indices)
    return metric_samples(samples, drawn, lambda: iterate_batches(samples, drawn, 2))


def test_arrays_have_no_names() -> None:
    array = np.random.default_rng(0).random((5, 1, 48, 64)).astype(np.float32)
    found = opened({"x": array}, [4, 0, 2])
    assert (len(found), found.names, found.source, found.labels) == (3, (None,) * 3, None, None)
    assert (found.image_sizes(), found.placements()) == ((), ())
    for _ in range(2):  # as often as they are asked for
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in found]), array[[4, 0, 2]])


def test_images_have_names_labels_and_sizes(tmp_path: Path) -> None:
    sizes = [(70, 50), (64, 48), (30, 90)]
    for number, size in enumerate(sizes):
        (tmp_path / f"class{number % 2}").mkdir(exist_ok=True)
        Image.new("L", size, 40 * number).save(tmp_path / f"class{number % 2}" / f"{number}.png")
    found = opened(tmp_path, [2, 0])  # 0/0.png, 0/2.png, 1/1.png
    assert found.names == ("class1/1.png", "class0/0.png")
    assert found.source == tmp_path
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0]
    assert found.image_sizes() == (sizes[1], sizes[0])


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(200, 90), (90, 200), (64, 48), (131, 97)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_placements_say_where_a_spot_comes_out(
    tmp_path: Path, resize: Any, size: tuple[int, int], share: float
) -> None:
    width, height = size
    left, top, side = width // 2 - 15, height // 2 - 9, 20
    pixels = np.zeros((height, width), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    found = opened(tmp_path, [0], Preprocessing("raw", resize=resize, crop_share=share))
    (placement,) = found.placements()
    assert placement is not None
    shown = next(iter(found))["x"][0, 0].astype(np.float64)
    rows, columns = (shown.sum(axis) @ (np.arange(shown.shape[1 - axis]) + 0.5) / shown.sum() for axis in (1, 0))
    centre = left + side / 2, top + side / 2
    wanted = [middle * placement.scale[axis] + placement.offset[axis] for axis, middle in enumerate(centre)]
    assert [columns, rows] == pytest.approx(wanted, abs=0.05)
