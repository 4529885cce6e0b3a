"""The best epoch by a metric, measured on the network as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.errors import CalibrationError, OutputError
from onnx_lowrank.torch import finetune
from tests.helpers import run
from tests.torch.pairs import pair
from tests.torch.trainings import QUICK, held_out, trained


def agreement(predictor: Any, samples: Any) -> list[float]:
    """Higher is better: how near the scores are to those of the original, by sample."""
    found = np.concatenate([predictor(batch)["scores"] for batch in samples])
    wanted = np.concatenate([run(pair("scores").original, batch)["scores"] for batch in samples])
    return list(-np.square(found - wanted).mean(1))


def test_the_metric_is_that_of_the_written_network_on_held_out_samples() -> None:
    made = pair("scores")
    result = trained(made, metric=agreement)
    feeds = {made.original.graph.input[0].name: made.samples[held_out(len(made.samples))]}
    wanted = run(made.original, feeds)["scores"]
    for model, marks in ((made.converted, result.before), (result.model, result.after)):
        score = -np.square(run(model, feeds)["scores"] - wanted).mean()
        assert marks.metric == pytest.approx(score, rel=1e-3)
    scores = [each.marks.metric for each in result.epochs]
    assert result.best == 1 + int(np.argmax(scores))
    assert result.metric is not None
    assert (result.metric.name, result.metric.converted) == ("agreement", result.after.metric)
    assert result.metric.original == pytest.approx(0.0, abs=1e-9)
    assert result.metric.interval is not None
    report = json.loads(json.dumps(result.to_dict()))
    assert report["metric"]["converted"] == report["after"]["metric"] == result.after.metric
    assert f"metric {result.after.metric:.4g}" in str(result.after)
    assert "metric" not in json.dumps(trained(made, epochs=1).to_dict())


def test_the_best_epoch_is_that_of_the_metric_not_of_the_loss() -> None:
    left = iter([1.0, 0.2, 0.5, 0.4, 0.3, 0.5])  # of the original, as it came, of three epochs, of the best in the end

    def scripted(predictor: Any, samples: Any) -> float:
        return next(left)

    result = trained(pair("scores"), metric=scripted)
    assert [each.marks.metric for each in result.epochs] == [0.5, 0.4, 0.3]
    losses = [each.marks.loss for each in result.epochs]
    assert losses[0] > min(losses)  # which would be another epoch
    assert result.best == 1
    assert next(left, None) is None


def test_a_metric_that_fails_does_so_before_the_training() -> None:
    def careless(predictor: Any, samples: Any) -> None:
        return None

    with pytest.raises(CalibrationError, match=r"^metric careless, original network: nothing found, a number, or one"):
        trained(pair("scores"), metric=careless)


def test_a_checkpoint_belongs_to_its_metric(tmp_path: Path) -> None:
    made, checkpoint = pair("scores"), tmp_path / "c"
    finetune(made.original, made.converted, made.samples, QUICK, epochs=1, checkpoint=checkpoint, metric=agreement)
    with pytest.raises(OutputError) as caught:
        finetune(made.original, made.converted, made.samples, QUICK, epochs=1, checkpoint=checkpoint, resume=True)
    assert str(caught.value) == (
        f"{checkpoint}: checkpoint of another training (metric: agreement there, None here): start without `resume`, "
        "or go on with the same options"
    )
