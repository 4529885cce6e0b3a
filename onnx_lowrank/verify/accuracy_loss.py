"""The loss of a converted network on held-out samples: one number with a confidence interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.metrics import Measured
from onnx_lowrank.settings import DropType
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.examples import scores_images
from onnx_lowrank.verify.finite_values import finite_values
from onnx_lowrank.verify.intervals import Interval, paired_interval, ratio_interval, share_interval
from onnx_lowrank.verify.outputs import top_hits


@dataclass(frozen=True)
class AccuracyLoss:
    """The measured loss of a converted network.

    Attributes:
        value: the drop in top-1 accuracy as a share of 1, negative for a gain; or the share of samples whose top class
            changes; or the relative error.
        interval: confidence interval of the value at 95 %; None if there are too few samples for one.
        images: number of samples.
        what: the kind of loss: ``loss of top-1``, ``other top class`` or ``relative error``; ``loss of`` a metric.
        form: format of the value, where it is no share.
    """

    value: float
    interval: Interval | None
    images: int
    what: str
    form: str = ".2%"

    def __str__(self) -> str:
        """Return the kind of loss, the value with its interval and the number of samples."""
        ends = [format(end, self.form) for end in self.interval or ()]
        interval = f" (95 % interval {' .. '.join(ends)})" if ends else ""
        return f"{self.what} {self.value:{self.form}}{interval} on {self.images} samples"


def metric_loss(measured: Measured, drop_type: DropType) -> AccuracyLoss:
    """Return what a converted network loses by a metric.

    Args:
        measured: the metric of both networks.
        drop_type: ``absolute`` for the difference of the scores, ``relative`` for its share of the original's score.

    Raises:
        CalibrationError: it is to be relative to a score of 0.
    """
    if drop_type == "absolute":
        return AccuracyLoss(measured.loss, measured.interval, measured.images, f"loss of {measured.name}", ".4g")
    size = abs(measured.original)
    if size == 0:
        raise CalibrationError(
            f"`drop_type='relative'`: {measured.name} of the original is 0 on {measured.images} samples, of which "
            "there is no share: use `drop_type='absolute'`"
        )
    ends = measured.interval and (measured.interval[0] / size, measured.interval[1] / size)
    return AccuracyLoss(measured.loss / size, ends, measured.images, f"relative loss of {measured.name}")


_TOP1_LOSS, _CLASS_CHANGE, _RELATIVE_ERROR = "loss of top-1", "other top class", "relative error"

_Sums = dict[str, list[NDArray[np.float64]]]  # by output name: squared differences and sizes of a batch, shape (2, n)


def measure_loss(
    original: Runnable,
    converted: Runnable,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    truth: NDArray[np.int64] | None = None,
) -> AccuracyLoss:
    """Run both networks on the same samples and measure the loss of the converted one.

    The loss is measured on the first output that scores classes; without one, on the floating-point output with the
    largest relative error.

    Args:
        original: the reference.
        converted: the network to measure.
        batches: inputs by name, first axis = samples.
        truth: class of each sample in order, shape (samples,); None to compare with the classes of the original.

    Raises:
        ModelError: there is a truth but no output that scores its classes, or no output can be compared.
    """
    right: list[NDArray[np.bool_]] = []
    sums: _Sums = {}
    images = 0
    for batch in batches:
        ours, theirs = original.run(batch), converted.run(batch)
        count = len(next(iter(batch.values())))
        scores = next((name for name in original.numeric_outputs if scores_images(ours[name], count)), None)
        if truth is not None:
            name = scores or next(iter(original.numeric_outputs), original.outputs[0])
            classes = truth[images : images + count]
            right.append(np.stack([top_hits(outputs[name], classes, name)[0] for outputs in (ours, theirs)]))
        elif scores:
            same = ours[scores].argmax(-1) == theirs[scores].argmax(-1)
            right.append(np.stack([np.ones(len(same), bool), same]))
        else:
            _add_squares(sums, {name: ours[name] for name in original.numeric_outputs}, theirs, count)
        images += count
    if right:
        return _class_loss(np.concatenate(right, axis=1), _CLASS_CHANGE if truth is None else _TOP1_LOSS)
    return _error_loss(sums, images)


def _class_loss(right: NDArray[np.bool_], what: str) -> AccuracyLoss:
    """Return the loss from whether each sample is right in the original and the converted network, shape (2, n)."""
    before, after = right
    lost, won, count = int((before & ~after).sum()), int((~before & after).sum()), len(before)
    interval = paired_interval(lost, won, count) if what == _TOP1_LOSS else share_interval(lost, count)
    return AccuracyLoss((lost - won) / count, interval, count, what)


def _add_squares(sums: _Sums, ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]], count: int) -> None:
    """Append the squared differences and sizes of every sample, or of the whole batch if samples are not an axis."""
    for name, a in ours.items():
        b = theirs.get(name)
        if b is None or a.shape != b.shape or not a.size or not np.issubdtype(a.dtype, np.floating):
            continue
        rows = count if a.ndim and len(a) == count else 1
        x, y, finite = finite_values(a.reshape(rows, -1), b.reshape(rows, -1))
        with np.errstate(all="ignore"):
            difference = np.where(finite, np.square(x - y), 0.0).sum(axis=1)
        size = np.square(np.where(finite, x, 0.0)).sum(axis=1)
        sums.setdefault(name, []).append(np.stack([difference, size]))


def _error_loss(sums: _Sums, images: int) -> AccuracyLoss:
    joined = [np.concatenate(parts, axis=1) for parts in sums.values()]
    if not joined:
        raise ModelError(
            "max-drop: no output of numbers has the same shape in both models and a number in it: "
            "ask for `speedup` instead"
        )
    worst = max(joined, key=_relative_error)
    return AccuracyLoss(_relative_error(worst), ratio_interval(*worst), images, _RELATIVE_ERROR)


def _relative_error(squares: NDArray[np.float64]) -> float:
    """Return the relative error over all samples from their squared differences and sizes, shape (2, n)."""
    difference, size = squares
    return relative_error(float(difference.sum()), float(size.sum()))
