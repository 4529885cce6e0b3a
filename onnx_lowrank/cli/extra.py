"""The extra ``[torch]``, imported when a command needs it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def torch_part() -> ModuleType:
    """Import `onnx_lowrank.torch`.

    Raises:
        MissingDependencyError: PyTorch is not installed. Where another package of the extra is not, its names raise it.
    """
    return import_module("onnx_lowrank.torch")
