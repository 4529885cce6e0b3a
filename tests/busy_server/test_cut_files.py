"""Files that others write while they are read: cut short in the middle of a run, they are an error like any other.

Each command runs in a process of its own, since a mapped file that is cut ends the process with SIGBUS.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import forked
from tests.busy_server.disturbed import cut_short
from tests.networks import images, network

STEPS = ["collect_targets", "measure_rank_losses", "solve_network", "verify_conversion", "time_file", "build_report"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "in.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    np.save(tmp_path / "data.npy", images(400))
    return tmp_path


def run(folder: Path, cut: partial[None]) -> tuple[int, list[str]]:
    words = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--quiet", "--threads", "1")
    done = forked.run(folder, *words, prepare=cut)
    return done.code, done.errors.splitlines()


@pytest.mark.parametrize("size", [0, 1000, 200_000])
@pytest.mark.parametrize("step", STEPS[:4])
def test_data(folder: Path, step: str, size: int) -> None:
    code, lines = run(folder, partial(cut_short, "data.npy", size, step))
    assert code == 1, lines
    assert len(lines) == 1
    assert lines[0].startswith(f"error: data.npy: cannot be read any more (ends after {size} bytes, ")
    assert lines[0].endswith("are wanted), and was whole when it was opened: leave it alone until the run has ended")
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "in.onnx", "weights"]


@pytest.mark.parametrize("size", [0, 5_000])
@pytest.mark.parametrize("step", STEPS)
def test_weights(folder: Path, step: str, size: int) -> None:
    """Later steps may hold what they need already, and are then right."""
    code, lines = run(folder, partial(cut_short, "weights", size, step))
    if code == 0:
        onnx.checker.check_model(onnx.load(folder / "out.onnx"), full_check=True)
        return
    assert code == 1, lines
    assert len(lines) == 1
    assert f"external data file '{folder / 'weights'}' cannot be read any more (ends after {size} bytes, " in lines[0]
    assert sorted(path.name for path in folder.iterdir()) == ["data.npy", "in.onnx", "weights"]
