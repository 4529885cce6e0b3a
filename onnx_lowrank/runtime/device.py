"""The device that a provider runs on: its name, its free memory, and the block of channels that suits its kernels.

A GPU is asked through NVML, the library of NVIDIA's driver (package nvidia-ml-py).
"""

from __future__ import annotations

import logging
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.rank_multiples import channel_block

log = logging.getLogger(__name__)


def rank_block(provider: Provider, runtime: str = "onnxruntime") -> int:
    """Return the number of channels that kernels process at a time: multiples of it run fast.

    Args:
        provider: where onnxruntime runs.
        runtime: that runs networks.
    """
    return channel_block(runtime, provider.kernels, has_avx512="avx512f" in _cpuinfo())


def device_name(provider: Provider) -> str:
    """Return what identifies a device in a table of latencies: model and, for a CPU, cores and block."""
    if not provider.on_cpu:
        return _gpu_name()
    models = (line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name"))
    board = _text(Path("/proc/device-tree/model")).strip("\0 \n")  # where /proc/cpuinfo names no model
    model = next(models, None) or board or platform.processor() or platform.machine()
    return f"{model}, {cpu_count()} cores, blocks of {rank_block(provider)}"


def cpu_count() -> int:
    """Return the number of cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _cpuinfo() -> str:
    return _text(Path("/proc/cpuinfo"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return ""


def free_on_device(provider: Provider) -> int:
    """Return the free bytes of a GPU's memory; 0 for a CPU, and where the driver does not say."""
    memory = None if provider.memory == "cpu" else _ask_driver("nvmlDeviceGetMemoryInfo")
    return 0 if memory is None else int(memory.free)


@cache
def _gpu_name() -> str:
    """Return the name of the first GPU as its driver gives it."""
    return (_ask_driver("nvmlDeviceGetName") or "").strip() or "GPU"


def _ask_driver(query: str) -> Any:
    """Return what a function of NVML says about the first GPU; None where it says nothing, or without NVML."""
    try:
        import pynvml  # noqa: PLC0415  (optional: installed by an extra)
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return getattr(pynvml, query)(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        log.debug("%s: %s", query, error)
        return None
