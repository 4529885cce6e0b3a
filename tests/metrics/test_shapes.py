"""The metric ``map`` against an evaluation that uses the library alone, on images and labels that are drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.command_line import fails, works
from tests.metrics.shapes import COLOURS, FILE_SIZE, SIDE, detector, draw_shapes

library = pytest.importorskip("faster_coco_eval")

Array = NDArray[Any]
DATA = ("--data", "shapes", "--resize", "stretch")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw_shapes(tmp_path / "shapes")
    onnx.save(detector(), tmp_path / "a.onnx")
    onnx.save(detector(noise=0.25), tmp_path / "b.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated_alone(model: str) -> float:
    """COCO's average precision of a model, by onnxruntime, Pillow and the library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    table = library.COCO("shapes/annotations.json", print_function=lambda *_: None)
    results = []
    for entry in table.dataset["images"]:
        with Image.open(Path("shapes", entry["file_name"])) as picture:
            pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255
        (output,) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
        for label, category in enumerate(sorted(COLOURS)):
            for box, score in best_of_overlapping(output[0, :4].T.astype(float), output[0, 4 + label]):
                width, height = box[2:] * np.array(FILE_SIZE) / SIDE
                left, top = (box[:2] - box[2:] / 2) * np.array(FILE_SIZE) / SIDE
                found = {"image_id": entry["id"], "category_id": category, "score": float(score)}
                results.append({**found, "bbox": [left, top, width, height]})
    evaluation = library.COCOeval_faster(table, table.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return float(evaluation.stats[0])


def best_of_overlapping(boxes: Array, scores: Array) -> list[tuple[Array, float]]:
    left, right = boxes[:, None, :2] - boxes[:, None, 2:] / 2, boxes[:, None, :2] + boxes[:, None, 2:] / 2
    sides = np.minimum(right, right[:, 0]) - np.maximum(left, left[:, 0])
    shared, areas = np.clip(sides, 0, None).prod(axis=2), boxes[:, 2:].prod(axis=1)
    overlaps = shared / (areas[:, None] + areas - shared)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] > 0.001 and (overlaps[index, kept] <= 0.65).all():
            kept.append(int(index))
    return [(boxes[index], scores[index]) for index in kept]


def test_the_same_figure_as_the_library_alone(folder: Path) -> None:
    result = works("compare", "a.onnx", "b.onnx", *DATA, "--metric", "map", "--json")
    found = json.loads(result.stdout)["metric"]
    original, converted = evaluated_alone("a.onnx"), evaluated_alone("b.onnx")
    assert found["original"] == pytest.approx(original, abs=5e-5)
    assert found["converted"] == pytest.approx(converted, abs=5e-5)
    assert original > converted + 0.02
    assert original > 0.2
    low, high = found["interval"]
    assert low < original - converted < high
    assert found["images"] == 12
    assert found["truth"].startswith("shapes/annotations.json (")
    assert found["truth"].endswith(" objects, IoU 0.5 to 0.95)")


def test_an_image_that_nobody_labelled(folder: Path) -> None:
    Image.new("RGB", FILE_SIZE).save("shapes/new.png")
    message = fails(folder, "compare", "a.onnx", "b.onnx", *DATA, "--metric", "map")
    assert message == (
        "error: shapes/annotations.json: no entry for 1 of 13 images, 'new.png' for one; it names '0.png', '1.png', "
        "...: add the entries, or leave out the images"
    )
