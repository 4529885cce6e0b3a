"""Places that are no ordinary files, or stop being that in the middle of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import pipeline
from tests import forked
from tests.busy_server.commands import ROOT
from tests.busy_server.disturbed import read_a_pipe
from tests.command_line import call, fails, works
from tests.networks import images, network

CONVERT = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--quiet")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images())
    monkeypatch.chdir(tmp_path)
    return tmp_path


# OUT


def test_a_link_is_written_through_with_everything_beside_it(folder: Path) -> None:
    Path("real").mkdir()
    for name in ("out.onnx", "r.json", "p.json"):
        Path(name).symlink_to(f"real/{name}")
    works(*CONVERT, "--report", "r.json", "--save-plan", "p.json")
    assert all(Path(name).is_symlink() for name in ("out.onnx", "r.json", "p.json"))
    assert sorted(path.name for path in Path("real").iterdir()) == ["out.onnx", "p.json", "r.json"]
    onnx.checker.check_model(onnx.load("real/out.onnx"))
    assert json.loads(Path("r.json").read_text())["output"] == "out.onnx"
    assert "out.onnx: exists already" in fails(folder, *CONVERT)
    works(*CONVERT, "--force")
    assert Path("out.onnx").is_symlink()


def test_a_link_to_the_model_or_the_data_is_refused(folder: Path) -> None:
    Path("out.onnx").symlink_to("in.onnx")
    assert "out.onnx: is the model that is read, which is never written" in fails(folder, *CONVERT, "--force")
    Path("out.onnx").unlink()
    Path("out.onnx").symlink_to("data.npy")
    assert "out.onnx: is read too, and would be written over" in fails(folder, *CONVERT, "--force")


def test_out_that_becomes_a_folder_gets_no_report_either(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.build_report

    def build(*args: Any) -> Any:
        Path("out.onnx").mkdir()
        return real(*args)

    monkeypatch.setattr(pipeline, "build_report", build)
    error = fails(folder, *CONVERT, "--report", "r.json")
    assert error == (
        "error: out.onnx: cannot be written, as it has become a folder meanwhile: remove it or choose another name"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "in.onnx", "out.onnx"]


# IN


@pytest.mark.parametrize("command", [CONVERT[2:], ("inspect",), ("bench",), ("compare",)], ids=lambda words: words[0])
def test_a_pipe_or_a_device_as_model(folder: Path, command: tuple[str, ...]) -> None:
    os.mkfifo("pipe")
    for source in ("pipe", "/dev/zero", "/dev/stdin"):
        kind = f"error: {source}: a pipe or a device, wanted an ONNX model: write it to a file first"
        if command[0] == "inspect" or command[0] == "bench":
            words = [*command, source]
        elif command[0] == "compare":
            words = ["compare", source, "in.onnx", "--data", "data.npy"]
        else:
            words = [source, "out.onnx", *command]
        done = forked.run(folder, *words, prepare=read_a_pipe, timeout=60)
        assert (done.code, done.errors.splitlines()) == (1, [kind])


# Standard output


def on_a_full_disk(folder: Path, *words: str) -> tuple[int, list[str]]:
    done = forked.run(folder, *words, output="/dev/full")
    return done.code, done.errors.splitlines()


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@needs_full
def test_a_model_that_is_written_counts_though_the_table_cannot_be_shown(folder: Path) -> None:
    code, lines = on_a_full_disk(folder, *CONVERT[:-1])
    assert code == 0
    assert lines[-1] == (
        "warning: standard output: cannot be written (No space left on device); the files are complete"
    )
    assert not [line for line in lines if line.startswith("error") or "Exception" in line]
    onnx.checker.check_model(onnx.load("out.onnx"))


@needs_full
@pytest.mark.parametrize(
    "words", [["inspect", "in.onnx"], ["bench", "in.onnx", "--json"], ["in.onnx", *CONVERT[2:-1], "--dry-run"]]
)
def test_what_is_shown_alone_is_an_error_where_it_cannot_be(folder: Path, words: list[str]) -> None:
    code, lines = on_a_full_disk(folder, *words)
    assert code == 1
    assert lines[-1] == (
        "error: standard output: cannot be written (No space left on device), and holds all that was asked for: free "
        "some space or choose another place"
    )


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    code = f"set -o pipefail; {sys.executable} -m onnx_lowrank inspect in.onnx | true"
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.stderr == ""


# Other people's files


def test_a_cache_of_another_schema_is_measured_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    words = ["in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.2", "--cost", "latency", "--force", "--quiet"]

    def convert() -> None:
        """So small a network may not get faster; nothing else may go wrong."""
        result = call(*words)
        assert result.exit_code == 0 or "cannot be reached, the largest that can is" in result.stderr, result.output

    convert()
    (table,) = cache.rglob("latency-*.json")
    stored = json.loads(table.read_text())
    assert stored["milliseconds"]
    table.write_text(json.dumps({"schema": 99, "machine": stored["machine"], "milliseconds": {"of another kind": 1.0}}))
    convert()
    again = json.loads(table.read_text())
    assert again["schema"] == stored["schema"]
    assert again["machine"] == stored["machine"]
    assert again["milliseconds"].keys() & stored["milliseconds"].keys()
    assert "of another kind" not in again["milliseconds"]


def test_onnxruntime_leaves_nothing_of_its_own(folder: Path) -> None:
    """It would keep an identifier of the device and a queue of events in the user's cache, and a file in TMPDIR."""
    places = {name: folder / name for name in ("home", "temporary")}
    for place in places.values():
        place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"XDG_CACHE_HOME"}}
    environment |= {"HOME": str(places["home"]), "TMPDIR": str(places["temporary"]), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "onnx_lowrank", *CONVERT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [path for place in places.values() for path in place.rglob("*") if path.is_file()] == []
