"""``--max-drop``: the largest speedup that keeps within a loss, on data kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from onnx_lowrank import convert
from onnx_lowrank.ranks import search
from onnx_lowrank.verify.intervals import paired_interval, share_interval
from tests.command_line import call, fails, misused, works
from tests.helpers import relative, run, samples_of
from tests.networks import images, network

COUNT = 700
HOW: dict[str, Any] = {"samples": 60, "bench": False, "provider": "cpu", "threads": 1}
WORDS = ("in.onnx", "out.onnx", "--data", "data.npy", "--samples", "60", "--no-bench", "--threads", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and data for it."""
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images(COUNT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_found_holds_and_little_more_does_not(folder: Path) -> None:
    shown = works(*WORDS, "--max-drop", "3%", "--report", "r.json", "--report", "r.html", "--report", "r.md")
    report = json.loads(Path("r.json").read_text())
    found = report["max_drop"]
    assert (found["wanted"], found["confidence"], found["loss"]) == (0.03, 0.95, "other top class")
    assert found["search_images"] + found["verified_images"] == COUNT - 60
    assert found["found"] <= 0.03
    assert report["speedup"]["requested"] is None
    assert report["speedup"]["macs"] >= found["speedup"] > 1.05
    assert [found["speedup"], found["found"]] in found["tried"]
    assert all(drop > 0.03 for speedup, drop in found["tried"][-4:] if speedup > found["speedup"])
    calibration = samples_of("in.onnx", "data.npy", max_drop=0.03, **HOW)
    split = calibration.split
    assert not set(split.search) & set(split.calibration) | set(split.search) & set(split.held_out)
    for indices, drop, interval in (
        (split.search, "found", "interval"),
        (split.held_out, "verified_drop", "verified_interval"),
    ):
        feeds = calibration.samples.read(indices)
        classes = [run(onnx.load(name), feeds)["scores"].argmax(1) for name in ("in.onnx", "out.onnx")]
        other = int((classes[0] != classes[1]).sum())
        assert found[drop] == pytest.approx(other / len(indices), abs=1e-12, rel=0)
        assert found[interval] == pytest.approx(share_interval(other, len(indices)), abs=1e-12, rel=0)
    assert report["verification"]["images"] == found["verified_images"]
    tried = [line for line in shown.stderr.splitlines() if line.startswith("max-drop 0.03: attempt")]
    assert sum(line.endswith(("within", "too much")) for line in tried) == len(found["tried"])
    assert "max-drop 0.03: attempt 1, 2.00x: other top class" in shown.stderr
    line = next(line for line in shown.stdout.splitlines() if line.startswith("max-drop"))
    assert f"0.03: {found['speedup']:.2f}x, other top class {found['found']:.2%} on {len(split.search)}" in line
    html, markdown = (Path(f"r.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert f"other top class at most 3.00%: {found['speedup']:.2f}x" in html
    assert all(f"{found['verified_drop']:.2%}" in text for text in (html, markdown))
    metadata = {each.key: each.value for each in onnx.load("out.onnx").metadata_props}
    assert metadata["onnx_lowrank.target"].startswith("max-drop 0.03, speedup ")


def test_the_network_is_that_of_a_conversion_to_the_speedup_found() -> None:
    data = {"x": images(COUNT)}
    found = convert(network(), data, max_drop=0.03, **HOW)
    assert found.report.max_drop is not None
    alone = convert(network(), data, speedup=found.report.max_drop["speedup"], **HOW)
    assert found.plan == alone.plan
    assert found.model is not None
    assert alone.model is not None
    assert found.model.graph == alone.model.graph


def test_losses_of_top_1_with_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    model = network()
    pixels = generator.integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
    scores = run(model, {"x": (pixels / 255).astype(np.float32).transpose(0, 3, 1, 2)})["scores"]
    truth = (scores + 0.3 * generator.standard_normal(scores.shape)).argmax(1)
    for number, label in enumerate(truth):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(tmp_path / "photos" / str(label) / f"{number:03}.png")
    labels = len(list((tmp_path / "photos").iterdir()))
    assert labels >= 2
    found = convert(model, tmp_path / "photos", max_drop=0.05, labels=True, **HOW)
    drop = found.report.max_drop
    assert drop is not None
    assert drop["loss"] == "loss of top-1"
    calibration = samples_of(model, tmp_path / "photos", max_drop=0.05, labels=True, **HOW)
    indices = calibration.split.held_out
    assert found.model is not None
    feeds, wanted = calibration.samples.read(indices), calibration.truth(indices)
    before, after = (run(some, feeds)["scores"].argmax(1) == wanted for some in (model, found.model))
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    assert drop["verified_drop"] == pytest.approx((lost - won) / len(indices), abs=1e-12, rel=0)
    assert drop["verified_interval"] == pytest.approx(paired_interval(lost, won, len(indices)), abs=1e-12, rel=0)


def test_relative_errors_of_networks_without_classes() -> None:
    model = network()
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("r3", onnx.TensorProto.FLOAT, ["N", 16, 12, 12]))
    del model.graph.node[-3:]
    data = images(300)
    found = convert(model, {"x": data}, max_drop=0.1, **HOW)
    drop = found.report.max_drop
    assert drop is not None
    assert (drop["loss"], drop["found"] <= 0.1) == ("relative error", True)
    calibration = samples_of(model, {"x": data}, max_drop=0.1, **HOW)
    feeds = calibration.samples.read(calibration.split.held_out)
    assert found.model is not None
    error = relative(run(model, feeds)["r3"], run(found.model, feeds)["r3"])
    assert drop["verified_drop"] == pytest.approx(error, rel=1e-4, abs=0)
    low, high = drop["verified_interval"]
    assert low < error < high


def test_a_loss_on_other_samples_that_is_clearly_more_is_said_aloud(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = search.largest_speedup

    def careless(attempt: Any, allowed: float) -> Any:
        return real(attempt, 0.5)

    monkeypatch.setattr("onnx_lowrank.pipeline.largest_speedup", careless)
    shown = works(*WORDS, "--max-drop", "0.001")
    assert "warning: max-drop 0.001 is kept on the samples searched with, but not on others: other top" in shown.stderr


def test_a_dry_run_plans_what_would_be_found(folder: Path) -> None:
    works(*WORDS[:1], *WORDS[2:], "--dry-run", "--max-drop", "0.1", "--save-plan", "p.json", "--report", "r.json")
    found = json.loads(Path("r.json").read_text())["max_drop"]
    assert (found["verified_images"], found["verified_drop"], found["verified_interval"]) == (None, None, None)
    assert not (folder / "out.onnx").exists()
    works(*WORDS, "--max-drop", "10%", "--save-plan", "q.json", "--quiet")
    assert Path("q.json").read_bytes() == Path("p.json").read_bytes()


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("0", "max-drop: got 0, wanted a share above 0 and below 1: try --max-drop 0.01"),
        ("1", "max-drop: got 1, wanted a share above 0 and below 1"),
        ("-1%", "max-drop: got -0.01, wanted a share above 0 and below 1"),
        ("200%", "max-drop: got 2, wanted a share above 0 and below 1"),
        ("nan", "max-drop: got nan, wanted a share above 0 and below 1"),
        ("little", "--max-drop: got 'little', wanted a share: try --max-drop 0.01 or 1%"),
    ],
)
def test_losses_that_are_none(folder: Path, drop: str, message: str) -> None:
    assert message in misused(folder, *WORDS, f"--max-drop={drop}", "--quiet")


def test_a_loss_that_cannot_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.ranks.search.MIN_SPEEDUP", 1.8)  # 1.05x may lose nothing at all of so few samples
    message = "max-drop 1e-09: no speedup of 1.8 or more stays within it; the smallest tried, 1.80: other top cla"
    assert message in fails(folder, *WORDS, "--max-drop=1e-9", "--quiet")


@pytest.mark.parametrize(("drop", "warned"), [("0.02", False), ("0.005", True)])
def test_samples_that_say_little_of_so_small_a_loss(folder: Path, drop: str, warned: bool) -> None:
    shown = call(*WORDS, "--max-drop", drop, "--quiet")
    # Of 426 samples without a loss 3.84 / 429.84 is the upper end of the interval.
    text = f"warning: max-drop {drop}: 426 samples to search with tell losses below 0.0089 from none badly: add samples"
    assert (text in shown.stderr) == warned


def test_too_few_samples_to_search_with(folder: Path) -> None:
    np.save("data.npy", images(61))
    assert "1 samples are left beside those to solve with, --max-drop wants some to search with and others to" in fails(
        folder, *WORDS, "--max-drop", "0.1", "--quiet"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speedup", "2"], "--speedup and --max-drop exclude each other"),
        (["--speedup", "4"], "--speedup and --max-drop exclude each other"),
        (["--plan", "p.json"], "--max-drop and --plan exclude each other"),
    ],
)
def test_one_target_only(folder: Path, words: list[str], message: str) -> None:
    result = call(*WORDS, "--max-drop", "0.1", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_labels_go_with_a_loss(folder: Path) -> None:
    result = call(*WORDS, "--labels")
    assert result.exit_code == 2
    assert "--labels goes with --max-drop" in result.stderr
