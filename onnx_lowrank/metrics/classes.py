"""`top1` and `top5`: how often the right class is among the highest scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.protocol import MetricFunction, MetricSamples, Predictor, PreparedMetric


@dataclass(frozen=True)
class TopClasses:
    """The share of samples whose class is among the highest scores.

    The class is that of the labels; without them it is the original's top class.

    Attributes:
        top: how many of the highest scores.
    """

    top: int

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"top{self.top}"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Take the classes of the samples, or find those that the original gives them.

        Raises:
            CalibrationError: no output scores classes, or those of the labels are others.
        """
        output, scored = self._scores(original, samples)
        if samples.labels is None:
            truth = np.concatenate([original(batch)[output].argmax(1) for batch in samples])
            return PreparedMetric(_hits(output, truth, self.top), "the original's top class")
        if samples.check_labels is not None:
            samples.check_labels(scored, output)
        return PreparedMetric(_hits(output, samples.labels, self.top), "class labels")

    def _scores(self, original: Predictor, samples: MetricSamples) -> tuple[str, int]:
        """Return the first output that scores classes of every sample, and how many."""
        batch = next(iter(samples))
        count, outputs = len(next(iter(batch.values()))), original(batch)
        for name in original.outputs:
            value = outputs[name]
            if isinstance(value, np.ndarray) and value.shape[:1] == (count,) and value.ndim == 2 and value.shape[1] > 1:
                return name, value.shape[1]
        raise CalibrationError(
            f"metric {self.name}: no output scores classes ({', '.join(original.outputs)}), wanted one of shape "
            "(samples, classes): choose another metric"
        )


def top1(options: str = "") -> TopClasses:
    """Return the share of samples whose class has the highest score.

    Args:
        options: none are known.

    Raises:
        CalibrationError: there are some.
    """
    return _without_options(TopClasses(1), options)


def top5(options: str = "") -> TopClasses:
    """Return the share of samples whose class is among the five highest scores; see `top1`."""
    return _without_options(TopClasses(5), options)


def _without_options(metric: TopClasses, options: str) -> TopClasses:
    if options:
        raise CalibrationError(f"metric {metric.name}: options '{options}' found, it takes none: leave them out")
    return metric


def _hits(output: str, truth: NDArray[np.int64], top: int) -> MetricFunction:
    """Return a function that says of every sample whether its class is among the highest scores."""

    def score(predictor: Predictor, samples: MetricSamples) -> NDArray[np.bool_]:
        ranked = [np.argsort(-predictor(batch)[output], axis=1, kind="stable")[:, :top] for batch in samples]
        hits: NDArray[np.bool_] = (np.concatenate(ranked) == truth[:, None]).any(axis=1)
        return hits

    return score
