"""``onnx-lowrank sweep``: what is written, and what is not when something goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import compare, interruption, pipeline
from onnx_lowrank.commands import sweep_points
from tests.command_line import call, fails, works
from tests.helpers import normal

DEMO = Path(__file__).parents[2] / "models/demo_mnist_vgg.onnx"
WORDS = ("sweep", "in.onnx", "out", "--data", "data.npy", "--speedups", "3,1.5", "--no-bench")


def names(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_numbers_and_a_page(folder: Path) -> None:
    shown = works(*WORDS)
    assert names() == ["sweep.html", "sweep.json"]
    found = json.loads(Path("out/sweep.json").read_text())
    assert [point["speedup"]["requested"] for point in found["points"]] == [1.5, 3]
    assert found["input"] == "in.onnx"
    assert found["solved"] == {"refine": "fast", "images": 48}
    html = Path("out/sweep.html").read_text(encoding="utf-8")
    assert "Quick points." not in html  # so few images are all taken
    assert html.count('class="mark ') == 3
    assert "quick " not in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines() if line.strip().endswith(("*", "%"))]
    for row, point in zip(rows, found["points"], strict=True):
        assert row[0] == f"{point['speedup']['requested']:g}x"
        assert row[2 + (row[1][-1].isdigit())] == f"{point['speedup']['macs']:.2f}x"
        assert (row[-1] == "*") == point["on_front"]
    assert max(map(len, shown.stdout.splitlines())) <= 120


def test_models_with_their_reports(folder: Path) -> None:
    works(*WORDS, "--models", "--quiet")
    assert names() == ["in-1.5x.json", "in-1.5x.onnx", "in-3x.json", "in-3x.onnx", "sweep.html", "sweep.json"]
    found = json.loads(Path("out/sweep.json").read_text())
    assert found["solved"]["refine"] == "fast"
    for point in found["points"]:
        path = Path(point["model"])
        assert path == Path("out") / f"in-{point['speedup']['requested']:g}x.onnx"
        report = json.loads(path.with_suffix(".json").read_text())
        assert report["output"] == str(path)
        assert report["macs"]["after"] == point["macs"]
        assert report["verification"]["outputs"] == point["outputs"]
        alike = compare("in.onnx", path, "data.npy", provider="cpu", threads=1)
        assert alike.outputs["scores"].relative_error < 0.5
    assert "Quick points" not in Path("out/sweep.html").read_text(encoding="utf-8")
    single = works("in.onnx", "one.onnx", "--data", "data.npy", "--speedup", "3", "--no-bench", "--quiet")
    assert single.output == ""
    assert Path("one.onnx").read_bytes() == Path("out/in-3x.onnx").read_bytes()


def test_a_target_out_of_reach_is_named(folder: Path) -> None:
    shown = works(*WORDS[:5], "--speedups", "2,900", "--no-bench", "--models")
    assert "warning: target 900x is left out: speedup 900 cannot be reached, the largest" in shown.stderr
    assert "not met" in shown.stdout
    assert names() == ["in-2x.json", "in-2x.onnx", "sweep.html", "sweep.json"]


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_without_the_extra_there_are_numbers_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    shown = works(*WORDS)
    assert names() == ["sweep.json"]
    warning = next(line for line in shown.stderr.splitlines() if "sweep.json" in line)
    assert warning.startswith("warning: sweep.json is written alone: sweep.html: ")
    assert warning.endswith("pip install 'onnx-lowrank[report]'")


def test_files_that_are_there_are_replaced_only_when_forced(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/sweep.json").write_text("mine")
    assert "out/sweep.json: exists already: choose another name, or overwrite it with --force" in fails(folder, *WORDS)
    works(*WORDS, "--force", "--quiet")
    assert json.loads(Path("out/sweep.json").read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["in.onnx", "in.onnx"], 1, "in.onnx: is a file, wanted a folder: choose another name"),
        (["in.onnx", "nowhere/out"], 1, "nowhere/out: folder 'nowhere' does not exist: make it first"),
        (["none.onnx", "out"], 1, "none.onnx: no such file, wanted an ONNX model: check the path"),
        (["in.onnx", "out", "--speedups", "700,900"], 1, "speedup 700 cannot be reached, the largest that can is"),
        (["in.onnx", "out", "--labels"], 1, "no class folders, which --labels reads: drop --labels"),
    ],
)  # fmt: skip
def test_errors_leave_nothing(folder: Path, words: list[str], code: int, message: str) -> None:
    assert message in fails(folder, "sweep", *words, "--data", "data.npy", "--no-bench", "--quiet", code=code)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.onnx"], "Missing argument 'OUT_DIR'"),
        (["in.onnx", "out", "--speedups", "2,1"], "speedup: got 1, wanted a number above 1"),
        (["in.onnx", "out", "--speedups", "nan"], "speedup: got nan, wanted a number above 1"),
        (["in.onnx", "out", "--speedups", "2,fast"], "'2,fast' is not a list of numbers like 2,3,4,5"),
        (["in.onnx", "out", "--latency-table", "t.json"], "--latency-table goes with --cost latency"),
        (["in.onnx", "out", "--cost", "latency", "--no-bench"], "--cost latency is measured: leave out --no-bench"),
    ],
)
def test_usage(folder: Path, words: list[str], message: str) -> None:
    result = call("sweep", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def interrupt(monkeypatch: pytest.MonkeyPatch, target: int) -> None:
    """Interrupt a sweep while the network of a target is verified."""
    real, seen = pipeline.verify_conversion, []

    def interrupted(*args: Any) -> Any:
        seen.append(args)
        if len(seen) == target:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(pipeline, "verify_conversion", interrupted)


def test_an_interruption_at_the_first_target_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 1)
    assert fails(folder, *WORDS, "--models", "--quiet", code=130) == "error: interrupted: nothing was written"
    assert not Path("out").exists()


def test_an_interruption_at_the_second_target_keeps_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, 2)
    shown = call(*WORDS, "--models")
    assert shown.exit_code == 130
    assert shown.stderr.splitlines()[-1] == "error: interrupted: 1 of 2 targets are done and stay in out"
    assert names() == ["in-1.5x.json", "in-1.5x.onnx", "sweep.html", "sweep.json"]
    found = json.loads(Path("out/sweep.json").read_text())
    assert found["complete"] is False
    (point,) = found["points"]
    assert point["model"] == "out/in-1.5x.onnx"
    fewer, agreement = point["speedup"]["macs"], point["outputs"]["scores"]["agreement"]
    done = f"target 1.5x is done: {fewer:.2f}x fewer multiply-adds, same top class {agreement:.2%}"
    assert done in shown.stderr.splitlines()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    works(*WORDS, "--models", "--quiet", "--force")
    again = json.loads(Path("out/sweep.json").read_text())
    assert again["complete"] is True
    assert len(again["points"]) == 2
    assert again["points"][0]["outputs"] == point["outputs"]


def test_a_signal_between_a_network_and_its_line_writes_the_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = sweep_points.write_texts, []

    def write(texts: dict[Path, str]) -> None:
        seen.append(texts)
        if len(seen) == 1:
            monkeypatch.setattr(interruption._state, "number", signal.SIGTERM)
        real(texts)

    monkeypatch.setattr(sweep_points, "write_texts", write)
    shown = call(*WORDS, "--models")
    assert shown.exit_code == 143
    assert shown.stderr.splitlines()[-1] == "error: terminated: 1 of 2 targets are done and stay in out"
    assert names() == ["in-1.5x.json", "in-1.5x.onnx", "sweep.html", "sweep.json"]
    (point,) = json.loads(Path("out/sweep.json").read_text())["points"]
    assert point["model"] == "out/in-1.5x.onnx"


def test_an_interruption_while_latencies_are_measured_keeps_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_lowrank.runtime.latency.ConversionTimer.time_all", interrupted)
    shown = call(*WORDS[:-1], "--quiet")
    assert shown.exit_code == 130
    assert shown.stderr.splitlines()[-1] == "error: interrupted: 2 of 2 targets are done and stay in out"
    found = json.loads(Path("out/sweep.json").read_text())
    assert [len(found["points"]), found["complete"], found["latency"]] == [2, False, None]


def test_a_page_that_cannot_be_written_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target).name == "in-1.5x.json":
            raise PermissionError(1, "Operation not permitted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    error = fails(folder, *WORDS, "--models", "--quiet")
    assert "out/in-1.5x.json: cannot be written (Operation not permitted)" in error


def test_interrupted_by_a_signal_what_is_done_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", np.abs(normal(0, 300, 1, 28, 28)))
    words = [
        sys.executable,
        "-m",
        "onnx_lowrank",
        "sweep",
        str(DEMO),
        "out",
        "--data",
        "digits.npy",
        "--models",
        "--no-bench",
    ]
    words += ["--samples", "60", "--positions", "30", "--threads", "1"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "target 3x" not in (line := process.stderr.readline()):
        assert line, "it ended before it was interrupted"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "error: interrupted: 1 of 4 targets are done and stay in out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.npy", "out"]
    files = ["demo_mnist_vgg-2x.json", "demo_mnist_vgg-2x.onnx", "sweep.html", "sweep.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
