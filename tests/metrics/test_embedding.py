"""Embeddings: held against the original's, and searched in."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics.embedding import cosine, recall1
from tests.metrics.predictors import Function, samples, score

Array = NDArray[Any]


def pointing(*degrees: float) -> Function:
    """A network whose embedding of image i points in a given direction, of length i + 1."""
    angles = np.deg2rad(degrees)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(angles) + 1)[:, None]
    return Function(lambda images: {"embedding": vectors[images[:, 0, 0, 0].astype(int)]}, ("embedding",))


def numbered(count: int, **labels: Any) -> Any:
    images = np.zeros((count, 3, 8, 8), np.float32) + np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    return samples(images, **labels)


def test_cosines_to_the_originals_embeddings() -> None:
    data = numbered(3)
    prepared = cosine("").prepare(pointing(0, 90, 45), data)
    assert prepared.truth == "the original's embeddings"
    np.testing.assert_allclose(prepared.score(pointing(0, 90, 45), data), 1)
    np.testing.assert_allclose(prepared.score(pointing(60, 90, 135), data), [0.5, 1, 0], atol=1e-12)


def test_nearest_samples_of_a_class() -> None:
    data = numbered(4, labels=np.array([5, 5, 9, 9]))
    prepared = recall1("").prepare(pointing(0, 10, 80, 90), data)
    assert prepared.truth == "class labels"
    assert score(prepared, pointing(0, 10, 80, 90), data) == 1
    # Sample 1 has gone over to the others: it is nearest to 2, 0 still to it, 2 and 3 to each other.
    np.testing.assert_array_equal(prepared.score(pointing(0, 60, 80, 90), data), [True, False, True, True])


def test_without_classes_the_originals_nearest_are_right() -> None:
    data = numbered(4)
    prepared = recall1("").prepare(pointing(0, 10, 80, 90), data)
    assert prepared.truth == "the original's nearest samples"
    np.testing.assert_array_equal(prepared.score(pointing(0, 60, 80, 95), data), [True, False, True, True])


def test_classes_of_one_sample_each() -> None:
    message = "metric recall1: no class has two of the 2 samples, which one is found by the other: add samples"
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        recall1("").prepare(pointing(0, 10), numbered(2, labels=np.array([1, 2])))


def test_outputs_without_embeddings() -> None:
    network = Function(lambda images: {"age": np.zeros((len(images), 1), np.float32)}, ("age",))
    message = (
        "metric cosine: the outputs 'age' (2, 1) hold no embedding of each sample, (samples, numbers) is wanted: "
        "choose another metric"
    )
    with pytest.raises(CalibrationError, match=f"^{re.escape(message)}$"):
        cosine("").prepare(network, numbered(3))
