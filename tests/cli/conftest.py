"""A folder to work in."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.networks import images, network


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and data for it."""
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a loader's folder is added to it
    return tmp_path
