"""What a converted network loses on held-out samples, as one number with an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.examples import is_scores
from onnx_lowrank.verify.intervals import Interval, paired_interval, ratio_interval, share_interval
from onnx_lowrank.verify.outputs import top_hits


@dataclass(frozen=True)
class AccuracyLoss:
    """A loss.

    Attributes:
        value: of top-1, in shares of 1, below 0 for a gain; or the share of samples that get another class; or the
            relative error.
        interval: where it lies at 95 % confidence; None where so few samples do not say it.
        images: samples it was measured on.
        what: which of the three, in words: ``loss of top-1``, ``other top class`` or ``relative error``.
    """

    value: float
    interval: Interval | None
    images: int
    what: str

    def __str__(self) -> str:
        """What it is, the number with its interval, and what it was measured on."""
        between = "" if self.interval is None else " (95 % interval {:.2%} .. {:.2%})".format(*self.interval)
        return f"{self.what} {self.value:.2%}{between} on {self.images} samples"


_TOP1, _OTHER, _ERROR = "loss of top-1", "other top class", "relative error"
Sums = dict[str, list[NDArray[np.float64]]]


def measure_loss(
    original: Runnable,
    converted: Runnable,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    truth: NDArray[np.int64] | None = None,
) -> AccuracyLoss:
    """Run both networks on the same samples and say what the converted one loses.

    Judged is the first output that scores classes; where there is none, the floating-point output that is furthest off.

    Args:
        original: the reference.
        converted: the network to judge.
        batches: inputs by name.
        truth: class of each sample in order, shape (samples,); None to judge by the original's classes.

    Raises:
        ModelError: there are classes, but no output that scores them; or no output that can be compared.
    """
    right: list[NDArray[np.bool_]] = []
    sums: Sums = {}
    images = 0
    for batch in batches:
        ours, theirs = original.run(batch), converted.run(batch)
        count = len(next(iter(batch.values())))
        scores = next((name for name in original.numeric_outputs if is_scores(ours[name])), None)
        if truth is not None:
            name = scores or original.outputs[0]
            some = truth[images : images + count]
            right.append(np.stack([top_hits(each[name], some, name)[0] for each in (ours, theirs)]))
        elif scores:
            same = ours[scores].argmax(-1) == theirs[scores].argmax(-1)
            right.append(np.stack([np.ones(len(same), bool), same]))
        else:
            _add(sums, {name: ours[name] for name in original.numeric_outputs}, theirs, count)
        images += count
    if right:
        return _of_classes(np.concatenate(right, axis=1), _OTHER if truth is None else _TOP1)
    return _of_numbers(sums, images)


def _of_classes(right: NDArray[np.bool_], what: str) -> AccuracyLoss:
    """From whether each sample is right in the original and in the converted network, shape (2, samples)."""
    before, after = right
    lost, won, count = int((before & ~after).sum()), int((~before & after).sum()), len(before)
    interval = paired_interval(lost, won, count) if what == _TOP1 else share_interval(lost, count)
    return AccuracyLoss((lost - won) / count, interval, count, what)


def _add(sums: Sums, ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]], count: int) -> None:
    """Squared differences and sizes of every sample, of a whole batch where an output has no axis of samples."""
    for name, a in ours.items():
        b = theirs.get(name)
        if b is None or a.shape != b.shape or not np.issubdtype(a.dtype, np.floating):
            continue
        rows = count if a.ndim and len(a) == count else 1
        x, y = (each.astype(np.float64).reshape(rows, -1) for each in (a, b))
        finite = np.isfinite(x)  # where the original is not, there is no distance from it
        with np.errstate(all="ignore"):
            difference = np.where(finite, np.square(x - np.where(np.isfinite(y), y, np.inf)), 0.0).sum(axis=1)
        size = np.square(np.where(finite, x, 0.0)).sum(axis=1)
        sums.setdefault(name, []).append(np.stack([difference, size]))


def _of_numbers(sums: Sums, images: int) -> AccuracyLoss:
    joined = [np.concatenate(parts, axis=1) for parts in sums.values()]
    if not joined:
        raise ModelError("max-drop: no output of numbers has the same shape in both models: ask for `speedup` instead")
    differences, sizes = max(joined, key=_error)
    return AccuracyLoss(_error([differences, sizes]), ratio_interval(differences, sizes), images, _ERROR)


def _error(sums: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> float:
    difference, size = float(sums[0].sum()), float(sums[1].sum())
    if size == 0:
        return 0.0 if difference == 0 else float("inf")
    return float(np.sqrt(difference / size))
