"""Files that others write while they are read: cut short in the middle of a run, they are an error like any other.

Each command runs in a process of its own, since a mapped file that is cut ends the process with SIGBUS.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.busy_server.commands import ROOT
from tests.networks import images, network

CUT = """
import os, sys
from onnx_lowrank import pipeline
from onnx_lowrank.graph import read, write
from onnx_lowrank.__main__ import main

read.MAX_LOADED_BYTES = 1_000  # a small model is as one that is too large to be loaded
file, size, step, *sys.argv[1:] = sys.argv[1:]
real = getattr(pipeline, step)

def cut(*args, **options):
    os.truncate(file, int(size))
    return real(*args, **options)

setattr(pipeline, step, cut)
main()
"""
STEPS = ["collect_targets", "measure_rank_losses", "solve_network", "verify_conversion", "time_file", "build_report"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "in.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    np.save(tmp_path / "data.npy", images(400))
    return tmp_path


def run(folder: Path, *words: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-c", CUT, *words, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2"]
    done = subprocess.run(
        [*command, "--quiet", "--threads", "1"], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("size", [0, 1000, 200_000])
@pytest.mark.parametrize("step", STEPS[:4])
def test_data(folder: Path, step: str, size: int) -> None:
    code, lines = run(folder, "data.npy", str(size), step)
    assert code == 1, lines
    assert len(lines) == 1
    assert lines[0].startswith(f"error: data.npy: cannot be read any more (ends after {size} bytes, ")
    assert lines[0].endswith("are wanted), and was whole when it was opened: leave it alone until the run has ended")
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "in.onnx", "weights"]


@pytest.mark.parametrize("size", [0, 5_000])
@pytest.mark.parametrize("step", STEPS)
def test_weights(folder: Path, step: str, size: int) -> None:
    """Later steps may hold what they need already, and are then right."""
    code, lines = run(folder, "weights", str(size), step)
    if code == 0:
        onnx.checker.check_model(onnx.load(folder / "out.onnx"), full_check=True)
        return
    assert code == 1, lines
    assert len(lines) == 1
    assert f"external data file '{folder / 'weights'}' cannot be read any more (ends after {size} bytes, " in lines[0]
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "in.onnx", "weights"]
