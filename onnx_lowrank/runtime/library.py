"""onnxruntime itself: the optional import, its version, its log, and the CUDA libraries that it needs."""

from __future__ import annotations

import io
import logging
import os
from contextlib import redirect_stdout
from functools import cache
from typing import Any

from onnx_lowrank.errors import MissingDependencyError

log = logging.getLogger(__name__)

_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def load_onnxruntime() -> Any:
    """Return the module ``onnxruntime``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415  (optional: installed by an extra)
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed: pip install 'onnx-lowrank[cpu]', "
            "or 'onnx-lowrank[gpu]' for CUDA and TensorRT"
        ) from error
    return onnxruntime


def version() -> str:
    """Return the version of onnxruntime."""
    return str(load_onnxruntime().__version__)


def silence() -> None:
    """Have onnxruntime print nothing by itself in this process, and report nothing; exceptions carry its messages."""
    os.environ.setdefault(_NO_TELEMETRY, "1")  # looked at when it is imported
    runtime = load_onnxruntime()
    runtime.set_default_logger_severity(4)
    disable = getattr(runtime, "disable_telemetry_events", None)  # not in every build
    if disable and os.environ[_NO_TELEMETRY] != "0":
        disable()


@cache
def load_cuda_libraries() -> None:
    """Load the CUDA and cuDNN libraries that pip installed, once: onnxruntime does not look there by itself."""
    preload = getattr(load_onnxruntime(), "preload_dlls", None)  # since 1.21
    if preload is None:
        return
    with redirect_stdout(io.StringIO()) as printed:
        preload()
    for line in filter(None, printed.getvalue().splitlines()):
        log.info("onnxruntime: %s", line)
