"""`cosine` and `recall1`: embeddings of faces, voices or products, held against the original's and searched in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.options import read_options
from onnx_lowrank.metrics.protocol import MetricSamples, Predictor, PreparedMetric


@dataclass(frozen=True)
class Cosine:
    """Cosine of the angle between the embedding of a sample and the original network's."""

    name: str = "cosine"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Embed the samples by the original.

        Raises:
            CalibrationError: no output holds an embedding of each sample.
        """
        output = _output(self.name, original, samples)
        truth = _embed(original, samples, output)

        def score(predictor: Predictor, samples: MetricSamples) -> NDArray[np.float64]:
            return np.asarray((truth * _embed(predictor, samples, output)).sum(axis=1))

        return PreparedMetric(score, "the original's embeddings")


@dataclass(frozen=True)
class RecallAtOne:
    """Share of samples whose nearest other sample, by cosine, is of their class; without classes, is the original's."""

    name: str = "recall1"

    def prepare(self, original: Predictor, samples: MetricSamples) -> PreparedMetric:
        """Take the classes of the samples, or find which of them are nearest to each other in the original.

        Raises:
            CalibrationError: no output holds an embedding of each sample, or no class has two samples.
        """
        output, labels = _output(self.name, original, samples), samples.labels
        nearest = _nearest(_embed(original, samples, output))
        if labels is not None and len(np.unique(labels)) == len(labels):
            raise CalibrationError(
                f"metric recall1: no class has two of the {len(labels)} samples, which one is found by the other: add "
                "samples"
            )

        def score(predictor: Predictor, samples: MetricSamples) -> NDArray[np.bool_]:
            found = _nearest(_embed(predictor, samples, output))
            return np.equal(found, nearest) if labels is None else np.equal(labels[found], labels)

        return PreparedMetric(score, "the original's nearest samples" if labels is None else "class labels")


def cosine(options: str = "") -> Cosine:
    """Return the metric ``cosine``.

    Args:
        options: none are known.

    Raises:
        CalibrationError: there are some.
    """
    return Cosine(**read_options("cosine", options, {}))


def recall1(options: str = "") -> RecallAtOne:
    """Return the metric ``recall1``; see `cosine`."""
    return RecallAtOne(**read_options("recall1", options, {}))


def _output(metric: str, original: Predictor, samples: MetricSamples) -> str:
    """Return the first output of at least two numbers a sample."""
    batch = next(iter(samples))
    outputs, count = original(batch), len(next(iter(batch.values())))
    for name in original.outputs:
        values = outputs[name]
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and len(values) == count < values.size:
            return name
    shapes = ", ".join(f"'{name}' {np.shape(values)}" for name, values in outputs.items())
    raise CalibrationError(
        f"metric {metric}: the outputs {shapes} hold no embedding of each sample, (samples, numbers) is wanted: choose "
        "another metric"
    )


def _embed(predictor: Predictor, samples: MetricSamples, output: str) -> NDArray[np.float64]:
    """Return embeddings of length 1, shape (samples, numbers)."""
    batches: list[NDArray[Any]] = [predictor(batch)[output] for batch in samples]
    vectors = np.concatenate([each.reshape(len(each), -1) for each in batches]).astype(np.float64)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(float).tiny))


def _nearest(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which other sample is nearest to each."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(axis=1))
