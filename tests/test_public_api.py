from __future__ import annotations

import subprocess
import sys

import pytest

import onnx_lowrank


def test_public_names() -> None:
    assert onnx_lowrank.__all__ == [
        "Benchmark",
        "Inspection",
        "LayerPlan",
        "ModelTiming",
        "Pace",
        "Preprocessing",
        "RankPlan",
        "Result",
        "Settings",
        "Sweep",
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


def test_every_public_name_is_listed_before_it_is_asked_for() -> None:
    code = "import onnx_lowrank; print(set(onnx_lowrank.__all__) <= set(dir(onnx_lowrank)))"
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
