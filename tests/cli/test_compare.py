"""The command ``compare``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import call, fails


def test_compare_with_labels(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("0", "3"):
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
    assert "60/60" in drawn
    assert drawn.rstrip().endswith("\x1b[?25h"), "the cursor is not shown again"
