from __future__ import annotations

import subprocess
import sys

import pytest

import onnx_lowrank
from onnx_lowrank import errors
from onnx_lowrank.errors import LowRankError


def test_public_names() -> None:
    assert onnx_lowrank.__all__ == [
        "Benchmark",
        "BudgetError",
        "CalibrationError",
        "Inspection",
        "LayerPlan",
        "LowRankError",
        "MissingDependencyError",
        "ModelError",
        "ModelTiming",
        "OutputError",
        "Pace",
        "Preprocessing",
        "RankError",
        "RankPlan",
        "Result",
        "Settings",
        "Sweep",
        "VerificationError",
        "__version__",
        "bench",
        "compare",
        "convert",
        "inspect",
        "preset",
        "sweep",
    ]
    assert all(hasattr(onnx_lowrank, name) for name in onnx_lowrank.__all__)


def test_importing_it_imports_neither_torch_nor_onnxruntime() -> None:
    code = "import sys, onnx_lowrank; print(sorted({'torch', 'onnxruntime'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_every_error_that_can_be_caught_is_public() -> None:
    known = {
        each.__name__ for each in [LowRankError, *LowRankError.__subclasses__()] if each.__module__ == errors.__name__
    }
    assert known == {name for name in onnx_lowrank.__all__ if name.endswith("Error")}
    assert onnx_lowrank.BudgetError is errors.BudgetError


def test_public_names_are_listed_before_they_are_asked_for_and_no_others() -> None:
    code = "import onnx_lowrank; onnx_lowrank.Settings; print(dir(onnx_lowrank) == sorted(onnx_lowrank.__all__))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
    with pytest.raises(AttributeError, match="module 'onnx_lowrank' has no attribute 'magic'"):
        _ = onnx_lowrank.magic


def test_an_interruption_while_the_program_starts_is_one_line() -> None:
    """Interrupted by itself in the middle of its imports: as soon as numpy is there."""
    code = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "onnx":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
import runpy
runpy.run_module("onnx_lowrank", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: interrupted: nothing was written\n"
