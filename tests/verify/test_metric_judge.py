"""Metrics of two networks: scores, intervals, and what is no score."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from scipy import stats

from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.metrics import Measured, MetricSamples, Resampled, as_metric
from onnx_lowrank.metrics.predictor import NetworkPredictor
from onnx_lowrank.verify import MetricJudge, metric_loss
from onnx_lowrank.verify.intervals import paired_interval
from tests.helpers import normal

COUNT = 40
SAMPLES = MetricSamples(lambda: iter([{"x": np.zeros((COUNT, 1))}]), (None,) * COUNT)
ORIGINAL, CONVERTED = (NetworkPredictor(dict, (), (name,)) for name in ("a", "b"))


def measure(scores: dict[str, Any]) -> Measured:
    """The measurement of a metric that returns these by the name of the network's output."""

    def metric(predictor: Any, samples: Any) -> Any:
        return scores[predictor.outputs[0]]

    return MetricJudge(as_metric(metric), ORIGINAL, SAMPLES).measure(CONVERTED)


def test_scores_of_single_samples_have_an_interval_that_holds_the_true_loss_as_often_as_it_says() -> None:
    """Of 40 draws of 40 samples, 95 % of the intervals are to hold the loss that the samples were drawn with."""
    held = 0
    for seed in range(40):
        before, loss = normal(seed, COUNT, dtype=float), 0.3 + 0.5 * normal(seed + 1000, COUNT, dtype=float)
        found = measure({"a": before, "b": list(before - loss)})
        assert found.loss == pytest.approx(float(loss.mean()), rel=1e-9, abs=1e-12)
        assert found.interval is not None
        held += found.interval[0] <= 0.3 <= found.interval[1]
    low, high = stats.binom.interval(0.9999, 40, 0.94)  # percentile intervals of 40 samples are a little short
    assert low <= held <= high
    # Scores of samples vary by 1, their losses by half of that: the interval is that of the pairs.
    assert found.interval is not None
    half = 1.96 * float(np.std(loss)) / np.sqrt(COUNT)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * half, rel=0.1)


def test_right_and_wrong_have_the_interval_of_shares() -> None:
    before, after = np.arange(COUNT) < 30, np.arange(COUNT) % 3 > 0
    found = measure({"a": before, "b": after})
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    assert (found.original, found.converted) == (0.75, after.mean())
    assert found.interval == paired_interval(lost, won, COUNT)
    assert measure({"a": before, "b": before}).interval == paired_interval(0, 0, COUNT)


def test_scores_that_are_no_means_are_resampled() -> None:
    values = {"a": normal(0, COUNT), "b": normal(0, COUNT) - 0.5 + 0.1 * normal(1, COUNT)}
    of_means = measure(values).interval
    resampled = {
        name: Resampled(COUNT, lambda drawn, name=name: float(np.median(values[name][drawn]))) for name in values
    }
    found = measure(resampled)
    assert (found.original, found.converted) == (np.median(values["a"]), np.median(values["b"]))
    assert found.interval is not None
    assert found.interval[0] < 0.5 < found.interval[1]
    means = {name: Resampled(COUNT, lambda drawn, name=name: float(values[name][drawn].mean())) for name in values}
    assert measure(means).interval == pytest.approx(of_means, abs=0.02)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"a": 0.9, "b": np.float32(0.5)}, "the metric returns one number for all samples"),
        ({"a": 1, "b": True}, "the metric returns one number for all samples"),
        ({"a": np.full(COUNT, 0.9), "b": np.full(COUNT, 0.7)}, "all samples lose the same"),
    ],
)
def test_where_there_is_no_interval(scores: dict[str, Any], reason: str) -> None:
    found = measure(scores)
    assert (found.interval, found.no_interval) == (None, reason)
    assert (found.to_dict()["interval"], found.to_dict()["no_interval"]) == (None, reason)


def test_one_sample_says_nothing_of_others() -> None:
    one = MetricSamples(lambda: iter([{"x": np.zeros((1, 1))}]), (None,))

    def half(predictor: Any, samples: Any) -> list[float]:
        return [0.5]

    judge = MetricJudge(as_metric(half), ORIGINAL, one)
    assert judge.measure(CONVERTED).no_interval == "one sample says nothing of others"


WANTED = "a number, or one for each of 40 samples, is wanted"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, f"nothing found, {WANTED}: return it"),
        ("0.9", f"str '0.9' found, {WANTED}: return it"),
        ({"map": 0.5}, f"dict {{'map': 0.5}} found, {WANTED}: return it"),
        (float("nan"), f"nan found, {WANTED}: decide what such a sample counts"),
        (-np.inf, f"-inf found, {WANTED}: decide what such a sample counts"),
        ([1.0] * 39, f"39 scores found, {WANTED}: return their mean, or one for each sample"),
        ([], f"0 scores found, {WANTED}: return their mean, or one for each sample"),
        (np.zeros((40, 2)), f"scores of shape (40, 2) found, {WANTED}: return their mean, or one for each sample"),
        ([0.5] * 39 + [np.nan], f"nan found for sample 39, {WANTED}: decide what such a sample counts"),
        (Resampled(39, len), f"scores of 39 samples found, {WANTED}: return their number"),
    ],
)
@pytest.mark.parametrize("network", ["original", "converted"])
def test_what_is_no_score(returned: Any, message: str, network: str) -> None:
    fine = [0.5] * COUNT
    with pytest.raises(CalibrationError) as caught:
        measure({"a": returned, "b": fine} if network == "original" else {"a": fine, "b": returned})
    assert str(caught.value) == f"metric metric, {network} network: {message}"


def test_what_cannot_become_numbers() -> None:
    with pytest.raises(CalibrationError, match=r"list found that is no numbers \(.*\), a number, or .* numpy.asarray"):
        measure({"a": [[1], [1, 2]], "b": 0.0})


def test_scores_of_two_kinds() -> None:
    with pytest.raises(CalibrationError) as caught:
        measure({"a": 0.5, "b": [0.5] * COUNT})
    assert str(caught.value) == (
        "metric metric: a number found for the original network, one score a sample for the converted one: return "
        "the same for both"
    )


def test_a_function_that_raises_is_named_with_its_line() -> None:
    def careless(predictor: Any, samples: Any) -> float:
        return 1 / 0  # this line is named

    line = careless.__code__.co_firstlineno + 1
    with pytest.raises(CalibrationError) as caught:
        MetricJudge(as_metric(careless), ORIGINAL, SAMPLES)
    assert str(caught.value) == (
        f"metric careless: failed with ZeroDivisionError: division by zero (test_metric_judge.py, line {line}): "
        "correct it"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_of_numpy_is_named_with_the_line_that_led_to_it() -> None:
    def careless(predictor: Any, samples: Any) -> Any:
        return np.concatenate([])

    with pytest.raises(
        CalibrationError, match=rf"\(test_metric_judge.py, line {careless.__code__.co_firstlineno + 1}\)"
    ):
        MetricJudge(as_metric(careless), ORIGINAL, SAMPLES)


def test_interruptions_are_not_errors_of_the_function() -> None:
    def stop(predictor: Any, samples: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MetricJudge(as_metric(stop), ORIGINAL, SAMPLES)


def test_the_original_is_measured_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    def count(predictor: Any, samples: Any) -> float:
        calls.append(predictor.outputs[0])
        return 0.25

    with caplog.at_level(logging.INFO, "onnx_lowrank"):
        judge = MetricJudge(as_metric(count), ORIGINAL, SAMPLES)
    assert caplog.messages == ["count of the original: 0.25 on 40 samples, by running the user's code"]
    judge.measure(CONVERTED)
    judge.measure(CONVERTED)
    assert calls == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("drop_type", "value", "interval", "text"),
    [
        ("absolute", 2.0, (1.0, 3.0), "loss of psnr 2 (95 % interval 1 .. 3) on 40 samples"),
        (
            "relative",
            0.0625,
            (0.03125, 0.09375),
            "relative loss of psnr 6.25% (95 % interval 3.12% .. 9.38%) on 40 samples",
        ),
    ],
)
def test_losses_by_a_metric(drop_type: Any, value: float, interval: Any, text: str) -> None:
    loss = metric_loss(Measured("psnr", 32.0, 30.0, (1.0, 3.0), 40), drop_type)
    assert (loss.value, loss.interval, str(loss)) == (value, interval, text)


def test_no_share_of_a_score_of_zero() -> None:
    with pytest.raises(CalibrationError) as caught:  # a search takes a BudgetError for a speedup out of reach
        metric_loss(Measured("map", 0.0, 0.0, None, 7), "relative")
    assert str(caught.value) == (
        "`drop_type='relative'`: map of the original is 0 on 7 samples, of which there is no share: use "
        "`drop_type='absolute'`"
    )
