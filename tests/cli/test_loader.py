"""Data from a function of the user's, and by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import call, fails


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
