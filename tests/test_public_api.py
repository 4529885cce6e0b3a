from __future__ import annotations

import subprocess
import sys

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
        "__version__",
        "bench",
        "compare",
        "convert",
        "inspect",
        "preset",
    ]
    assert all(hasattr(onnx_lowrank, name) for name in onnx_lowrank.__all__)


def test_importing_it_imports_neither_torch_nor_onnxruntime() -> None:
    code = "import sys, onnx_lowrank; print(sorted({'torch', 'onnxruntime'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
