"""Peak memory: of this process alone, however large the one is that has started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank.runtime.stopwatch import peak_memory_bytes

ROOT = Path(__file__).parents[2]
MIB = 2**20
_CHILD = "from onnx_lowrank.runtime.stopwatch import peak_memory_bytes; print(peak_memory_bytes())"
_PARENT = f"""
import subprocess, sys
held = bytearray(500 * {MIB})
held[:: 4096] = bytes(len(held[:: 4096]))
subprocess.run([sys.executable, "-c", {_CHILD!r}], check=True)
"""


def test_memory_that_is_used_counts_and_stays_counted() -> None:
    before = peak_memory_bytes()
    held = np.ones(before + 50 * MIB, np.int8)  # more than all that has been used so far
    during = peak_memory_bytes()
    assert during > before + 30 * MIB  # the kernel counts in steps
    del held
    assert peak_memory_bytes() > during - 10 * MIB


def test_memory_of_the_program_that_starts_it_does_not_count() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _PARENT], env=environment, capture_output=True, text=True, check=True)
    assert 5 * MIB < int(done.stdout) < 400 * MIB


@pytest.mark.parametrize("text", [None, "Name:\tpython\nVmRSS:\t  99 kB\n"])
def test_where_the_kernel_does_not_say_the_usage_of_resources_does(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "status").write_text(text)
    monkeypatch.setattr("onnx_lowrank.runtime.stopwatch._STATUS", tmp_path / "status")
    assert peak_memory_bytes() > 20 * MIB


def test_it_reads_the_largest_resident_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("VmPeak:\t 9000 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 1000 kB\n")
    monkeypatch.setattr("onnx_lowrank.runtime.stopwatch._STATUS", tmp_path / "status")
    assert peak_memory_bytes() == 1234 * 1024
