"""``--max-drop`` by a metric on the bundled demo network: what is found holds on digits that the search did not see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from demo_data import load_digits, split_digits
from onnx_lowrank.verify.intervals import paired_interval
from tests.command_line import works
from tests.helpers import run, samples_of

ROOT = Path(__file__).parents[2]
WORDS = ("demo.onnx", "fast.onnx", "--data", "digits", "--samples", "60", "--positions", "20", "--refine", "none")
EVALUATION = """
import numpy as np

def log_likelihood(predictor, samples):
    '''Logarithm of the probability of the right class, one score a sample.'''
    (output,) = predictor.outputs
    logits = np.concatenate([predictor(batch)[output] for batch in samples]).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(len(logits)), samples.labels]
"""


@pytest.mark.nightly
@pytest.mark.parametrize(("metric", "drop"), [("top1", 0.01), ("evaluate.py:log_likelihood", 0.05)])
def test_a_speedup_is_found_that_holds_on_other_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, drop: float
) -> None:
    monkeypatch.chdir(tmp_path)
    train, _ = split_digits(load_digits())
    for number in range(0, len(train.labels), 8):
        folder = Path("digits") / str(train.labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[number]).save(folder / f"{number}.png")
    shutil.copy(ROOT / "models/demo_mnist_vgg.onnx", "demo.onnx")
    Path("evaluate.py").write_text(EVALUATION, encoding="utf-8")
    works(*WORDS, "--no-bench", "--max-drop", str(drop), "--metric", metric, "--report", "r.json", "--quiet")
    report = json.loads(Path("r.json").read_text())
    found, measured = report["max_drop"], report["metric"]
    assert report["speedup"]["macs"] >= found["speedup"] > 1.5
    assert found["found"] <= drop
    calibration = samples_of("demo.onnx", "digits", samples=60, max_drop=drop)
    held_out = calibration.split.held_out
    assert not set(held_out) & {*calibration.split.search, *calibration.split.calibration}
    assert calibration.samples.labels is not None
    feeds, labels = calibration.samples.read(held_out), calibration.samples.labels[held_out]
    logits = [
        next(iter(run(onnx.load(name), feeds).values())).astype(np.float64) for name in ("demo.onnx", "fast.onnx")
    ]
    right = [each.argmax(1) == labels for each in logits]
    if metric == "top1":
        wanted = [each.mean() for each in right]
        lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        assert found["verified_interval"] == pytest.approx(paired_interval(lost, won, len(labels)))
    else:
        rows = np.arange(len(labels))
        wanted = [(each[rows, labels] - np.logaddexp.reduce(each, axis=1)).mean() for each in logits]
        low, high = found["verified_interval"]
        assert low < wanted[0] - wanted[1] < high
    assert [measured["original"], measured["converted"]] == pytest.approx(wanted, rel=1e-4)
    assert found["verified_drop"] == pytest.approx(wanted[0] - wanted[1], abs=1e-5)
