"""Runtimes by name, and what is said where they are not there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.runtime.backends import RuntimeFacts, open_runtime, registry
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.settings import RUNTIMES
from tests.helpers import CPU

PACKAGES = {
    "openvino": "openvino",
    "ncnn": "ncnn",
    "mnn": "_tools",
    "litert": "ai_edge_litert.interpreter",
    "tensorrt": "tensorrt",
}


def test_every_runtime_of_the_settings_has_a_name_here() -> None:
    assert {name.partition(":")[0] for name in RUNTIMES} == set(registry._OPENERS)


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_that_are_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise ImportError(f"No module named '{module}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError) as caught:
        open_runtime(name, CPU)
    package = PACKAGES[name]
    assert str(caught.value) == (
        f"runtime '{name}': {package} cannot be imported (No module named '{package}'): "
        f"pip install 'onnx-lowrank[{name}]'"
    )


def test_litert_without_its_converter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(importlib, "import_module", lambda _: object())
    with pytest.raises(MissingDependencyError, match="no program onnx2tf on PATH.*: pipx install onnx2tf"):
        open_runtime("litert", CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tvm", "runtime must be one of onnxruntime, openvino, ncnn, mnn, litert, tensorrt, got 'tvm'"),
        ("openvino:f16", "runtime 'openvino:f16': only openvino:f32 and ncnn:f32 name a precision"),
        ("mnn:f32", "runtime 'mnn:f32': only openvino:f32 and ncnn:f32 name a precision"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        open_runtime(name, CPU)


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "f32"), ("cuda", "tf32")])
def test_onnxruntime(provider: str, precision: str) -> None:
    import onnxruntime

    facts = RuntimeFacts.of(open_runtime("onnxruntime", Provider(provider, 3)))
    assert facts.to_dict() == {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "precision": precision,
        "threads": 3,
    }


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_openvino_is_told_threads_and_precision(threads: int) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    runtime: Any = open_runtime("openvino:f32", Provider("cpu", threads))
    assert runtime._options == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    assert (runtime.precision, runtime.threads) == ("f32", threads)


def test_openvino_names_the_precision_that_it_takes() -> None:
    """Asked before a network is compiled; afterwards the compiled network says the same."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    runtime: Any = open_runtime("openvino", CPU)
    parameter = openvino.opset13.parameter([1, 4], openvino.Type.f32)
    compiled = runtime.compile(openvino.Model([openvino.opset13.relu(parameter)], [parameter]))
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == runtime.precision


def test_openvino_reports_nothing(tmp_path: Path) -> None:
    """Where its telemetry is installed, importing it sends an event, but for CI, and writes into the user's home."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = (
        "import sys\n"
        "from onnx_lowrank.runtime.backends import open_runtime\n"
        "from onnx_lowrank.runtime.provider import Provider\n"
        "open_runtime('openvino', Provider())\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    quiet = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    subprocess.run([sys.executable, "-c", program], env={**quiet, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_ncnn_is_told_threads_and_precision(threads: int) -> None:
    ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed")
    pytest.importorskip("pnnx", reason="pnnx is not installed")
    runtime: Any = open_runtime("ncnn:f32", Provider("cpu", threads))
    options = runtime.new_net().opt
    assert options.num_threads == (threads or ncnn.Net().opt.num_threads)
    assert not options.use_fp16_arithmetic
    assert not options.use_fp16_storage
    assert runtime.version == ncnn.__version__
