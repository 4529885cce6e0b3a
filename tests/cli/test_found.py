"""The page of a detector's conversion: what both networks find, with a measure and without."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.command_line import works
from tests.metrics.shapes import deep_detector, draw_shapes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw_shapes(tmp_path / "shapes", count=16)
    onnx.save(deep_detector(), tmp_path / "in.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = (
    "in.onnx",
    "out.onnx",
    "--speedup",
    "2",
    "--data",
    "shapes",
    "--resize",
    "stretch",
    "--refine",
    "none",
    "--no-bench",
)


def test_boxes_are_shown_and_measured(folder: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    works(*WORDS, "--metric", "map", "--report", "page.html", "--report", "report.json")
    page, report = Path("page.html").read_text(), json.loads(Path("report.json").read_text())
    metric = report["metric"]
    assert metric["name"] == "map"
    assert metric["truth"].startswith("shapes/annotations.json (")
    assert metric["original"] > 0.3
    assert abs(metric["original"] - metric["converted"]) < 0.1
    assert "What both networks find" in page
    shown = min(12, report["verification"]["images"])
    assert page.count(", original: ") == page.count(", converted: ") == shown


def test_detectors_are_shown_without_a_measure(folder: Path) -> None:
    works(*WORDS, "--report", "page.html")
    page = Path("page.html").read_text()
    assert "What both networks find" in page
    assert ", original: " in page
