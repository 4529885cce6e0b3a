"""`top1` and `top5`, and metrics by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics import METRIC_NAMES, MetricSamples, as_metric
from onnx_lowrank.metrics.predictor import NetworkPredictor

COUNT, CLASSES = 23, 8


def samples(scores: NDArray[Any], labels: NDArray[np.int64] | None = None) -> MetricSamples:
    """Samples that are the scores of the original themselves, in batches of 7."""
    starts = range(0, len(scores), 7)
    return MetricSamples(
        lambda: iter([{"x": scores[at : at + 7]} for at in starts]), (None,) * len(scores), labels=labels
    )


def network(change: float = 0.0) -> NetworkPredictor:
    """A network that returns its input, with some of the classes moved."""
    noise = np.random.default_rng(1).standard_normal((COUNT, CLASSES))

    def run(batch: Any) -> Any:
        rows, columns = batch["x"].shape
        return {"y": batch["x"] + change * noise[:rows, :columns], "mean": batch["x"].mean()}

    return NetworkPredictor(run, ("x",), ("mean", "y"))


@pytest.mark.parametrize(("name", "top"), [("top1", 1), ("top5", 5)])
@pytest.mark.parametrize("labelled", [True, False])
def test_hits_are_those_of_a_sort(name: str, top: int, labelled: bool) -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((COUNT, CLASSES))
    labels = generator.integers(0, CLASSES, COUNT) if labelled else None
    given = samples(scores, labels)
    prepared = as_metric(name).prepare(network(), given)
    truth = scores.argmax(1) if labels is None else labels
    for change in (0.0, 1.0):
        outputs = np.concatenate([network(change)(batch)["y"] for batch in given])
        wanted = [truth[row] in sorted(range(CLASSES), key=lambda c: -outputs[row, c])[:top] for row in range(COUNT)]
        assert list(np.asarray(prepared.score(network(change), given))) == wanted
    assert prepared.truth == ("class labels" if labelled else "the original's top class")


def test_labels_of_other_classes_are_an_error_of_the_data() -> None:
    def check(classes: int, output: str) -> None:
        raise CalibrationError(f"{classes} of {output}")

    labelled = MetricSamples(lambda: iter([{"x": np.eye(3)}]), (None,) * 3, labels=np.arange(3), check_labels=check)
    with pytest.raises(CalibrationError, match=r"^3 of y$"):
        as_metric("top1").prepare(network(), labelled)


def test_outputs_that_score_no_classes() -> None:
    vectors = samples(np.zeros((4, 1)))
    with pytest.raises(CalibrationError) as caught:
        as_metric("top5").prepare(network(), vectors)
    assert str(caught.value) == (
        "metric top5: no output scores classes (mean, y), wanted one of shape (samples, classes): choose another metric"
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "top3",
            f"metric 'top3': no metric has this name, one of {', '.join(METRIC_NAMES)} is wanted, or a function of "
            "your own: correct the name, or pass the function itself",
        ),
        ("top1:k=3", "metric top1: options 'k=3' found, it takes none: leave them out"),
    ],
)
def test_names_that_are_none(choice: str, message: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        as_metric(choice)
    assert str(caught.value) == message


def test_what_is_no_metric() -> None:
    with pytest.raises(TypeError, match=r"^metric must be a name or a function, got int$"):
        as_metric(3)
