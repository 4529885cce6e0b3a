"""Mean average precision: values worked out by hand, the library alone, labels of a file, the original's detections."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.average_precision import COCO_OVERLAPS, average_precision
from onnx_lowrank.metrics.detection import build
from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.protocol import Placement
from tests.metrics.predictors import Function, samples, score

pytest.importorskip("faster_coco_eval")

Array = NDArray[Any]
SQUARES = [(8, 8, 24, 24), (40, 8, 56, 24), (8, 40, 24, 56), (40, 40, 56, 56)]


def boxes(corners: Sequence[Sequence[float]], scores: Sequence[float] = (), labels: Sequence[int] = ()) -> Boxes:
    count = len(corners)
    return Boxes.of(
        np.array(corners, float).reshape(-1, 4), np.array(scores or [1.0] * count), np.array(labels or [0] * count)
    )


def precision_of_all(truth: Sequence[Boxes], found: Sequence[Boxes], overlaps: Sequence[float] = (0.5,)) -> float:
    return average_precision(truth, found, overlaps).score_of(np.arange(len(truth)))


# The mean


def test_a_false_one_between_two_right_ones_costs_precision_at_half_the_recall() -> None:
    truth = boxes(SQUARES[:2])
    found = boxes([SQUARES[0], SQUARES[3], SQUARES[1]], [0.9, 0.8, 0.7])
    # Of the 101 recalls, 0 to 0.50 are reached at precision 1, the others at 2/3.
    assert precision_of_all([truth], [found]) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_count_alike_and_those_without_truth_not_at_all() -> None:
    truth = boxes(SQUARES[:3], labels=[0, 0, 4])
    found = boxes(SQUARES, [0.9, 0.8, 0.7, 0.6], [0, 0, 3, 7])
    assert precision_of_all([truth], [found]) == pytest.approx(0.5)


def test_overlap_decides_what_is_found() -> None:
    shifted = boxes([(8, 12, 24, 28)])  # 12 rows of 20 in common: IoU 0.6
    truth = boxes(SQUARES[:1])
    assert [precision_of_all([truth], [shifted], [each]) for each in (0.55, 0.65)] == [1, 0]
    assert precision_of_all([truth], [shifted], COCO_OVERLAPS) == pytest.approx(0.3)  # 0.5, 0.55 and 0.6 of ten


def test_ignored_objects_may_be_found_or_not() -> None:
    truth = boxes(SQUARES[:2])
    ignoring = Boxes(truth.corners, truth.scores, truth.labels, np.array([False, True]))
    assert precision_of_all([ignoring], [boxes(SQUARES[:1])]) == 1
    assert precision_of_all([ignoring], [boxes([SQUARES[1], SQUARES[0]], [0.9, 0.8])]) == 1
    assert precision_of_all([truth], [boxes(SQUARES[:1])]) == pytest.approx(51 / 101)


def test_drawn_samples_are_scored_as_if_they_were_all_there_are() -> None:
    generator = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(12):
        corners = np.array(SQUARES)[generator.random(4) < 0.6]
        labels = generator.integers(0, 2, len(corners)).tolist()
        truth.append(boxes(corners, labels=labels))
        moved = corners + generator.integers(-2, 3, corners.shape)
        found.append(boxes(moved, generator.random(len(corners)).tolist(), labels))
    once = average_precision(truth, found, COCO_OVERLAPS)
    for chosen in (np.array([3, 3, 3, 0, 7]), generator.integers(0, 12, 12)):
        alone = precision_of_all([truth[i] for i in chosen], [found[i] for i in chosen], COCO_OVERLAPS)
        assert once.score_of(chosen) == pytest.approx(alone, abs=1e-12)


def test_draws_without_an_object_score_nothing() -> None:
    result = average_precision([boxes(SQUARES), boxes([])], [boxes(SQUARES), boxes([])], [0.5])
    assert (result.score_of(np.array([0, 1])), result.score_of(np.array([1, 1]))) == (1, 0)


# Detectors


def rows(found: Sequence[Sequence[tuple[Sequence[float], float, int]]]) -> Function:
    """A detector whose image i, all pixels of which are i, holds given objects: rows of corners, score, class."""
    table = np.zeros((len(found), 6, 6), np.float32)
    for image, objects in enumerate(found):
        for number, (corners, sureness, label) in enumerate(objects):
            table[image, number] = [*corners, sureness, label]

    def detect(images: Array) -> Mapping[str, Array]:
        return {"output": table[images[:, 0, 0, 0].astype(int)]}

    return Function(detect, ("output",))


def numbered(count: int, height: int = 64, width: int = 64) -> Array:
    images = np.zeros((count, 3, height, width), np.float32)
    images += np.arange(count).reshape(-1, 1, 1, 1)
    return images


ORIGINAL = rows([
    [(SQUARES[0], 0.9, 0), (SQUARES[1], 0.8, 1)],
    [(SQUARES[2], 0.7, 0), (SQUARES[3], 0.2, 0)],
    [],
])  # fmt: skip


def test_the_originals_detections_are_the_truth_without_labels() -> None:
    data = samples(numbered(3))
    prepared = build("").prepare(ORIGINAL, data)
    assert prepared.truth == "the original's own detections of at least 0.3 (3 objects, IoU 0.5)"
    worse = rows([[(SQUARES[0], 0.9, 0), (SQUARES[1], 0.29, 1)], [(SQUARES[2], 0.4, 0)], []])
    assert score(prepared, ORIGINAL, data) == 1
    assert score(prepared, worse, data) == pytest.approx(0.5)  # class 1 is lost: it falls below 0.3
    lower = build("score=0.1,overlap=0.75").prepare(ORIGINAL, data)
    assert lower.truth == "the original's own detections of at least 0.1 (4 objects, IoU 0.75)"
    assert score(lower, worse, data) == pytest.approx((67 / 101 + 1) / 2)  # of class 0, 2 of 3 are found


def coco(folder: Path, entries: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    """A file of annotations, of images of 128 x 64 that are called 0.png, 1.png, ..."""
    table = {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 128, "height": 64} for i in range(3)],
        "annotations": [{"id": number + 1, "iscrowd": 0, **each} for number, each in enumerate(entries)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps({**table, **changes}))
    return file


STRETCHED = Placement((0.5, 1.0), (0.0, 0.0))  # 128 x 64 to 64 x 64
NAMES = ["0.png", "1.png", "2.png"]


def labelled(folder: Path, placement: Placement = STRETCHED, size: tuple[int, int] = (128, 64)) -> Any:
    return samples(numbered(3), names=NAMES, source=folder, sizes=[size] * 3, placements=[placement] * 3)


def test_boxes_of_a_file_are_laid_where_the_image_lies(tmp_path: Path) -> None:
    file = coco(tmp_path, [
        {"image_id": 10, "category_id": 3, "bbox": [16, 8, 32, 16]},  # SQUARES[0], twice as wide
        {"image_id": 10, "category_id": 7, "bbox": [80, 8, 32, 16]},
        {"image_id": 11, "category_id": 3, "bbox": [16, 40, 32, 16]},
    ])  # fmt: skip
    data = labelled(tmp_path)
    prepared = build("").prepare(ORIGINAL, data)
    assert prepared.truth == f"{file} (3 objects, IoU 0.5 to 0.95)"
    assert score(prepared, ORIGINAL, data) == 1
    against_itself = build("truth=original").prepare(ORIGINAL, data)
    assert against_itself.truth == "the original's own detections of at least 0.3 (3 objects, IoU 0.5)"


def test_what_is_cut_away_need_not_be_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = coco(tmp_path, [
        {"image_id": 10, "category_id": 3, "bbox": [40, 8, 16, 16]},  # SQUARES[0], 32 pixels to the right
        {"image_id": 10, "category_id": 7, "bbox": [72, 8, 16, 16]},  # SQUARES[1]
        {"image_id": 10, "category_id": 3, "bbox": [86, 30, 20, 20]},  # 10 of its 20 columns are seen
        {"image_id": 10, "category_id": 3, "bbox": [88, 30, 20, 20]},  # 8 of them
        {"image_id": 10, "category_id": 3, "bbox": [0, 0, 30, 20]},  # none
        {"image_id": 11, "category_id": 3, "bbox": [40, 40, 16, 16]},
    ])  # fmt: skip
    data = labelled(tmp_path, Placement((1.0, 1.0), (-32.0, 0.0)))
    prepared = build("overlap=0.5").prepare(ORIGINAL, data)
    assert "(5 objects," in prepared.truth  # one of them ignored
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
        f"{file}: 2 of 6 objects are mostly or wholly outside of what is cut out of the images, and are not counted: "
        "with `resize` stretch or pad networks see all of an image"
    ]
    assert score(prepared, ORIGINAL, data) == pytest.approx((67 / 101 + 1) / 2)


def test_every_label_is_text_for_a_network_that_finds_text(tmp_path: Path) -> None:
    values = np.zeros((3, 1, 64, 64), np.float32)
    values[0, 0, 20:30, 20:40], values[1, 0, 40:48, 10:50] = 0.75, 0.5
    text = Function(lambda images: {"map": values[images[:, 0, 0, 0].astype(int)]}, ("map",))
    grown = [1.5 * h * w / (2 * (h + w)) for h, w in ((10, 20), (8, 40))]
    first, second = ((20, 20, 40, 30), grown[0]), ((10, 40, 50, 48), grown[1])
    entries = []
    for image, ((left, top, right, bottom), more) in enumerate((first, second)):
        box = [2 * (left - more), top - more, 2 * (right - left + 2 * more), bottom - top + 2 * more]
        entries.append({"image_id": 10 + image, "category_id": (3, 7)[image], "bbox": box})
    coco(tmp_path, entries)
    data = labelled(tmp_path)
    assert score(build("").prepare(text, data), text, data) == 1


def test_category_ids_are_classes_where_the_network_has_as_many(tmp_path: Path) -> None:
    by_id = rows([[(SQUARES[0], 0.9, 3)], [], [(SQUARES[1], 0.9, 7)]])
    coco(tmp_path, [
        {"image_id": 10, "category_id": 3, "bbox": [16, 8, 32, 16]},
        {"image_id": 12, "category_id": 7, "bbox": [80, 8, 32, 16]},
    ])  # fmt: skip
    data = labelled(tmp_path)
    assert score(build("").prepare(by_id, data), by_id, data) == 1


def test_a_box_beyond_an_image_that_is_seen_as_a_whole_is_left_as_it_is(tmp_path: Path) -> None:
    # 16 columns of 32 are in the input.
    beyond = rows([[((48, 8, 80, 24), 0.9, 0), ((-16, 40, 16, 56), 0.8, 0)], [], []])
    coco(
        tmp_path,
        [{"image_id": 10, "category_id": 3, "bbox": [left, top, 64, 16]} for left, top in ((96, 8), (-32, 40))],
    )
    data = labelled(tmp_path)
    assert score(build("").prepare(beyond, data), beyond, data) == 1


# What does not fit

BOX = {"image_id": 10, "category_id": 3, "bbox": [16, 8, 32, 16]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"category_id": 5},
            "{file}: annotation 1: category 5 found, the file has 3, 7: correct the id, or add the category",
        ),
        ({"image_id": 99}, "{file}: annotation 1: of image 99, which has no entry: add it, or correct the id"),
        (
            {"bbox": [1, 2, 3]},
            "{file}: annotation 1: bbox [1, 2, 3] found, [left, top, width, height] is wanted: correct it",
        ),
        (
            {"bbox": [1, 2, -3, 4]},
            "{file}: annotation 1: bbox [1, 2, -3, 4] found, [left, top, width, height] is wanted: correct it",
        ),
    ],
)
def test_wrong_annotations(tmp_path: Path, entry: Mapping[str, Any], message: str) -> None:
    file = coco(tmp_path, [{**BOX, **entry}])
    with pytest.raises(CalibrationError, match=f"^{re.escape(message.format(file=file))}$"):
        build("").prepare(ORIGINAL, labelled(tmp_path))


def test_an_image_without_entry(tmp_path: Path) -> None:
    file = coco(tmp_path, [BOX], images=[{"id": 10, "file_name": "0.png"}])
    message = (
        f"{file}: no entry for 2 of 3 images, '1.png' for one; it names '0.png': add the entries, or leave out the "
        "images"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(ORIGINAL, labelled(tmp_path))


def test_an_image_of_another_size(tmp_path: Path) -> None:
    file = coco(tmp_path, [BOX])
    message = (
        f"{file}: image '0.png' is 64 x 128, its entry says 128 x 64: correct the entry, or pass the images that were "
        "annotated"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(ORIGINAL, labelled(tmp_path, size=(64, 128)))


def test_other_files(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text("[1, 2]")
    message = (
        f"{file}: lists of images, annotations and categories are wanted, as COCO has them: export it as COCO JSON"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(ORIGINAL, labelled(tmp_path))
    file.write_text("{")
    with pytest.raises(CalibrationError, match=rf"^{re.escape(str(file))}: not JSON \(.*\): export the annotations"):
        build("").prepare(ORIGINAL, labelled(tmp_path))
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"name": "cat"}]}))
    with pytest.raises(CalibrationError, match=f"^{re.escape(str(file))}: an entry without 'id': export it as COCO"):
        build("").prepare(ORIGINAL, labelled(tmp_path))


def test_other_classes_than_the_network_scores(tmp_path: Path) -> None:
    many = [{"id": number, "name": str(number)} for number in range(1, 91)]
    file = coco(tmp_path, [BOX], categories=many)
    message = (
        f"{file}: 90 categories found, ids up to 90, and the network scores 2 classes: list all its categories, in the "
        "order of their ids"
    )
    head = Function(lambda images: {"output": np.zeros((len(images), 6, 84), np.float32)}, ("output",))
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(head, labelled(tmp_path))


def test_nothing_to_be_found() -> None:
    nothing = rows([[], [], []])
    message = (
        "metric map: no objects in 3 samples by the original's own detections of at least 0.3: pass images with "
        "objects, or a lower score, `map:score=...`"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(nothing, samples(numbered(3)))


def test_outputs_without_boxes() -> None:
    scores = Function(lambda images: {"scores": np.zeros((len(images), 10), np.float32)}, ("scores",))
    message = (
        "metric map: the outputs 'scores' (1, 10) hold no boxes in a known layout (one of yolov5, yolox, yolov8, rows, "
        "objects, anchors, map): pass `map:layout=...`, or a function of your own"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build("").prepare(scores, samples(numbered(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "layuot=yolox",
            "metric map: option 'layuot' found, one of layout, boxes, score, nms, overlap, labels, truth is wanted: "
            "correct it",
        ),
        ("score=2", "metric map: score='2' found, a number from 0 to 1 is wanted: correct it"),
        ("score", "metric map: option 'score' without a value: write score=VALUE once"),
        ("score=0.1,score=0.2", "metric map: option 'score' given twice: write score=VALUE once"),
        ("truth=none", "metric map: truth='none' found, one of labels, original is wanted: correct it"),
    ],
)
def test_wrong_options(options: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        build(options)
