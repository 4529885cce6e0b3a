"""`map`: mean average precision of a detector's boxes, against labels or against what the original detects."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.average_precision import COCO_OVERLAPS, average_precision
from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.detections.layouts import (
    BOX_FORMS,
    LAYOUTS,
    BoxForm,
    Layout,
    LayoutName,
    Outputs,
    layouts_as,
    recognize_layout,
)
from onnx_lowrank.metrics.detections.read import LEAST_SCORE, NMS_OVERLAP, class_count, read_boxes
from onnx_lowrank.metrics.images import image_size
from onnx_lowrank.metrics.labels.coco_file import label_of_category, read_coco
from onnx_lowrank.metrics.labels.places import find_file
from onnx_lowrank.metrics.options import one_of, read_options, share
from onnx_lowrank.metrics.protocol import MetricSamples, Predictor, PreparedMetric, Resampled
from onnx_lowrank.metrics.readings import box_reader

log = logging.getLogger(__name__)

_FILES = ("annotations.json",)
_KEPT_OVERLAP = 0.5  # from which on a detection of the original counts as kept


@dataclass(frozen=True)
class MeanAveragePrecision:
    """Mean average precision as COCO defines it.

    Without labels, the original's own detections are the truth: the score says how many of them are kept.

    Attributes:
        layout: of the outputs; None to recognize it.
        boxes: how the outputs give boxes; None to recognize it.
        score: of the original's detections that are the truth, at least; without labels, others count for nothing.
        nms: intersection over union above which the worse of two boxes is left out, where the network does not do it.
        overlap: intersection over union from which on a box counts as found; None for COCO's mean over 0.5 to 0.95,
            and 0.5 without labels.
        labels: of boxes, a COCO JSON file; None for ``annotations.json`` in the folder of the images, if it is there.
        truth: ``labels`` or ``original``; None for labels where there are some.
    """

    layout: LayoutName | None = None
    boxes: BoxForm | None = None
    score: float = 0.3
    nms: float = NMS_OVERLAP
    overlap: float | None = None
    labels: Path | None = None
    truth: str | None = None
    name: str = "map"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Recognize the outputs, and read the labels or the original's detections.

        Raises:
            CalibrationError: the outputs hold no boxes of a known layout, the labels do not fit, or nothing is there to
                be found.
        """
        layout = self.recognize(original, samples)
        log.info("metric map: read as %s", layout)
        file = None if self.truth == "original" else find_file(samples.source, _FILES, self.labels)
        if file is None and self.truth == "labels":
            raise CalibrationError(f"metric map: no {_FILES[0]} with the images: add it, or pass `map:labels=FILE`")
        if file is None:
            truth = [each for each, _ in self.detect(original, samples, layout, self.score)]
            what, least = f"the original's own detections of at least {self.score:g}", self.score
            remedy = "pass images with objects, or a lower score, `map:score=...`"
        else:
            truth, what, least = self._labelled(file, original, samples, layout), str(file), LEAST_SCORE
            remedy = "pass images with some"
        if not any(len(each) for each in truth):
            raise CalibrationError(f"metric map: no objects in {len(samples)} samples by {what}: {remedy}")
        overlaps = COCO_OVERLAPS if self.overlap is None and file is not None else (self.overlap or _KEPT_OVERLAP,)

        def score(predictor: Predictor, samples: MetricSamples) -> Resampled:
            found = [each for each, _ in self.detect(predictor, samples, layout, least)]
            return average_precision(truth, found, overlaps)

        shown = f"IoU {overlaps[0]:g}" if len(overlaps) == 1 else f"IoU {overlaps[0]:g} to {overlaps[-1]:g}"
        what = f"{what} ({sum(map(len, truth))} objects, {shown})"
        return PreparedMetric(score, what, box_reader(layout, self.score, self.nms))

    def recognize(self, original: Predictor, samples: MetricSamples) -> Layout:
        """Return the layout of the outputs, from the first batch that tells.

        Raises:
            CalibrationError: no output holds boxes.
        """
        shapes = ""
        for batch in samples:
            size, outputs = image_size(batch), original(batch)
            if size is None:
                raise CalibrationError("metric map: no input takes images, which boxes are found in: choose another")
            count = len(next(iter(batch.values())))
            shapes = ", ".join(f"'{name}' {np.shape(values)}" for name, values in outputs.items())
            if found := self.recognize_outputs(outputs, size, count):
                return found
        wanted = f"layout {self.layout}" if self.layout else f"one of {', '.join(LAYOUTS)}"
        raise CalibrationError(
            f"metric map: the outputs {shapes} hold no boxes in a known layout ({wanted}): pass `map:layout=...`, or a "
            "function of your own"
        )

    def recognize_outputs(self, outputs: Outputs, size: tuple[int, int], count: int) -> Layout | None:
        """Return the layout of a batch's outputs; None where they do not tell."""
        if self.layout is None:
            found = recognize_layout(outputs, size, count)
        else:
            found = next(layouts_as(self.layout, outputs, size, count), None)
        return found if found is None or self.boxes is None else replace(found, boxes=self.boxes)

    def detect(
        self, predictor: Predictor, samples: MetricSamples, layout: Layout, least: float
    ) -> list[tuple[Boxes, tuple[int, int]]]:
        """Return the boxes of each sample, and height and width of the input that they lie in.

        Args:
            predictor: a network.
            samples: to run it on.
            layout: of its outputs.
            least: score of a box.
        """
        found = []
        for batch in samples:
            size = image_size(batch) or (0, 0)
            count = len(next(iter(batch.values())))
            boxes = read_boxes(predictor(batch), layout, size, count, least, self.nms)
            found += [(each, size) for each in boxes]
        return found

    def _labelled(self, path: Path, original: Predictor, samples: MetricSamples, layout: Layout) -> list[Boxes]:
        found = self.detect(original, samples, layout, LEAST_SCORE)
        largest = max((int(boxes.labels.max()) for boxes, _ in found if len(boxes)), default=0)
        classes = class_count(original(next(iter(samples))), layout)
        file = read_coco(path)
        labels = label_of_category(file, classes, layout.background, largest)
        return file.boxes(samples, [size for _, size in found], labels)


def build(options: str = "") -> MeanAveragePrecision:
    """Return the metric ``map``.

    Args:
        options: ``layout``, ``boxes``, ``score``, ``nms``, ``overlap``, ``labels``, ``truth``; see
            `MeanAveragePrecision`.

    Raises:
        CalibrationError: an option is wrong.
    """
    known = {
        "layout": one_of(*LAYOUTS),
        "boxes": one_of(*BOX_FORMS),
        "score": share,
        "nms": share,
        "overlap": share,
        "labels": Path,
        "truth": one_of("labels", "original"),
    }
    return MeanAveragePrecision(**read_options("map", options, known))
