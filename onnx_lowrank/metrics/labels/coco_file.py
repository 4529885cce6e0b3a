"""Boxes of a COCO JSON file, in pixels of the network's input."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.labels.places import entries_by_name
from onnx_lowrank.metrics.protocol import MetricSamples, Placement

log = logging.getLogger(__name__)

_LEAST_VISIBLE = 0.5  # share of an object's area inside the input, below which it need not be found
_ROUNDING = 1.0  # pixels of the input by which a whole image may reach beyond it


@dataclass(frozen=True)
class CocoFile:
    """A file of annotations.

    Attributes:
        path: of the file.
        images: entries of images by name.
        annotations: entries of boxes by the id of their image.
        categories: ids of all categories, sorted.
    """

    path: Path
    images: dict[str, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    categories: tuple[int, ...]

    def boxes(self, samples: MetricSamples, sizes: Sequence[tuple[int, int]], labels: dict[int, int]) -> list[Boxes]:
        """Return the boxes of each sample, where its image lies in the network's input.

        Args:
            samples: the images.
            sizes: height and width of the input, for each.
            labels: class of the network by category id.

        Raises:
            CalibrationError: an image has no entry, or one of another size.
        """
        entries = entries_by_name(self.images, samples.names, self.path)
        truth = []
        for entry, name, real, placement, size in zip(
            entries, samples.names, samples.image_sizes(), samples.placements(), sizes, strict=True
        ):
            self._check_size(entry, name, real)
            rows = self.annotations.get(entry["id"], [])
            boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
            scale, offset = ((1.0, 1.0), (0.0, 0.0)) if placement is None else (placement.scale, placement.offset)
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            placed = corners * np.tile(scale, 2) + np.tile(offset, 2)
            classes = np.array([labels[row["category_id"]] for row in rows], np.int64)
            truth.append(_inside(placed, classes, _crowds(rows), _borders(real, placement, size)))
        self._warn_if_cut(sum(int((~_crowds(self.annotations.get(each["id"], []))).sum()) for each in entries), truth)
        return truth

    def _check_size(self, entry: dict[str, Any], name: str | None, real: tuple[int, int] | None) -> None:
        said = entry.get("width"), entry.get("height")
        if real is not None and None not in said and said != real:
            raise CalibrationError(
                f"{self.path}: image '{name}' is {real[0]} x {real[1]}, its entry says {said[0]} x {said[1]}: "
                "correct the entry, or pass the images that were annotated"
            )

    def _warn_if_cut(self, objects: int, truth: Sequence[Boxes]) -> None:
        counted = sum(len(each) if each.ignored is None else int((~each.ignored).sum()) for each in truth)
        if counted < objects:
            log.warning(
                "%s: %d of %d objects are mostly or wholly outside of what is cut out of the images, and are not "
                "counted: with `resize` stretch or pad networks see all of an image",
                self.path, objects - counted, objects,
            )  # fmt: skip


def _crowds(rows: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Return which annotations are of crowds, which need not be found."""
    return np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)


def read_coco(path: Path) -> CocoFile:
    """Read a file of annotations.

    Raises:
        CalibrationError: it cannot be read, or is no COCO JSON with boxes.
    """
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:
        raise CalibrationError(f"{path}: not JSON ({error}): export the annotations again") from error
    if not isinstance(table, dict) or not all(
        isinstance(table.get(key), list) and all(isinstance(each, dict) for each in table[key])
        for key in ("images", "annotations", "categories")
    ):
        raise CalibrationError(
            f"{path}: lists of images, annotations and categories are wanted, as COCO has them: export it as COCO JSON"
        )
    try:
        categories = tuple(sorted({int(each["id"]) for each in table["categories"]}))
        images = {str(each["file_name"]): each for each in table["images"]}
        known = {each["id"] for each in table["images"]}
        annotations: dict[int, list[dict[str, Any]]] = {}
        for each in table["annotations"]:
            _check_annotation(path, each, known, categories)
            annotations.setdefault(each["image_id"], []).append(each)
    except KeyError as error:
        raise CalibrationError(f"{path}: an entry without {error}: export it as COCO JSON") from error
    return CocoFile(path, images, annotations, categories)


def _check_annotation(path: Path, entry: dict[str, Any], images: set[int], categories: tuple[int, ...]) -> None:
    where = f"{path}: annotation {entry.get('id', '')}".rstrip()
    if entry["category_id"] not in categories:
        raise CalibrationError(
            f"{where}: category {entry['category_id']} found, the file has {', '.join(map(str, categories))}: "
            "correct the id, or add the category"
        )
    if entry["image_id"] not in images:
        raise CalibrationError(f"{where}: of image {entry['image_id']}, which has no entry: add it, or correct the id")
    box = entry["bbox"]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(each, int | float) for each in box)
    if not numbers or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise CalibrationError(f"{where}: bbox {box} found, [left, top, width, height] is wanted: correct it")


def label_of_category(file: CocoFile, classes: int | None, background: int | None, largest: int) -> dict[int, int]:
    """Return the class of the network for each category.

    Args:
        file: of annotations.
        classes: that the network scores, with the background; None where its output does not tell.
        background: class that is no object, 0 or -1 for the last; None where there is none.
        largest: class that the network finds.

    Returns:
        Classes by category id: in the order of the ids where there are as many, else the ids themselves.

    Raises:
        CalibrationError: the numbers of classes and of categories do not agree.
    """
    count, first = len(file.categories), int(background == 0)
    objects = None if classes is None else classes - int(background is not None)
    in_order = {category: number + first for number, category in enumerate(file.categories)}
    if classes == 1:
        return dict.fromkeys(file.categories, 0)
    if objects == count or (objects is None and largest < count):
        return in_order
    if (classes or largest + 1) > max(file.categories, default=0):
        return {category: category for category in file.categories}
    raise CalibrationError(
        f"{file.path}: {count} categories found, ids up to {max(file.categories)}, and the network scores "
        f"{objects if objects is not None else largest + 1} classes: list all its categories, in the order of their ids"
    )


def _borders(
    image: tuple[int, int] | None, placement: Placement | None, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest x and y that an image is seen at; infinite where none of it is cut away.

    Boxes that reach beyond an image that is seen as a whole are left as they are, as COCO's own evaluation leaves them.
    """
    least, largest = np.full(2, -np.inf), np.full(2, np.inf)
    if image is not None and placement is not None:
        start, side = np.array(placement.offset), np.array(size[::-1])
        end = start + np.array(placement.scale) * image
        least[start < -_ROUNDING] = 0
        largest[end > side + _ROUNDING] = side[end > side + _ROUNDING]
    return least, largest


def _inside(
    corners: NDArray[np.float64],
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    borders: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Boxes:
    """Cut boxes at borders; those that are mostly cut away need not be found."""
    cut = np.clip(corners, *(np.tile(each, 2) for each in borders))
    areas, left = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (corners, cut))
    seen = left > 0
    ignored = crowd | (left < _LEAST_VISIBLE * areas)
    return Boxes(cut[seen], np.ones(int(seen.sum())), labels[seen], ignored[seen])
