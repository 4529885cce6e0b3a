"""`miou`: mean intersection over union of classes of pixels, against masks or against the original's classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.images import image_size
from onnx_lowrank.metrics.labels.mask_files import VOID, check_named, find_masks, read_mask
from onnx_lowrank.metrics.options import read_options
from onnx_lowrank.metrics.protocol import Batch, MetricSamples, Placement, Predictor, PreparedMetric, Resampled

log = logging.getLogger(__name__)

_HALF_PROBABLE = 0.5
_MAX_REDUCTION = 32  # by which maps of classes are smaller than images


@dataclass(frozen=True)
class ClassMap:
    """An output that gives every pixel a class.

    Attributes:
        output: its name.
        classes: how many there are, at most.
        axis: of the scores of classes; None where the output names classes.
        threshold: above which the only score means class 1.
    """

    output: str
    classes: int
    axis: int | None
    threshold: float = 0.0

    def read(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Return the class of each pixel, shape (samples, height, width)."""
        values = outputs[self.output]
        if self.axis is None:
            return values.reshape(len(values), *values.shape[-2:]).astype(np.int64)
        if values.shape[self.axis] == 1:
            return (values.squeeze(self.axis) > self.threshold).astype(np.int64)
        return np.asarray(values.argmax(self.axis))


@dataclass(frozen=True)
class MeanIntersectionOverUnion:
    """Mean over classes of intersection over union, each of all samples' pixels together.

    Attributes:
        labels: folder of masks; None for ``masks`` beside the folder of images, if it is there.
    """

    labels: Path | None = None
    name: str = "miou"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Read the masks, or the original's classes.

        Raises:
            CalibrationError: no output gives pixels classes, or masks are missing or do not fit.
        """
        maps = self.recognize(original, samples)
        log.info("metric miou: classes of pixels are those of output '%s'", maps.output)
        folder = find_masks(samples.source, self.labels)
        if folder is None:
            truth = [classes.astype(np.uint8) for batch in samples for classes in maps.read(original(batch))]
            what = "the original's classes of pixels"
        else:
            truth, what = list(_masks(folder, original, samples, maps)), f"the masks in {folder}"

        def score(predictor: Predictor, samples: MetricSamples) -> Resampled:
            found = (classes for batch in samples for classes in maps.read(predictor(batch)))
            pairs = [_overlaps(each, wanted, maps.classes) for each, wanted in zip(found, truth, strict=True)]
            return _mean_over_classes(np.array(pairs))

        return PreparedMetric(score, what, lambda outputs, _: list(maps.read(outputs)))

    def recognize(self, original: Predictor, samples: MetricSamples) -> ClassMap:
        """Return the first output that gives pixels classes.

        Raises:
            CalibrationError: there is none.
        """
        batch = next(iter(samples))
        outputs, size = original(batch), image_size(batch)
        for name in original.outputs:
            values = outputs[name]
            if size and isinstance(values, np.ndarray) and (found := class_map(name, values, size)):
                return found
        shapes = ", ".join(f"'{name}' {np.shape(values)}" for name, values in outputs.items())
        raise CalibrationError(
            f"metric miou: the outputs {shapes} give pixels no classes, (samples, classes, height, width) is wanted: "
            "choose another metric"
        )


def build(options: str = "") -> MeanIntersectionOverUnion:
    """Return the metric ``miou``.

    Args:
        options: ``labels``; see `MeanIntersectionOverUnion`.

    Raises:
        CalibrationError: an option is wrong.
    """
    return MeanIntersectionOverUnion(**read_options("miou", options, {"labels": Path}))


def class_map(name: str, values: NDArray[Any], size: tuple[int, int]) -> ClassMap | None:
    """Return how an output gives pixels classes; None where it does not.

    Args:
        name: of the output.
        values: of the original network, first axis = samples.
        size: height and width of the network's input.
    """
    if values.dtype.kind in "iu" and (values.ndim == 3 or (values.ndim == 4 and values.shape[1] == 1)):
        return ClassMap(name, VOID, None) if _is_map(values.shape[-2:], size) else None
    if values.ndim != 4 or values.dtype.kind != "f":
        return None
    for axis, shape in ((1, values.shape[2:]), (3, values.shape[1:3])):
        if _is_map(shape, size) and values.shape[axis] < VOID:
            probable = float(values.min()) >= 0 and float(values.max()) <= 1
            return ClassMap(name, max(2, values.shape[axis]), axis, _HALF_PROBABLE if probable else 0.0)
    return None


def _is_map(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether a map is as large as an image, or a whole number of times smaller."""
    factors = {round(side / shown, 3) for side, shown in zip(size, shape, strict=True)}
    return len(factors) == 1 and factors <= set(range(1, _MAX_REDUCTION + 1))


def _masks(folder: Path, original: Predictor, samples: MetricSamples, maps: ClassMap) -> Iterator[NDArray[np.uint8]]:
    check_named(folder, samples.names)
    files = zip(samples.names, samples.image_sizes(), samples.placements(), strict=True)
    for batch in samples:
        shape, size = maps.read(original(batch)).shape[1:], _size(batch)
        share = shape[1] / size[1], shape[0] / size[0]
        for name, image, placement in islice(files, len(next(iter(batch.values())))):
            known = placement or Placement((1.0, 1.0), (0.0, 0.0))
            scale, offset = ((x * share[0], y * share[1]) for x, y in (known.scale, known.offset))
            mask = read_mask(folder, str(name), image, Placement(scale, offset), (shape[0], shape[1]))
            if maps.classes == 2 and set(np.unique(mask)) <= {0, VOID}:
                mask = np.where(mask == VOID, 1, 0).astype(np.uint8)  # black and white, as editors save two classes
            largest = int(mask[mask != VOID].max(initial=0))
            if largest >= maps.classes:
                raise CalibrationError(
                    f"{folder}: class {largest} found in the mask of '{name}', output '{maps.output}' scores "
                    f"{maps.classes} classes, 0 to {maps.classes - 1}: renumber the masks, 255 for pixels without class"
                )
            yield mask


def _size(batch: Batch) -> tuple[int, int]:
    size = image_size(batch)
    if size is None:
        raise CalibrationError("metric miou: no input takes images: choose another metric")
    return size


def _overlaps(found: NDArray[np.int64], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return pixels in the intersection and in the union of each class, shape (2, classes)."""
    if found.shape != truth.shape:
        raise CalibrationError(f"metric miou: maps of {found.shape} found, the truth has {truth.shape}")
    known = truth != VOID
    a, b = found[known], truth[known].astype(np.int64)
    both = np.bincount(a[a == b], minlength=classes)[:classes]
    either = sum(np.bincount(each, minlength=classes)[:classes] for each in (a, b)) - both
    return np.stack([both, either])


def _mean_over_classes(pairs: NDArray[np.int64]) -> Resampled:
    """Return the mean over classes that occur; pairs of shape (samples, 2, classes)."""

    def score_of(chosen: NDArray[np.int64]) -> float:
        both, either = pairs[chosen].sum(axis=0)
        occurs = either > 0
        return float((both[occurs] / either[occurs]).mean()) if occurs.any() else 0.0

    return Resampled(len(pairs), score_of)
