"""The main command: what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.command_line import call, fails, works
from tests.helpers import normal

DEMO = Path(__file__).parents[2] / "models/demo_mnist_vgg.onnx"


def test_convert_writes_a_model_a_report_and_a_plan(folder: Path) -> None:
    result = call(
        "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "3", "--report", "r.json", "--save-plan", "p.json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(Path("r.json").read_text())
    assert report["schema"] == 1
    assert report["input"] == "in.onnx"
    assert report["output"] == "out.onnx"
    assert report["speedup"]["macs"] >= 2
    assert "fewer" in result.stdout
    plan = json.loads(Path("p.json").read_text())
    for layer in plan["layers"]:
        assert any(line.split()[:2] == [layer["name"], layer["method"]] for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert "\x1b" not in result.output
    again = call("in.onnx", "again.onnx", "--data", "data.npy", "--plan", "p.json", "--quiet")
    assert again.exit_code == 0
    assert again.output == ""
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["in.onnx", "data.npy", "out.onnx", "r.json", "p.json", "again.onnx"]
    )


def test_existing_output_is_replaced_only_when_forced(folder: Path) -> None:
    Path("out.onnx").write_text("mine")
    words = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2")
    assert fails(folder, *words) == "error: out.onnx: exists already: choose another name, or overwrite it with --force"
    assert call(*words, "--force").exit_code == 0
    onnx.checker.check_model("out.onnx")


def test_dry_run_writes_nothing_but_what_was_asked_for(folder: Path) -> None:
    result = call("in.onnx", "--dry-run", "--data", "data.npy", "--speedup", "2", "--save-plan", "p.json")
    assert result.exit_code == 0, result.output
    assert [entry["name"] for entry in json.loads(Path("p.json").read_text())["layers"]] == ["c1", "c2", "c3"]
    assert not (folder / "out.onnx").exists()


def test_a_quiet_dry_run_prints_the_plan(folder: Path) -> None:
    words = ("in.onnx", "--dry-run", "--data", "data.npy", "--speedup", "2", "--quiet")
    result = works(*words, "--save-plan", "p.json")
    assert result.stdout == Path("p.json").read_text()
    assert result.stderr == ""
    Path("q.json").write_text(works(*words).stdout)
    works("in.onnx", "a.onnx", "--data", "data.npy", "--plan", "q.json", "--no-bench", "--quiet")
    works("in.onnx", "b.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--quiet")
    assert onnx.load("a.onnx").graph == onnx.load("b.onnx").graph


def test_measuring_changes_nothing_in_what_is_written(folder: Path) -> None:
    words = ("--data", "data.npy", "--speedup", "2", "--quiet")
    works("in.onnx", "a.onnx", *words)
    works("in.onnx", "b.onnx", *words, "--no-bench")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["outputs", "none"])
def test_errors_are_weighed_as_asked_for(folder: Path, kind: str) -> None:
    if kind == "outputs":
        pytest.importorskip("torch")
    words = ["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--report", "r.json"]
    works(*words, "--weighting", kind)
    report = json.loads((folder / "r.json").read_text())
    assert report["weighting"] == kind
    assert ("weigh" in report["seconds"]) == (kind == "outputs")
    refused = call(*words, "--force", "--weighting", "all")
    assert refused.exit_code == 2
    assert "'all' is not one of 'auto', 'outputs', 'none'" in refused.stderr


def test_images_that_cannot_be_decoded_are_left_out_unless_all_are(folder: Path) -> None:
    Path("photos").mkdir()
    for number in range(12):
        Image.fromarray(np.full((12, 12, 3), number, np.uint8)).save(f"photos/{number}.png")
    Path("photos/bad.png").write_bytes(b"no image")
    converted = call("in.onnx", "out.onnx", "--data", "photos", "--speedup", "1.5")
    assert converted.exit_code == 0, converted.output
    assert converted.stderr.count("warning: 1 images cannot be decoded and are left out (bad.png") == 1
    compared = call("compare", "in.onnx", "out.onnx", "--data", "photos")
    assert compared.exit_code == 0, compared.output
    assert "images: 12" in compared.stdout
    assert "warning: 1 images cannot be decoded" in compared.stderr
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no image")
    assert "can be decoded" in fails(folder, "in.onnx", "o.onnx", "--data", "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    np.save(tmp_path / "digits.npy", np.abs(normal(0, 400, 1, 28, 28)))
    command = [
        sys.executable,
        "-m",
        "onnx_lowrank",
        str(DEMO),
        "out.onnx",
        "--data",
        "digits.npy",
        "--positions",
        "400",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "collect" not in (line := process.stderr.readline()):
        assert line, "it ended before it was interrupted"
    time.sleep(0.5)
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["digits.npy"]


@pytest.mark.parametrize("lost", ["r/a.json", "r/plan.json"])
def test_nothing_is_written_where_a_report_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """The place of a report goes away while the network is converted."""
    (folder / "r").mkdir()
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if str(target) == lost:
            raise PermissionError(1, "Operation not permitted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    words = ["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--quiet", "--no-bench"]
    written = ["--report", "r/a.json", "--save-plan", "r/plan.json"]
    if lost == "r/a.json":
        written = written[:2]
    assert f"{lost}: cannot be written (Operation not permitted)" in fails(folder, *words, *written)


@pytest.mark.parametrize("written", ["data.npy", "p.json", "load.py", "in.onnx"])
@pytest.mark.parametrize("option", ["--save-plan", "out"])
def test_nothing_that_is_read_is_written_over(folder: Path, written: str, option: str) -> None:
    works("in.onnx", "--dry-run", "--data", "data.npy", "--save-plan", "p.json", "--speedup", "2", "--quiet")
    Path("load.py").write_text("def f():\n    yield {}\n")
    source = ["--data-loader", "load.py:f"] if written == "load.py" else ["--data", "x=data.npy"]
    words = ["in.onnx", *([written, "--force"] if option == "out" else ["o.onnx", option, written]), *source]
    error = fails(folder, *words, "--plan", "p.json")
    assert f"{written}: is" in error
    assert "choose another name" in error


def test_reports_of_both_kinds_say_the_same(folder: Path) -> None:
    words = ["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--quiet"]
    works(*words, "--report", "r.json", "--report", "R.MD")
    found, text = json.loads(Path("r.json").read_text()), Path("R.MD").read_text()
    assert text.startswith(f"# in.onnx, {found['speedup']['macs']:.2f}x fewer multiply-adds")
    assert all(f"| {layer['name']} ({layer['op']}) | {layer['method']} |" in text for layer in found["layers"])
