"""What a provider runs on: the device's name, and the channels its kernels like."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from onnx_lowrank.runtime.provider import Provider


def rank_block(provider: Provider) -> int:
    """Channels that the provider's kernels work on at a time: ranks that are multiples of it run fast.

    onnxruntime's CPU kernels use blocks of 16 with AVX-512 and of 8 without; tensor cores want multiples of 8.
    """
    return 16 if provider.name == "cpu" and "avx512f" in _cpuinfo() else 8


def device_name(provider: Provider) -> str:
    """What tells one device from another where milliseconds are concerned: model and, for a CPU, cores and block."""
    if provider.name != "cpu":
        return _gpu_name()
    named = (line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name"))
    board = _text(Path("/proc/device-tree/model")).strip("\0 \n")  # where /proc/cpuinfo names no model
    model = next(named, None) or board or platform.processor() or platform.machine()
    return f"{model}, {cpu_count()} cores, blocks of {rank_block(provider)}"


def cpu_count() -> int:
    """Cores this process may run on."""
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
    """Bytes of a GPU's memory that are free; 0 for a CPU, and where the driver does not say."""
    free = "" if provider.name == "cpu" else _ask_driver("memory.free", "csv,noheader,nounits")
    return int(free) * 2**20 if free.isdigit() else 0


@cache
def _gpu_name() -> str:
    """Name of the first GPU as its driver gives it."""
    return _ask_driver("name", "csv,noheader") or "GPU"


def _ask_driver(what: str, form: str) -> str:
    """What the driver says about the first GPU; nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, f"--query-gpu={what}", f"--format={form}", "--id=0"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
