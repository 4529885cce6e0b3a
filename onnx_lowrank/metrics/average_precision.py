"""Mean average precision of boxes, as COCO evaluates it, by the package faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.protocol import Resampled

if TYPE_CHECKING:
    from faster_coco_eval import COCO

COCO_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
_MOST_BOXES = 100  # of a class in an image, as COCO counts
_EVERY_AREA = (0, 1e10)


def average_precision(truth: Sequence[Boxes], found: Sequence[Boxes], overlaps: Sequence[float]) -> Resampled:
    """Evaluate the boxes that were found in images.

    Args:
        truth: boxes of each image; at least one of them in all.
        found: boxes that a detector finds in each image; classes without truth are left out.
        overlaps: intersections over union from which on a box counts as found; the score is the mean over them.

    Returns:
        The mean over classes and overlaps of the area below precision over recall. Samples that are drawn without any
        object have score 0.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.

    References:
        Lin et al. 2014, Microsoft COCO: common objects in context, ECCV; the definition is that of its evaluation code.
    """
    try:
        from faster_coco_eval import COCOeval_faster  # noqa: PLC0415 - optional
        from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"metric map: needs faster-coco-eval ({error}): pip install 'onnx-lowrank[metrics]'"
        ) from error
    classes = np.unique(np.concatenate([boxes.labels for boxes in truth]))
    tables = [_table(each, classes, len(truth)) for each in (truth, found)]
    evaluation = COCOeval_faster(*tables, "bbox", print_function=_say_nothing, separate_eval=True)
    evaluation.params.iouThrs = np.asarray(overlaps)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(_EVERY_AREA)], ["all"]
    evaluation.params.maxDets = [_MOST_BOXES]
    evaluation.evaluate()
    # Matched once; what is drawn for an interval is accumulated again. The list goes by class, then image.
    parameters, images = evaluation._paramsEval, len(truth)
    matched = np.array(evaluation._evalImgs_cpp, object).reshape(len(classes), images)

    def score_of(chosen: NDArray[np.int64]) -> float:
        parameters.imgIds = list(range(len(chosen)))
        precision = COCOevalAccumulate(parameters, matched[:, chosen].ravel().tolist())["precision"]
        known = np.asarray(precision)
        known = known[known >= 0]
        return float(known.mean()) if known.size else 0.0

    return Resampled(images, score_of)


def _table(boxes: Sequence[Boxes], classes: NDArray[np.int64], images: int) -> COCO:
    """Return boxes as the package takes them."""
    from faster_coco_eval import COCO  # noqa: PLC0415 - optional

    rows: list[dict[str, Any]] = []
    for image, each in enumerate(boxes):
        sizes = each.corners[:, 2:] - each.corners[:, :2]
        ignored = np.zeros(len(each), bool) if each.ignored is None else each.ignored
        for corners, (width, height), score, label, crowd in zip(
            each.corners.tolist(), sizes.tolist(), each.scores.tolist(), each.labels.tolist(), ignored, strict=True
        ):
            rows.append({
                "id": len(rows) + 1,
                "image_id": image,
                "category_id": label,
                "bbox": [*corners[:2], width, height],
                "area": width * height,
                "score": score,
                "iscrowd": int(crowd),
            })  # fmt: skip
    categories = [{"id": label, "name": str(label)} for label in classes.tolist()]
    table = {"images": [{"id": image} for image in range(images)], "annotations": rows, "categories": categories}
    return COCO(table, print_function=_say_nothing)


def _say_nothing(*_: object) -> None:
    """Take the place of the package's messages."""
