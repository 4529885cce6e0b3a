"""What a newcomer calls first: no speedup, a preview, an inspection with data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank import pipeline
from onnx_lowrank.settings import PREVIEW_POSITIONS
from onnx_lowrank.solve.width import FULL_EFFORT, QUICK_EFFORT
from tests.command_line import call, works

QUIET = ("--data", "data.npy", "--no-bench", "--quiet")
REPORTS = ("--report", "r.json", "--report", "r.md", "--report", "r.html")
NOTE = "predicted from the errors of single layers before anything is solved: "


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("r.json").read_text())
    return found


def test_without_a_speedup_one_is_picked_that_is_predicted_to_lose_little(folder: Path) -> None:
    shown = works("in.onnx", "out.onnx", "--data", "data.npy", "--no-bench", "--report", "r.json")
    found = report()
    picked = found["speedup"]["requested"]
    assert 1.05 <= picked < 4
    assert found["predicted_error"] <= 0.25
    line = (
        f"speedup {picked:g} is picked: the largest up to 4 with a predicted error of at most 0.25; --speedup 4 takes"
    )
    assert line in shown.stderr
    assert f"predicted error {found['predicted_error']:.2g} (little)" in shown.stderr.splitlines()
    metadata = {each.key: each.value for each in onnx.load("out.onnx").metadata_props}
    assert metadata["onnx_lowrank.target"] == f"speedup {picked:g} (macs)"


@pytest.mark.parametrize("words", [["--speedup"], ["--speedup", "4"], ["--speedup", "--seed", "0"]])
def test_speedup_without_a_number_is_four(folder: Path, words: list[str]) -> None:
    works("in.onnx", "out.onnx", *QUIET, "--report", "r.json", *words)
    assert report()["speedup"]["requested"] == 4


@pytest.mark.parametrize(("value", "found"), [("-3", "got -3"), ("out.onnx", "got 'out.onnx'")])
def test_what_follows_a_speedup_is_its_value(folder: Path, value: str, found: str) -> None:
    result = call("in.onnx", "o.onnx", *QUIET, "--speedup", value)
    assert result.exit_code == 2
    assert f"speedup: {found}, wanted a number above 1: try --speedup" in result.stderr


def test_a_target_of_another_kind_picks_nothing(folder: Path) -> None:
    works("in.onnx", "--dry-run", *QUIET, "--speedup", "2", "--save-plan", "p.json")
    works("in.onnx", "out.onnx", *QUIET, "--plan", "p.json", "--report", "r.json")
    assert report()["speedup"]["requested"] is None


def test_a_dry_run_ends_with_what_speedups_are_predicted_to_lose(folder: Path) -> None:
    words = ("in.onnx", "--dry-run", "--data", "data.npy", "--no-bench", "--speedup", "2", "--report", "r.json")
    lines = works(*words).stdout.splitlines()
    found = report()
    assert f"predicted   relative error of about {found['predicted_error']:.2f}" in "\n".join(lines)
    start = lines.index("speedup  predicted error")
    for line, each in zip(lines[start + 1 :], found["estimates"], strict=False):
        error = "" if each["predicted_error"] is None else f"{each['predicted_error']:.2f} "
        assert line.startswith(f"{each['speedup']:g}x".ljust(9) + f"{error}({each['verdict']})")
    assert [each["speedup"] for each in found["estimates"]] == [1.2, 1.5, 2, 3, 4]
    assert lines[-1].startswith(NOTE)


def test_inspect_predicts_with_data_and_says_so_without(folder: Path) -> None:
    lines = works("inspect", "in.onnx").stdout.splitlines()
    assert lines[-1] == "what a speedup would lose is predicted with --data"
    assert "estimates" not in json.loads(works("inspect", "in.onnx", "--json").stdout)
    lines = works("inspect", "in.onnx", "--data", "data.npy", "--quiet").stdout.splitlines()
    assert lines[-1].startswith(NOTE)
    found = json.loads(works("inspect", "in.onnx", "--data", "data.npy", "--quiet", "--json").stdout)["estimates"]
    assert [line.split()[0] for line in lines[-6:-1]] == ["1.2x", "1.5x", "2x", "3x", "4x"]
    works("in.onnx", "--dry-run", *QUIET, "--speedup", "2", "--report", "r.json")
    for each, planned in zip(found, report()["estimates"], strict=True):
        assert each["predicted_error"] == pytest.approx(planned["predicted_error"], rel=0.2)


def test_a_preview_takes_few_samples_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    efforts: list[Any] = []
    real = pipeline.solve_layer

    def watched(layer: Any, rows: Any, ranks: Any, solver: str, refine: str, kept: Any, effort: Any) -> Any:
        efforts.append((refine, effort))
        return real(layer, rows, ranks, solver, refine, kept, effort)

    monkeypatch.setattr(pipeline, "solve_layer", watched)
    shown = works("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--preview", *REPORTS)
    found = report()
    assert found["preview"] is True
    assert "**A preview**: the whole conversion takes longer and loses less." in Path("r.md").read_text()
    assert '<p class="warning" id="preview"' in Path("r.html").read_text(encoding="utf-8")
    assert found["calibration"]["images"] == 32
    assert found["calibration"]["positions_per_image"] == PREVIEW_POSITIONS
    assert found["verification"]["images"] == 28
    assert found["latency"] is None
    assert set(efforts) == {("none", QUICK_EFFORT)}
    assert "preview     a first look: the whole conversion takes longer and loses less" in shown.stdout.splitlines()
    onnx.checker.check_model("out.onnx")
    efforts.clear()
    works("in.onnx", "out.onnx", *QUIET, "--speedup", "2", *REPORTS, "--force", "--samples", "20")
    assert report()["preview"] is False
    assert "preview" not in Path("r.md").read_text().lower()
    assert 'id="preview"' not in Path("r.html").read_text(encoding="utf-8")
    assert set(efforts) == {("fast", FULL_EFFORT)}


def test_a_preview_takes_as_many_samples_as_are_asked_for(folder: Path) -> None:
    works("in.onnx", "out.onnx", *QUIET[:2], "--speedup", "2", "--preview", "--samples", "40", "--report", "r.json")
    assert report()["calibration"]["images"] == 40


@pytest.mark.parametrize("words", [["--cost", "latency"], ["--max-drop", "1%"]])
def test_a_preview_measures_nothing(folder: Path, words: list[str]) -> None:
    result = call("in.onnx", "out.onnx", "--data", "data.npy", "--preview", *words)
    assert result.exit_code == 2
    assert f"--preview and {words[0]}" in result.stderr
