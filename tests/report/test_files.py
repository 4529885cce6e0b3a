"""Where a conversion writes: a place that cannot be written is found before anything is solved."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_lowrank import convert, pipeline
from onnx_lowrank.errors import OutputError
from onnx_lowrank.report.files import OutputFiles
from tests.networks import images, network


@pytest.mark.parametrize("which", ["model", "report", "plan"])
def test_a_missing_folder_is_found_first(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "open_conversion", None)  # or it would be called
    place = tmp_path / "missing" / "file.json"
    files = {"model": OutputFiles(place), "report": OutputFiles(reports=(place,)), "plan": OutputFiles(plan=place)}
    with pytest.raises(OutputError, match="folder '.*missing' does not exist: make it first"):
        convert(network(), {"x": images()}, output=files[which])


def test_a_dry_run_needs_no_place_for_a_model(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path / "missing" / "out.onnx", (tmp_path / "r.json",), tmp_path / "plan.json")
    convert(network(), {"x": images()}, output=files, dry_run=True, speedup=2, bench=False, provider="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "r.json"]
