"""What befalls a command in the middle of a run: called in its process before it begins, see `tests.forked`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx_lowrank import pipeline


def _before(owner: Any, name: str, what: Callable[[], None]) -> None:
    """Do something before a function runs."""
    real = getattr(owner, name)

    def disturbed(*args: Any, **options: Any) -> Any:
        what()
        return real(*args, **options)

    setattr(owner, name, disturbed)


def cut_short(file: str, size: int, step: str) -> None:
    """Cut a file to so many bytes when a step of `convert` begins."""
    from onnx_lowrank.graph import read

    read.MAX_LOADED_BYTES = 1_000  # a small model is as one that is too large to be loaded
    _before(pipeline, step, lambda: os.truncate(file, size))


def write_slowly(step: str) -> None:
    """Take half a second for each file that is written, and count in the file ``writing``."""
    owner: Any = os if step == "fsync" else Path
    real, calls = getattr(owner, step), []

    def slow(*args: Any, **options: Any) -> Any:
        if "onnx-lowrank-" not in str(args[0]) and step != "fsync":
            return real(*args, **options)
        calls.append(args)
        Path("writing").write_text(str(len(calls)))
        time.sleep(0.2)
        result = real(*args, **options)
        time.sleep(0.2)
        return result

    setattr(owner, step, slow)


def run_out_of_memory(group: str, step: str) -> None:
    """Take twice the memory that a control group may have when a step of `convert` begins."""

    def take_all() -> None:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
        ballast = [os.urandom(2**20) for _ in range(400)]
        del ballast

    _before(pipeline, step, take_all)


def read_a_pipe() -> None:
    """Make standard input a pipe that nobody writes to."""
    os.dup2(os.pipe()[0], 0)
