"""Where detectors put boxes, scores and classes in their outputs, recognized from shapes and values.

H and W are height and width of the input; a head with strides 8, 16, 32 has cells = HW (1/64 + 1/256 + 1/1024).

| layout    | outputs                                                               | as                            |
|-----------|-----------------------------------------------------------------------|-------------------------------|
| `yolov5`  | (N, 3 cells, 5 + classes): box, objectness, scores                    | YOLOv5, YOLOv7                |
| `yolox`   | (N, cells, 5 + classes): box, objectness, scores                      | YOLOX, raw or decoded; YOLOv6 |
| `yolov8`  | (N, 4 + classes, cells): box, scores                                  | YOLOv8, YOLO11                |
| `rows`    | (N, n, 6): corners, score, class; (n, 7): image, corners, class, score | YOLOv10, exports with NMS     |
| `objects` | boxes (N, n, 4), scores (N, n), classes (N, n); or without N          | torchvision, TensorFlow       |
| `anchors` | boxes (N, n, 4), scores (N, n, classes) or (N, classes, n)            | SSD, DETR, PP-YOLOE           |
| `map`     | (N, 1, h, w): probability that a pixel is part of text                | DB, see `text_maps`           |

What values tell is told by the original network alone, so that both networks are read alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.metrics.detections.cells import strides_of

LayoutName = Literal["yolov5", "yolox", "yolov8", "rows", "objects", "anchors", "map"]
BoxForm = Literal["grid", "centres", "corners", "corners-yx"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
BOX_FORMS: tuple[BoxForm, ...] = get_args(BoxForm)

_MAX_NORMALIZED = 2.0  # a box may reach beyond the image
_SPREAD = 0.25  # share of the image's longer side that some decoded centre lies beyond
_MOST_ROWS = 1000  # of objects that an exported suppression or selection leaves
_MAX_PROBABILITY = 1 + 1e-6
_MOST_BOXES_ALIKE = 0.99  # share of boxes whose corners are in order

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """How a detector's outputs are to be read.

    Attributes:
        name: see the head of this file.
        outputs: names of the outputs that hold boxes, scores and classes, or the one that holds all.
        boxes: ``grid``, offsets from cells in strides and logarithms of sizes; ``centres``, centre, width and height;
            ``corners``, left, top, right, bottom; ``corners-yx``, top, left, bottom, right.
        normalized: whether boxes are shares of the image's width and height, not pixels.
        background: class that is no object, -1 for the last; None where there is none.
        logits: the function that makes probabilities of scores; None where they are some.
        suppressed: whether no two boxes are of the same object.
        classes: how many a head scores, whose further columns are of masks or points; None for other layouts.
    """

    name: LayoutName
    outputs: tuple[str, ...]
    boxes: BoxForm = "corners"
    normalized: bool = False
    background: int | None = None
    logits: Literal["sigmoid", "softmax"] | None = None
    suppressed: bool = True
    classes: int | None = None

    def __str__(self) -> str:
        """Return the layout in words, as a log shows it: ``yolox of output 'output': boxes as grid``."""
        facts = [] if self.name == "map" else [f"boxes as {self.boxes}{', normalized' if self.normalized else ''}"]
        if self.background is not None:
            facts.append(f"background is the {'last' if self.background else 'first'} class")
        if self.logits:
            facts.append(f"scores by {self.logits}")
        names = ", ".join(f"'{name}'" for name in self.outputs)
        return f"{self.name} of output {names}" + (f": {'; '.join(facts)}" if facts else "")


def recognize_layout(outputs: Outputs, size: tuple[int, int], images: int) -> Layout | None:
    """Recognize how a detector's outputs are to be read.

    Args:
        outputs: of the original network, on images that hold objects if possible.
        size: height and width of its input.
        images: number of images in the batch.

    Returns:
        The layout; None where the outputs are of none that is known.
    """
    return next((layout for name in LAYOUTS for layout in layouts_as(name, outputs, size, images)), None)


def layouts_as(name: LayoutName, outputs: Outputs, size: tuple[int, int], images: int) -> Iterator[Layout]:
    """Yield the ways to read outputs in a layout of a given name, the likeliest first.

    Args:
        name: of the layout.
        outputs: of the original network.
        size: height and width of its input.
        images: number of images in the batch.
    """
    tensors = {output: values for output, values in outputs.items() if _is_numeric(values)}
    if name in ("objects", "anchors"):
        yield from (_objects if name == "objects" else _anchors)(tensors, images)
        return
    for output, values in tensors.items():
        if values.dtype.kind != "f":
            continue
        if name == "rows":
            layout = _rows(output, values, images)
        else:
            head = {"yolov5": _yolov5, "yolox": _yolox, "yolov8": _yolov8, "map": _map}[name]
            layout = head(output, values, size, images)
        if layout:
            yield layout


def _is_numeric(values: Any) -> bool:
    """Return whether an output is a tensor of numbers, not of text, and no sequence or map."""
    return isinstance(values, np.ndarray) and values.dtype.kind in "fiu"


def _yolov5(output: str, values: NDArray[Any], size: tuple[int, int], images: int) -> Layout | None:
    if values.ndim != 3 or len(values) != images or values.shape[2] < 6 or values.shape[1] % 3:
        return None
    if not strides_of(values.shape[1] // 3, size) or strides_of(values.shape[1], size):
        return None
    classes = _probable_columns(values[..., 4:]) - 1
    if classes < 1:
        return None
    return Layout("yolov5", (output,), "centres", _normalized(values[..., :4]), suppressed=False, classes=classes)


def _yolox(output: str, values: NDArray[Any], size: tuple[int, int], images: int) -> Layout | None:
    if values.ndim != 3 or len(values) != images or values.shape[2] < 6 or not strides_of(values.shape[1], size):
        return None
    boxes = values[..., :4]
    classes = _probable_columns(values[..., 4:]) - 1
    if classes < 1:
        return None
    decoded = float(boxes[..., 2:].min()) >= 0 and float(boxes[..., :2].max()) > _SPREAD * max(size)
    return Layout("yolox", (output,), "centres" if decoded else "grid", suppressed=False, classes=classes)


def _yolov8(output: str, values: NDArray[Any], size: tuple[int, int], images: int) -> Layout | None:
    if values.ndim != 3 or len(values) != images or values.shape[1] < 5 or not strides_of(values.shape[2], size):
        return None
    classes = _probable_columns(values[:, 4:].transpose(0, 2, 1))
    if classes < 1:
        return None
    return Layout("yolov8", (output,), "centres", _normalized(values[:, :4]), suppressed=False, classes=classes)


def _rows(output: str, values: NDArray[Any], images: int) -> Layout | None:
    if values.ndim == 2 and values.shape[1] == 7:
        boxes, score, labels = values[:, 1:5], values[:, 6], values[:, 5]
    elif values.ndim == 3 and len(values) == images and values.shape[2] == 6 and values.shape[1] <= _MOST_ROWS:
        boxes, score, labels = values[..., :4], values[..., 4], values[..., 5]
    else:
        return None
    if not (_is_probability(score) and _is_class(labels)):
        return None
    return Layout("rows", (output,), "corners" if _ordered(boxes) else "centres", _normalized(boxes))


def _map(output: str, values: NDArray[Any], size: tuple[int, int], images: int) -> Layout | None:
    if values.ndim != 4 or values.shape[:2] != (images, 1) or not _is_probability(values):
        return None
    factors = {side / shown for side, shown in zip(size, values.shape[2:], strict=True)}
    return Layout("map", (output,)) if factors <= {1, 2, 4} and len(factors) == 1 else None


def _objects(outputs: Outputs, images: int) -> Iterator[Layout]:
    for name, boxes in outputs.items():
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or boxes.dtype.kind != "f":
            continue
        if images != (len(boxes) if boxes.ndim == 3 else 1):
            continue
        others = {key: values for key, values in outputs.items() if values.shape == boxes.shape[:-1]}
        scores = [key for key, values in others.items() if values.dtype.kind == "f" and _is_probability(values)]
        labels = [key for key, values in others.items() if values.dtype.kind in "iu" or _is_class(values)]
        named = [(score, label) for score in scores for label in labels if score != label]
        # Where scores are 0 and 1 alone, both fit both: names or the order that is usual decide.
        named.sort(key=lambda pair: ("score" not in pair[0].lower(), others[pair[1]].dtype.kind == "f"))
        for score, label in named[:1]:
            form: BoxForm = "corners-yx" if name.startswith("detection_boxes") else _form(boxes)
            yield Layout("objects", (name, score, label), form, _normalized(boxes))


def _anchors(outputs: Outputs, images: int) -> Iterator[Layout]:
    # Four classes look like boxes: where there are two such outputs, names decide.
    for name, boxes in sorted(outputs.items(), key=lambda each: "box" not in each[0].lower()):
        if boxes.ndim != 3 or boxes.shape[-1] != 4 or len(boxes) != images or boxes.dtype.kind != "f":
            continue
        for key, scores in outputs.items():
            fits = scores.ndim == 3 and len(scores) == images and boxes.shape[1] in scores.shape[1:]
            if key == name or not fits or scores.dtype.kind != "f":
                continue
            logits, background = _scored_as(scores_by_box(scores, boxes.shape[1]))
            yield Layout("anchors", (name, key), _form(boxes), _normalized(boxes), background, logits, False)


def scores_by_box(scores: NDArray[Any], boxes: int) -> NDArray[Any]:
    """Return scores of shape (images, boxes, classes), of those or of (images, classes, boxes)."""
    return scores if scores.shape[1] == boxes else scores.transpose(0, 2, 1)


def _scored_as(scores: NDArray[Any]) -> tuple[Literal["sigmoid", "softmax"] | None, int | None]:
    """Tell what makes probabilities of scores, and which class is the background: it holds most of them."""
    probabilities = scores
    logits: Literal["sigmoid", "softmax"] | None = None
    if not _is_probability(scores):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities, logits = powers / powers.sum(axis=-1, keepdims=True), "softmax"
    if scores.shape[-1] > 1 and np.allclose(probabilities.sum(axis=-1), 1, atol=1e-2):
        means = probabilities.mean(axis=tuple(range(probabilities.ndim - 1)))
        background = next((each for each in (0, -1) if means[each] > 0.5), None)
        if background is not None:
            return logits, background
    return ("sigmoid" if logits else None), None


def _probable_columns(columns: NDArray[Any]) -> int:
    """Return how many columns hold scores: the first ones up to one that is no probability, as of masks or points."""
    axes = tuple(range(columns.ndim - 1))
    probable = (columns.min(axes, initial=0) >= 0) & (columns.max(axes, initial=0) <= _MAX_PROBABILITY)
    return len(probable) if probable.all() else int(probable.argmin())


def _is_probability(values: NDArray[Any]) -> bool:
    return bool(values.size) and float(values.min()) >= 0 and float(values.max()) <= _MAX_PROBABILITY


def _is_class(values: NDArray[Any]) -> bool:
    return not values.size or bool((values == np.rint(values)).all() and values.min() >= -1)


def _normalized(boxes: NDArray[Any]) -> bool:
    return bool(boxes.size) and float(np.abs(boxes).max()) <= _MAX_NORMALIZED


def _form(boxes: NDArray[Any]) -> BoxForm:
    return "corners" if _ordered(boxes) else "centres"


def _ordered(boxes: NDArray[Any]) -> bool:
    ordered = (boxes[..., 2] >= boxes[..., 0]) & (boxes[..., 3] >= boxes[..., 1])
    return not boxes.size or float(ordered.mean()) >= _MOST_BOXES_ALIKE
