"""``--metric``: the user's own measure in compare, conversions, searches and sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import compare, convert
from onnx_lowrank.verify.intervals import paired_interval
from tests.command_line import call, fails, misused, works
from tests.helpers import run, samples_of
from tests.networks import images, network

WORDS = ("in.onnx", "out.onnx", "--data", "data.npy", "--samples", "60", "--no-bench", "--threads", "1")
FAST = (*WORDS, "--speedup", "1.5", "--quiet")
EVALUATION = """
import numpy as np

def confident(predictor, samples):
    '''One score a sample: how sure the network is of its class, as a share.'''
    shares = []
    for batch in samples:
        powers = np.exp(predictor(batch)["scores"])
        shares.extend(powers.max(1) / powers.sum(1))
    return shares

def size(predictor, samples):
    '''One number, on a scale of its own.'''
    return 100 * float(np.abs(np.concatenate([predictor(batch)["scores"] for batch in samples])).mean())
"""


@pytest.fixture(autouse=True)
def _evaluation(folder: Path) -> None:
    Path("evaluate.py").write_text(EVALUATION, encoding="utf-8")
    np.save("data.npy", images(260))


def confidence(model: onnx.ModelProto, data: Any) -> Any:
    """The same as the user's function, from the outputs of plain onnxruntime."""
    powers = np.exp(run(model, {"x": data})["scores"].astype(np.float64))
    return powers.max(1) / powers.sum(1)


def test_a_users_function_in_compare(folder: Path) -> None:
    works(*FAST)
    shown = works("compare", "in.onnx", "out.onnx", "--data", "data.npy", "--metric", "evaluate.py:confident")
    before, after = (confidence(onnx.load(name), np.load("data.npy")).mean() for name in ("in.onnx", "out.onnx"))
    lines = shown.stdout.splitlines()
    assert lines[1].startswith(f"evaluate.py:confident: A {before:.4g}, B {after:.4g} ({after - before:+.4g}, 95 % int")
    assert lines[1].endswith(", on 260 samples)")
    assert (
        f"evaluate.py:confident of the original: {before:.4g} on 260 samples, by running the user's code"
        in shown.stderr
    )
    as_json = ("compare", "in.onnx", "out.onnx", "--data", "data.npy", "--json", "--quiet")
    plain = json.loads(works(*as_json).stdout)
    found = json.loads(works(*as_json, "--metric", "evaluate.py:confident").stdout)
    metric = found.pop("metric")
    assert found == plain
    assert list(metric) == ["name", "original", "converted", "interval", "images", "truth"]
    assert (metric["name"], metric["images"], metric["truth"]) == ("evaluate.py:confident", 260, "")
    assert [metric["original"], metric["converted"]] == pytest.approx([before, after], rel=1e-5)
    assert metric["interval"][0] < before - after < metric["interval"][1]


def test_a_conversion_reports_it_on_held_out_samples(folder: Path) -> None:
    shown = works(
        *WORDS, "--speedup", "1.5", "--metric", "top1", *(f"--report=r.{kind}" for kind in ("json", "html", "md"))
    )
    report = json.loads(Path("r.json").read_text())
    held_out = np.load("data.npy")[samples_of("in.onnx", "data.npy", samples=60).split.held_out]
    same = np.equal(*(run(onnx.load(name), {"x": held_out})["scores"].argmax(1) for name in ("in.onnx", "out.onnx")))
    interval = paired_interval(int((~same).sum()), 0, len(same))
    assert report["metric"] == {
        "name": "top1", "original": 1.0, "converted": same.mean(), "interval": list(interval), "images": len(same),
        "truth": "the original's top class",
    }  # fmt: skip
    assert report["verification"]["outputs"]["scores"]["agreement"] == pytest.approx(same.mean())
    line = next(line for line in shown.stdout.splitlines() if line.startswith("metric"))
    assert line.startswith(f"metric      top1: original 1, converted {same.mean():.4g} ({same.mean() - 1:+.4g}, 95 % ")
    assert f"top1 of the original: 1 on {len(same)} samples, against the original's top class" in shown.stderr
    assert f"Metric top1: original 1, converted {same.mean():.4g}" in Path("r.md").read_text(encoding="utf-8")
    page = Path("r.html").read_text(encoding="utf-8")
    assert f'<dt>top1</dt><dd class="value">1 → {same.mean():.4g}</dd>' in page
    plain = json.loads(works(*WORDS, "--speedup", "1.5", "--force", "--report=r.json") and Path("r.json").read_text())
    varying = {"metric", "seconds", "peak_memory_bytes"}
    assert plain.keys() == report.keys() - {"metric"}
    assert all(plain[key] == report[key] for key in plain.keys() - varying)


@pytest.mark.parametrize(
    ("metric", "drop", "unit"),
    [
        ("evaluate.py:size", ("--max-drop", "7.5"), 1.0),
        ("evaluate.py:size", ("--max-drop", "5%", "--drop-type", "relative"), 0.0),
        ("top1", ("--max-drop", "4%"), 1.0),
    ],
)
def test_a_search_keeps_within_a_drop_on_samples_it_did_not_see(
    folder: Path, metric: str, drop: tuple[str, ...], unit: float
) -> None:
    np.save("data.npy", images(400))
    shown = works(*WORDS, *drop, "--metric", metric, "--report", "r.json")
    report = json.loads(Path("r.json").read_text())
    found, measured = report["max_drop"], report["metric"]
    assert found["speedup"] > 1.05
    assert found["found"] <= found["wanted"]
    assert found["search_images"] + found["verified_images"] == 340
    kind = "relative loss" if "relative" in drop else "loss"
    assert (found["loss"], found["drop_type"]) == (
        f"{kind} of {metric}",
        "relative" if "relative" in drop else "absolute",
    )
    held_out = samples_of("in.onnx", "data.npy", samples=60, max_drop=0.5).split.held_out
    feeds = {"x": np.load("data.npy")[held_out]}
    scores = [run(onnx.load(name), feeds)["scores"].astype(np.float64) for name in ("in.onnx", "out.onnx")]
    if metric == "top1":
        wanted = [1.0, float((scores[0].argmax(1) == scores[1].argmax(1)).mean())]
    else:
        wanted = [100 * float(np.abs(each).mean()) for each in scores]
    assert [measured["original"], measured["converted"]] == pytest.approx(wanted, rel=1e-5)
    loss = (wanted[0] - wanted[1]) / (unit or abs(wanted[0]))
    assert found["verified_drop"] == pytest.approx(loss, rel=1e-3, abs=1e-6)
    assert (found["verified_interval"] is None) == ("size" in metric)
    line = next(line for line in shown.stdout.splitlines() if line.startswith("max-drop"))
    assert f"{found['speedup']:.2f}x, {found['loss']} " in line
    metadata = {each.key: each.value for each in onnx.load("out.onnx").metadata_props}
    assert metadata["onnx_lowrank.target"].startswith(f"max-drop {found['wanted']:g}, speedup ")


def test_a_drop_that_does_not_hold_on_other_samples_is_warned_of(folder: Path) -> None:
    """A function that knows the samples of the search by their number."""
    Path("evaluate.py").write_text(
        "calls = []\n"
        "def forgetful(predictor, samples):\n"
        "    calls.append(len(samples))\n"
        "    return 1.0 if len(samples) > 130 or len(calls) < 3 else 0.5\n"
    )
    shown = call(*WORDS, "--max-drop", "0.1", "--metric", "evaluate.py:forgetful", "--quiet")
    assert shown.exit_code == 0
    assert (
        "warning: max-drop 0.1 is kept on the samples searched with, but not on others: loss of evaluate.py:forgetful "
        "0.5 on 67 samples: add samples, or lower --max-drop"
    ) in shown.stderr


def test_a_sweep_has_it_as_its_axis(folder: Path) -> None:
    words = ("sweep", "in.onnx", "out", "--data", "data.npy", "--samples", "60", "--no-bench", "--speedups", "1.5,3")
    np.save("data.npy", images(160))  # so that as many are held out as in a conversion
    shown = works(*words, "--metric", "evaluate.py:confident", "--models", "--refine", "none")
    found = json.loads(Path("out/sweep.json").read_text())
    held_out = np.load("data.npy")[samples_of("in.onnx", "data.npy", samples=60).split.held_out]
    for point in found["points"]:
        metric = point["metric"]
        pair = [confidence(onnx.load(name), held_out).mean() for name in ("in.onnx", point["model"])]
        assert [metric["original"], metric["converted"]] == pytest.approx(pair, rel=1e-4)
    header = next(line for line in shown.stdout.splitlines() if "target" in line)
    assert "evaluate.py:confident" in header
    page = Path("out/sweep.html").read_text(encoding="utf-8")
    first, last = (f"{point['metric']['converted']:.4g}" for point in found["points"])
    original = found["points"][0]["metric"]["original"]
    assert f"evaluate.py:confident {first} at 1.5×, {last} at 3×, {original:.4g} in the original." in page
    assert "evaluate.py:confident of 2 targets by cost: 1.5x " in page


def test_functions_and_names_from_python() -> None:
    def half(predictor: Any, samples: Any) -> float:
        assert predictor.inputs == ("x",)
        assert predictor.outputs == ("scores",)
        return 0.5

    model, data = network(), {"x": images(30)}
    found = compare(model, model, data, metric=half)
    assert found.metric is not None
    assert (found.metric.name, found.metric.original, found.metric.interval) == ("half", 0.5, None)
    result = convert(model, data, speedup=1.5, metric="top5", bench=False, threads=1)
    assert result.report.metric is not None
    assert (result.report.metric["name"], result.report.metric["converted"]) == ("top5", 1.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "import nowhere_at_all",
            "--metric e.py:f: importing it failed with ModuleNotFoundError: No module named 'nowhere_at_all': correct "
            "it; --debug shows where",
        ),
        ("f = 3", "--metric e.py:f: 'e.py' has no function 'f': check the name"),
        (
            "def f(predictor):\n    return 1",
            "metric e.py:f: failed with TypeError: f() takes 1 positional argument but 2 were given",
        ),
        (
            "def f(predictor, samples):\n    return predictor({'y': 1})",
            "metric e.py:f: failed with RunError: model: onnxruntime cannot run it: ",
        ),
        (
            "import sys\ndef f(predictor, samples):\n    sys.exit('enough')",
            "metric e.py:f: failed with SystemExit: enough (e.py, line 3): correct it",
        ),
        (
            "def f(predictor, samples):\n    pass",
            "metric e.py:f, original network: nothing found, a number, or one for each of 40 samples, is wanted",
        ),
    ],
)
def test_functions_that_fail_do_so_before_anything_is_solved(folder: Path, body: str, message: str) -> None:
    np.save("data.npy", images(100))
    Path("e.py").write_text(body)
    assert message in fails(folder, *FAST, "--metric", "e.py:f")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "top3"], "--metric top3: no metric has this name: take one of top1, top5"),
        (["--metric", "evaluate.py"], "--metric evaluate.py: no function named: write it as file.py:function"),
        (
            ["--metric", "top1", "--labels", "--max-drop", "1%"],
            "--labels and --metric exclude each other: --metric top1",
        ),
        (["--drop-type", "relative", "--max-drop", "1%"], "--drop-type relative goes with --max-drop and --metric"),
        (
            ["--metric", "top1", "--max-drop", "-1"],
            "max-drop: got -1, wanted a number above 0, in the unit of the metric",
        ),
        (
            ["--metric", "top1", "--max-drop", "2", "--drop-type", "relative"],
            "max-drop: got 2, wanted a share above 0 and below 1",
        ),
    ],
)
def test_words_that_are_wrong(folder: Path, words: list[str], message: str) -> None:
    assert message in misused(folder, *WORDS, "--quiet", *words)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:f", "--metric nowhere.py:f: no such file 'nowhere.py': check the path"),
        ("data.npy:f", "--metric data.npy:f: 'data.npy' is no Python file: give one that ends in .py"),
        ("top1:k=3", "metric top1: options 'k=3' found, it takes none: leave them out"),
    ],
)
def test_files_that_are_none(folder: Path, reference: str, message: str) -> None:
    assert message in fails(folder, *FAST, "--metric", reference)


def test_class_names_go_with_a_metric(folder: Path) -> None:
    Path("names.txt").write_text("a\n")
    result = call(*WORDS, "--class-names", "names.txt")
    assert (result.exit_code, "--class-names goes with --labels" in result.stderr) == (2, True)
    assert works(*FAST, "--class-names", "names.txt", "--metric", "top1")
