"""Metrics of two networks on the same samples: both scores, and what is known of their difference."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics import Measured, Metric, MetricSamples, Predictor, Resampled
from onnx_lowrank.metrics.scores import CheckedScores, checked_scores, mean_score
from onnx_lowrank.verify.found_examples import FoundExample, found_examples
from onnx_lowrank.verify.intervals import Interval, bootstrap_interval, paired_interval

log = logging.getLogger(__name__)

_DRAWS, _SLOW_DRAWS = 2_000, 200  # of the bootstrap; the latter where every draw scores all samples anew


class MetricJudge:
    """Measures networks by a metric, on the same samples as the original.

    The original is measured at once, so that a metric that fails does so before anything else takes time.

    Args:
        metric: the measure.
        original: the original network.
        samples: to measure on.

    Raises:
        CalibrationError: the metric fails, there is no truth for it, or it returns no scores.
    """

    def __init__(self, metric: Metric, original: Predictor, samples: MetricSamples) -> None:
        self._name, self._samples = metric.name, samples
        self._predictor = original
        prepared = metric.prepare(original, samples)
        self._read = prepared.read
        self._score, self._truth = prepared.score, prepared.truth
        self._before = self._scores(original, "original")
        against = f", against {prepared.truth}" if prepared.truth else ", by running the user's code"
        log.info("%s of the original: %.4g on %d samples%s", metric.name, self.original, len(samples), against)

    @property
    def original(self) -> float:
        """Score of the original."""
        return mean_score(self._before, len(self._samples))

    def measure(self, converted: Predictor) -> Measured:
        """Measure a network.

        Raises:
            CalibrationError: the metric fails, or it returns scores of another kind than for the original.
        """
        after, count = self._scores(converted, "converted"), len(self._samples)
        if type(after) is not type(self._before):
            raise _of_two_kinds(self._name, self._before, after)
        interval, reason = _interval(self._before, after, count)
        return Measured(
            self._name, self.original, mean_score(after, count), interval, count, self._truth, no_interval=reason
        )

    def examples(self, converted: Predictor, most: int) -> tuple[FoundExample, ...]:
        """Return samples with what both networks find in them; none for a metric that shows nothing.

        Args:
            converted: the network.
            most: samples, at most; those that differ most.
        """
        if self._read is None:
            return ()
        return found_examples(self._read, self._predictor, converted, self._samples, most)

    def _scores(self, network: Predictor, which: str) -> CheckedScores:
        found = self._score(network, self._samples)
        return checked_scores(found, len(self._samples), f"metric {self._name}, {which} network")


def _interval(before: CheckedScores, after: CheckedScores, count: int) -> tuple[Interval | None, str]:
    """Return the confidence interval of the loss, or None and why there is none."""
    if isinstance(before, float) or isinstance(after, float):
        return None, "the metric returns one number for all samples"
    if count < 2:
        return None, "one sample says nothing of others"
    if isinstance(before, Resampled) and isinstance(after, Resampled):
        first, second = before.score_of, after.score_of
        return _varied(bootstrap_interval(lambda drawn: first(drawn) - second(drawn), count, _SLOW_DRAWS))
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    if _is_right_or_wrong(before) and _is_right_or_wrong(after):
        return paired_interval(int((before > after).sum()), int((before < after).sum()), count), ""
    losses = before - after
    return _varied(bootstrap_interval(lambda drawn: float(losses[drawn].mean()), count, _DRAWS))


def _varied(interval: Interval) -> tuple[Interval | None, str]:
    """Return an interval, but none without width: that all samples lose the same does not say that others do."""
    return (interval, "") if interval[1] > interval[0] else (None, "all samples lose the same")


def _is_right_or_wrong(scores: NDArray[np.float64]) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _of_two_kinds(name: str, before: CheckedScores, after: CheckedScores) -> CalibrationError:
    kinds = [
        "a number"
        if isinstance(each, float)
        else "numbers to resample"
        if isinstance(each, Resampled)
        else "one score a sample"
        for each in (before, after)
    ]
    return CalibrationError(
        f"metric {name}: {kinds[0]} found for the original network, {kinds[1]} for the converted one: return the "
        "same for both"
    )
