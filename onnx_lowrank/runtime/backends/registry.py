"""Open a runtime by its name, or say how to install it."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.runtime.backends.litert import LiteRt
from onnx_lowrank.runtime.backends.mnn import Mnn
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.ncnn import Ncnn
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.backends.openvino import OpenVino
from onnx_lowrank.runtime.backends.protocol import Runtime
from onnx_lowrank.runtime.backends.tensorrt import TensorRt
from onnx_lowrank.runtime.provider import Provider


def open_runtime(name: str, provider: Provider) -> Runtime:
    """Open a runtime.

    Args:
        name: ``onnxruntime``, ``openvino``, ``ncnn``, ``mnn``, ``litert`` or ``tensorrt``; ``openvino:f32`` and
            ``ncnn:f32`` compute in float32 where they would choose less precision.
        provider: where onnxruntime runs; of other runtimes, the number of threads.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
        ValueError: there is no such runtime, or it has no such precision.
    """
    own, _, precision = name.partition(":")
    if own not in _OPENERS:
        raise ValueError(f"runtime must be one of {', '.join(_OPENERS)}, got {own!r}")
    if not precision:
        return _OPENERS[own](provider)
    if precision != "f32" or own not in _PRECISE_OPENERS:
        raise ValueError(f"runtime {name!r}: only openvino:f32 and ncnn:f32 name a precision")
    return _PRECISE_OPENERS[own](provider, precision)


def _openvino(provider: Provider, precision: str | None = None) -> Runtime:
    with _without("openvino_telemetry"):  # would send an event and keep an identifier in the user's home on import
        module = _load("openvino", "openvino")
    return OpenVino(module, provider.threads, precision)


def _ncnn(provider: Provider, precision: str | None = None) -> Runtime:
    return Ncnn(_load("ncnn", "ncnn"), str(_load("pnnx", "ncnn").EXEC_PATH), provider.threads, precision)


def _mnn(provider: Provider) -> Runtime:
    _load("_tools", "mnn")
    return Mnn(_load("MNN", "mnn"), provider.threads)


def _litert(provider: Provider) -> Runtime:
    interpreter = _load("ai_edge_litert.interpreter", "litert")
    beside = Path(sys.executable).with_name("onnx2tf")
    converter = shutil.which("onnx2tf") or (str(beside) if beside.is_file() else None)
    if converter is None:
        raise MissingDependencyError(
            "runtime 'litert': no program onnx2tf on PATH, which converts for it: pipx install onnx2tf (it wants its "
            "own releases of NumPy and ONNX: give it an environment of its own, of Python 3.12 or later, or it is slow)"
        )
    return LiteRt(interpreter, importlib.metadata.version("ai-edge-litert"), converter, provider.threads)


def _tensorrt(_: Provider) -> Runtime:
    version = str(_load("tensorrt", "tensorrt").__version__)
    return TensorRt(_load("polygraphy.backend.trt", "tensorrt"), _load("polygraphy.cuda", "tensorrt"), version)


_OPENERS: dict[str, Callable[[Provider], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "mnn": _mnn,
    "litert": _litert,
    "tensorrt": _tensorrt,
}
_PRECISE_OPENERS = {"openvino": _openvino, "ncnn": _ncnn}  # that take a precision too


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Have imports of a module that is not imported yet fail inside the block, as if it were not installed."""
    if module in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules[module] = None
    try:
        yield
    finally:
        del modules[module]


def _load(module: str, extra: str) -> Any:
    """Import a module, without what it prints.

    Args:
        module: its name.
        extra: of this package, which installs it.

    Raises:
        MissingDependencyError: it is not there, or fails to load.
    """
    try:
        with native_output():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"runtime '{extra}': {module} cannot be imported ({error}): pip install 'onnx-lowrank[{extra}]'"
        ) from error
