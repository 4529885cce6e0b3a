"""Open a runtime by its name, or say how to install it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.runtime.backends.mnn import Mnn
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.ncnn import Ncnn
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.backends.openvino import OpenVino
from onnx_lowrank.runtime.backends.protocol import Runtime
from onnx_lowrank.runtime.provider import Provider


def open_runtime(name: str, provider: Provider) -> Runtime:
    """Open a runtime.

    Args:
        name: ``onnxruntime``, ``openvino``, ``ncnn`` or ``mnn``; ``openvino:f32`` and ``ncnn:f32`` compute in float32
            where they would choose less precision.
        provider: where onnxruntime runs; of other runtimes, the number of threads.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
        ValueError: there is no such runtime, or it has no such precision.
    """
    own, _, precision = name.partition(":")
    if own not in _OPENERS:
        raise ValueError(f"runtime must be one of {', '.join(_OPENERS)}, got {own!r}")
    if precision and (precision != "f32" or own not in {"openvino", "ncnn"}):
        raise ValueError(f"runtime {name!r}: only openvino:f32 and ncnn:f32 name a precision")
    return _OPENERS[own](provider, precision or None)


def _onnxruntime(provider: Provider, precision: str | None) -> Runtime:  # noqa: ARG001
    return OnnxRuntime(provider)


def _openvino(provider: Provider, precision: str | None) -> Runtime:
    return OpenVino(_load("openvino", "openvino"), provider.threads, precision)


def _ncnn(provider: Provider, precision: str | None) -> Runtime:
    return Ncnn(_load("ncnn", "ncnn"), str(_load("pnnx", "ncnn").EXEC_PATH), provider.threads, precision)


def _mnn(provider: Provider, precision: str | None) -> Runtime:  # noqa: ARG001
    _load("_tools", "mnn")
    return Mnn(_load("MNN", "mnn"), provider.threads)


_OPENERS: dict[str, Callable[[Provider, str | None], Runtime]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "mnn": _mnn,
}


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
