from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from onnx_lowrank import pipeline
from tests.command_line import call, fails, works
from tests.helpers import build, filters, normal
from tests.networks import images, network

DEMO = Path(__file__).parents[2] / "models/demo_mnist_vgg.onnx"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and data for it."""
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a loader's folder is added to it
    return tmp_path


def test_convert_writes_a_model_a_report_and_a_plan(folder: Path) -> None:
    result = call(
        "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--report", "r.json", "--save-plan", "p.json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(Path("r.json").read_text())
    assert report["schema"] == 1
    assert report["input"] == "in.onnx"
    assert report["output"] == "out.onnx"
    assert report["speedup"]["macs"] >= 2
    assert "fewer" in result.stdout
    assert "spatial" in result.stdout
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


def test_inspect(folder: Path) -> None:
    text = call("inspect", "in.onnx")
    assert text.exit_code == 0
    assert "16 -> 5, identity" in text.stdout
    assert "4 of 4 layers can be factorized" in text.stdout
    found = json.loads(call("inspect", "in.onnx", "--json").stdout)
    assert [layer["eligible"] for layer in found["layers"]] == [True] * 4
    assert found["layers"][2]["residual"] == "r1"


def test_compare_with_labels(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(f"photos/{name}/{number}.png")
    same = call("compare", "in.onnx", "in.onnx", "--data", "photos", "--labels", "--tensor", "r2", "--json")
    assert same.exit_code == 0, same.output
    found = json.loads(same.stdout)
    assert found["outputs"]["scores"] == {"relative_error": 0.0, "cosine": pytest.approx(1.0), "agreement": 1.0}
    assert found["outputs"]["r2"]["agreement"] is None
    assert found["images"] == 8
    assert found["accuracy"]["top1"][0] == found["accuracy"]["top1"][1]
    assert fails(folder, "compare", "in.onnx", "in.onnx", "--data", "photos", "--tensor", "r9").startswith(
        "error: --tensor 'r9': in.onnx has no such tensor"
    )
    assert "no class folders, which --labels reads" in fails(
        folder, "compare", "in.onnx", "in.onnx", "--data", "data.npy", "--labels"
    )


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


def test_names_with_brackets_are_shown_as_they_are(folder: Path) -> None:
    model = network()
    model.graph.node[0].name = "[/x]:star:"
    onnx.save(model, "odd.onnx")
    assert "[/x]:star:" in call("inspect", "odd.onnx").stdout
    converted = call("odd.onnx", "--dry-run", "--data", "data.npy", "--speedup", "2")
    assert converted.exit_code == 0, converted.output
    assert "[/x]:star:" in converted.stdout


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import nowhere_at_all", "importing it failed with ModuleNotFoundError"),
        ("import sys; sys.exit('no data today')", "importing it failed with SystemExit: no data today"),
        ("def batches(path): yield path", "calling it failed with TypeError"),
        ("def batches(): return 3", "returned int: yield dicts"),
        ("def batches():\n    yield {'x': 1 / 0}", "reading a batch from it failed with ZeroDivisionError"),
        ("def batches(): return []", "there are none: give at least one"),
    ],
)
def test_loaders_that_fail(folder: Path, body: str, message: str) -> None:
    Path("loader.py").write_text(body)
    assert message in fails(folder, "in.onnx", "o.onnx", "--data-loader", "loader.py:batches")


def test_a_loader_may_give_all_samples_at_once_and_import_its_neighbours(folder: Path) -> None:
    Path("neighbour_of_loader.py").write_text("import numpy as np\nsamples = np.load('data.npy')\n")
    Path("loader.py").write_text("def batches():\n    import neighbour_of_loader as n\n    return {'x': n.samples}\n")
    result = call("in.onnx", "--dry-run", "--data-loader", "loader.py:batches", "--speedup", "2")
    assert result.exit_code == 0, result.output


def test_data_by_name_and_from_a_loader(folder: Path) -> None:
    assert call("in.onnx", "--dry-run", "--data", "x=data.npy", "--speedup", "2").exit_code == 0
    Path("loader.py").write_text("import numpy as np\ndef batches():\n    yield {'x': np.load('data.npy')}\n")
    assert call("in.onnx", "--dry-run", "--data-loader", "loader.py:batches", "--speedup", "2").exit_code == 0
    assert "has no function 'nothing'" in fails(folder, "in.onnx", "o.onnx", "--data-loader", "loader.py:nothing")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx", "o.onnx"], "none.onnx: no such file, wanted an ONNX model: check the path"),
        ([".", "o.onnx"], ".: a folder, wanted an ONNX model"),
        (["in.onnx", "nowhere/o.onnx"], "nowhere/o.onnx: folder 'nowhere' does not exist: make it first"),
        (["in.onnx", "in.onnx", "--force"], "in.onnx: is the model that is read, which is never written"),
        (["compare", "in.onnx", "in.onnx"], "data: none given, sample inputs are wanted: pass --data"),
        (["in.onnx", "o.onnx", "--data", "gone"], "gone"),
        (["in.onnx", "o.onnx", "--data", "empty"], "empty"),
        (["in.onnx", "o.onnx", "--data", "in.onnx"], "in.onnx"),
        (["in.onnx", "o.onnx", "--data", "y=data.npy"], "data: holds y, the model's inputs are x"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--samples", "999"], "60 usable samples, wanted 999"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "1"], "speedup: got 1, wanted a number above 1"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "fast"], "--speedup: got 'fast', wanted a number"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "900"], "cannot be reached, the largest that can is"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--include", "zzz"], "--include 'zzz': matches none of the 4"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--exclude", "c"], "no layer can be factorized"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json"], "--plan p.json: cannot be read"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--report", "r.pdf"], "r.pdf: ends in '.pdf', .json, .md or"),
        (["in.onnx", "o.onnx", "--data", "data.npy", "--provider", "tensorrt"], "provider 'tensorrt': this onnxr"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_leave_nothing(folder: Path, words: list[str], message: str) -> None:
    Path("empty").mkdir()
    assert message in fails(folder, *words)


def test_data_of_the_wrong_kind(folder: Path) -> None:
    words = ("in.onnx", "o.onnx", "--data", "bad.npy")
    np.save("bad.npy", images(channels=4))
    assert "shape" in fails(folder, *words)
    np.save("bad.npy", np.full((20, 3, 12, 12), "a"))
    assert "bad.npy" in fails(folder, *words)
    spoiled = images()
    spoiled[:, 0, 0, 0] = np.nan
    np.save("bad.npy", spoiled)
    assert "NaN or Inf" in fails(folder, *words)
    np.save("bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "cannot be read as .npy" in fails(folder, *words)


def test_models_that_are_none(folder: Path) -> None:
    good = Path("in.onnx").read_bytes()
    for content in (b"", b"\x93NUMPY random bytes", os.urandom(500), good[: len(good) // 2]):
        Path("bad.onnx").write_bytes(content)
        assert fails(folder, "bad.onnx", "o.onnx", "--data", "data.npy").startswith("error: bad.onnx: ")
        assert fails(folder, "inspect", "bad.onnx").startswith("error: bad.onnx: ")


def test_a_model_that_onnxruntime_cannot_load_keeps_its_message(folder: Path) -> None:
    model = build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Imaginary (x) }")
    onnx.save(model, "odd.onnx")
    assert "Imaginary" in fails(folder, "odd.onnx", "o.onnx", "--data", "data.npy")


def test_no_layer_at_all(folder: Path) -> None:
    onnx.save(build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Relu (x) }"), "plain.onnx")
    assert "no Conv, Gemm or MatMul in the graph" in fails(folder, "plain.onnx", "o.onnx", "--data", "data.npy")


def test_nan_in_weights(folder: Path) -> None:
    model = network()
    spoiled = numpy_helper.to_array(model.graph.initializer[0]).copy()
    spoiled[0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(spoiled, "w1"))
    onnx.save(model, "nan.onnx")
    assert "NaN, infinite or beyond 1e+15 in the original" in fails(folder, "nan.onnx", "o.onnx", "--data", "data.npy")


def test_external_data(folder: Path) -> None:
    words = ("big.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2")
    onnx.save(network(), "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert call(*words).exit_code == 0
    Path("o.onnx").unlink()
    Path("big.bin").rename("elsewhere.bin")
    assert "external data file 'big.bin' of tensor" in fails(folder, *words)
    model = onnx.load("big.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../big.bin"
    onnx.save(model, "big.onnx")
    assert "outside the model's folder" in fails(folder, *words)


def test_unknown_layer_in_a_plan(folder: Path) -> None:
    Path("p.json").write_text('{"layers": [{"name": "nowhere", "method": "channel", "ranks": {"channel": 4}}]}')
    assert "plan: no layer 'nowhere'" in fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json")


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"layers": 3}', '{"layers": [1]}', '{"layers": [{"name": ["c1"], "method": "kept"}]}']
)
def test_a_plan_that_is_none(folder: Path, text: str) -> None:
    Path("p.json").write_text(text)
    words = ("in.onnx", "o.onnx", "--data", "data.npy", "--plan", "p.json")
    assert fails(folder, *words).startswith("error: --plan p.json: not a rank plan (")


def test_folder_that_is_not_writable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert "folder '.' is not writable" in fails(folder, "in.onnx", "o.onnx", "--data", "data.npy")


def test_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--quiet")
    assert "o.onnx: cannot be written (No space left on device): free some space" in found


def test_failed_verification_is_exit_code_three(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_lowrank.verify.conversion.WORST_ERROR", 0.0)
    found = fails(folder, "in.onnx", "o.onnx", "--data", "data.npy", "--speedup", "2", "--quiet", code=3)
    assert "output 'scores': relative error" in found


def test_a_bug_is_one_line_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "convert", broken)
    assert "unexpected ZeroDivisionError: oops: run again with --debug" in fails(
        folder, "in.onnx", "o.onnx", "--data", "data.npy"
    )
    assert "Traceback" in call("in.onnx", "o.onnx", "--data", "data.npy", "--debug").stderr


def test_without_onnxruntime_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed: pip install 'onnx-lowrank[cpu]'" in fails(folder, "inspect", "in.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.onnx"], "Missing argument 'OUT.onnx'"),
        (["in.onnx", "o.onnx", "--frobnicate"], "No such option"),
        (["in.onnx", "o.onnx", "--method", "magic"], "Invalid value for '--method'"),
        (["in.onnx", "o.onnx", "--rank-multiple", "0"], "neither a number above 0 nor auto"),
        (["in.onnx", "o.onnx", "--input-shapes", "1,a"], "is not a shape like NAME:1,3,224,224"),
        (["in.onnx", "o.onnx", "--mean", "x"], "is not a list of numbers"),
        (["in.onnx", "o.onnx", "--data", "a", "--data", "b"], "need the form NAME=PATH"),
        (["in.onnx", "o.onnx", "--data", "x=a", "--data", "x=b"], "--data is given twice for the same input"),
        (["in.onnx", "o.onnx", "--data", "a", "--data-loader", "l.py:b"], "--data and --data-loader exclude each"),
        (
            ["inspect", "in.onnx", "--input-shapes", "1,3,9,9", "--input-shapes", "1,3,8,8"],
            "--input-shapes is given tw",
        ),
    ],
)
def test_usage_errors(folder: Path, words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["inspect", "--help"], ["compare", "--help"], ["sweep", "--help"]])
def test_help_fits_one_screen_and_shows_an_example(words: list[str]) -> None:
    result = call(*words)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any("Example: onnx-lowrank" in line for line in lines)


def test_version() -> None:
    assert call("--version").stdout.startswith("onnx-lowrank, version 0.")


def test_shapes_in_every_notation(folder: Path) -> None:
    graph = "g (float[N, 3, h, w] x) => (float[N, 8, H, W] y) { y = Conv (x, k) }"
    onnx.save(build(graph, {"k": filters(0, 8, 3, 3, 3)}), "open.onnx")
    assert "pass --input-shapes x:1,3,?,?" in fails(folder, "inspect", "open.onnx")
    for shape in ("x:1,3,10,10", "1x3x10x10", "[1,3,10,10]"):
        found = json.loads(call("inspect", "open.onnx", "--json", "--input-shapes", shape).stdout)
        assert found["macs"] == 8 * 8 * 8 * 27
    assert "does not fit input 'x'" in fails(folder, "inspect", "open.onnx", "--input-shapes", "1,4,10,10")
    assert "no input 'z'" in fails(folder, "inspect", "open.onnx", "--input-shapes", "z:1,3,10,10")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_bars_on_a_terminal_leave_stdout_alone(folder: Path) -> None:
    ours, terminal = os.openpty()
    words = [sys.executable, "-m", "onnx_lowrank", "compare", "in.onnx", "in.onnx", "--data", "data.npy", "--json"]
    # What is drawn fits the buffer of the terminal, so it can be read when all is over.
    found = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=terminal, check=True, timeout=60)
    drawn = os.read(ours, 100_000).decode()
    os.close(terminal)
    os.close(ours)
    assert json.loads(found.stdout)["images"] == 60
    assert "\x1b[" in drawn
    assert "1/1" in drawn
    assert drawn.rstrip().endswith("\x1b[?25h"), "the cursor is not shown again"


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


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((f"{LONG}.onnx", "o.onnx"), 2, "cannot be the name of a file"),
        (("in.onnx", f"{LONG}.onnx"), 2, "cannot be the name of a file"),
        (("in.onnx", "o.onnx", "--report", f"{LONG}.json"), 2, "cannot be the name of a file"),
        (("in.onnx", "o.onnx", "--data-loader", f"{LONG}.py:f"), 1, "looking for it failed with OSError"),
        (("in.onnx", "o.onnx", "--data", LONG), 1, "File name too long"),
        (("in.onnx", "o.onnx", "--threads", "10000"), 2, "10000 is not in the range 1<=x<=256"),
    ],
)
def test_names_and_numbers_beyond_all_bounds(folder: Path, words: tuple[str, ...], code: int, message: str) -> None:
    result = call(*words)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not (folder / "o.onnx").exists()


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
