"""PyTorch is an extra: nothing else needs it, and what is missing is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.torch.real_networks import DEMO, ROOT

RUN = f"from onnx_lowrank.torch import to_torch\nmodule = to_torch({str(DEMO)!r})\n"
SAY = """import torch
print(tuple(module(torch.zeros(2, 1, 28, 28)).shape), [name for name in sys.modules if 'torchvision' in name])"""


def python(*lines: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, in which warnings are errors."""
    code = "\n".join(["import sys", *lines])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.parametrize("module", ["onnx_lowrank", "onnx_lowrank.__main__", "onnx_lowrank.cli"])
def test_nothing_else_imports_torch(module: str) -> None:
    done = python(f"import {module}", "print([name for name in sys.modules if name.split('.')[0].startswith('torch')])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("words", [["--help"], ["convert", "--help"], ["inspect", str(DEMO)]], ids=" ".join)
def test_the_command_line_does_not_either(words: list[str]) -> None:
    """It works where torch cannot be imported."""
    done = python(
        "sys.modules['torch'] = None", "from onnx_lowrank.__main__ import main", f"sys.argv[1:] = {words!r}", "main()"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("missing", "program"),
    [
        ("torch", "import onnx_lowrank.torch"),
        ("accelerate", "from onnx_lowrank.torch import finetune"),
        ("safetensors", "import onnx_lowrank.torch as part\npart.to_torch"),
        ("onnx2pytorch", RUN),
    ],
    ids=["torch", "accelerate", "safetensors", "onnx2pytorch"],
)
def test_what_is_missing_is_said(missing: str, program: str) -> None:
    done = python(f"sys.modules[{missing!r}] = None", program)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    name = missing if missing == "onnx2pytorch" else "PyTorch"
    assert last.startswith(f"onnx_lowrank.errors.MissingDependencyError: onnx_lowrank.torch: {name} ")
    assert " is not installed (" in last
    assert last.endswith("): pip install 'onnx-lowrank[torch]'")


BROKEN = {
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "OSError": "raise OSError('undefined symbol')",
    "halfway": "import torchvision.ops\nraise RuntimeError('operator torchvision::nms does not exist')",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_torchvision_does_not_matter(kind: str, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN[kind], encoding="utf-8")
    (tmp_path / "torchvision" / "ops.py").write_text("", encoding="utf-8")
    done = python(f"sys.path.insert(0, {str(tmp_path)!r})", RUN, SAY)
    assert done.returncode == 0, done.stderr
    left = ["torchvision.ops"] if kind == "halfway" else []  # that one is its own
    assert done.stdout in {f"(2, 10) {left}\n", "(2, 10) []\n"}


def test_no_torchvision_does_not_matter_either() -> None:
    done = python("sys.modules['torchvision'] = None", RUN, "sys.modules.pop('torchvision', None)", SAY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 10) []\n"
