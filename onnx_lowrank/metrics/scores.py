"""What a metric returns, checked: anything but scores is an error that says what was found."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import Resampled

CheckedScores = float | NDArray[np.float64] | Resampled


def checked_scores(value: Any, count: int, where: str) -> CheckedScores:
    """Return what a metric returned: a finite number, finite numbers of shape (samples,), or a `Resampled`.

    Args:
        value: what it returned.
        count: number of samples.
        where: how error messages call the metric and the network, as in ``metric f of the original network``.

    Raises:
        CalibrationError: it is something else.
    """
    wanted = f"a number, or one for each of {count} samples, is wanted"
    if isinstance(value, Resampled):
        if value.count != count:
            raise CalibrationError(f"{where}: scores of {value.count} samples found, {wanted}: return their number")
        return value
    if value is None or isinstance(value, str | bytes | Mapping):
        found = "nothing" if value is None else f"{type(value).__name__} {value!r:.40}"
        raise CalibrationError(f"{where}: {found} found, {wanted}: return it")
    if isinstance(value, Real):
        return _finite(np.array([value], np.float64), where, wanted).item()
    try:
        scores = np.asarray(value, dtype=np.float64)
    except Exception as error:  # other libraries' arrays raise their own, from tensors on a device to ragged lists
        raise CalibrationError(
            f"{where}: {type(value).__name__} found that is no numbers ({error}), {wanted}: convert it, with "
            "numpy.asarray for example"
        ) from error
    if scores.ndim == 0:
        return _finite(scores.reshape(1), where, wanted).item()
    if scores.shape != (count,):
        shape = f"{len(scores)} scores" if scores.ndim == 1 else f"scores of shape {scores.shape}"
        raise CalibrationError(f"{where}: {shape} found, {wanted}: return their mean, or one for each sample")
    return _finite(scores, where, wanted)


def mean_score(scores: CheckedScores, count: int) -> float:
    """Return the score on all samples.

    Args:
        scores: of a network.
        count: number of samples.
    """
    if isinstance(scores, Resampled):
        return float(scores.score_of(np.arange(count)))
    return float(np.mean(scores))


def _finite(scores: NDArray[np.float64], where: str, wanted: str) -> NDArray[np.float64]:
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        of = f" for sample {wrong[0]}" if len(scores) > 1 else ""
        raise CalibrationError(f"{where}: {scores[wrong[0]]:g} found{of}, {wanted}: decide what such a sample counts")
    return scores
