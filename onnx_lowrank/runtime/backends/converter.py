"""Run a runtime's converter as a program of its own: what it prints is kept, and it does not outlive this process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx_lowrank import interruption
from onnx_lowrank.errors import ModelError

_POLL_S = 0.01
_MAX_LINES = 6
# Linux ends the program when the thread that started it ends, however it does (PR_SET_PDEATHSIG is 1, SIGKILL 9).
# Elsewhere it is ended when a command is interrupted, but not when this process is killed.
_START = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 9)
except (OSError, AttributeError, TypeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def run_converter(
    command: Sequence[str], folder: Path, what: str, written: str, environment: Mapping[str, str | None] | None = None
) -> None:
    """Run a converter in a folder and see that it wrote what it should.

    Args:
        command: the program by its absolute path, and its arguments.
        folder: where it runs.
        what: the model and what converts it, for error messages.
        written: name of the file that it is to write there.
        environment: variables besides those of this process; None for one of these that is not to be passed on.

    Raises:
        ModelError: it fails, or writes nothing; with the last lines that it printed.
    """
    variables = {**os.environ, **(environment or {})}
    starter = [sys.executable, "-S", "-E", "-c", _START, str(os.getpid()), *command]
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            starter,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in variables.items() if value is not None},
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which ends the converter
        )
        try:
            with interruption.cleaned_up(process.kill):
                while process.poll() is None:
                    interruption.check()
                    time.sleep(_POLL_S)
        finally:
            process.wait()
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    if process.returncode or not (folder / written).is_file():
        raise ModelError(f"{what}: {_ending(process.returncode)}{_last_lines(text)}")


def _ending(code: int) -> str:
    if code < 0:
        return f"it crashed (signal {-code}): "
    return f"it failed (exit code {code}): " if code else "it wrote no model: "


def _last_lines(text: str) -> str:
    """Return the last lines that say something, in one line."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return " | ".join(lines[-_MAX_LINES:]) or "it printed nothing"
