"""Commands as a build server runs them: in processes of their own, small, and hit by something in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from tests import forked
from tests.networks import images, network
from tests.torch.pairs import pair

ROOT = Path(__file__).parents[2]
INPUTS = {"in.onnx", "data.npy", "a.onnx", "b.onnx"}

CONVERT = ("in.onnx", "out.onnx", "--report", "r.json", "--save-plan", "p.json", "--speedup", "2")
SWEEP = ("sweep", "in.onnx", "out", "--speedups", "1.5,2,3", "--models")
SAMPLES = ("samples", "in.onnx", "out.npz")
_TRAINING = ("--epochs", "16", "--samples", "50", "--batch-size", "8")  # a quarter of the time is that of the epochs
FINETUNE = ("finetune", "a.onnx", "b.onnx", "out.onnx", *_TRAINING, "--report", "r.json")
LONGEST_RUN_S = 180  # of a command that nothing hits, on a crowded machine
COMMANDS = {"convert": CONVERT, "sweep": SWEEP, "samples": SAMPLES, "finetune": FINETUNE}


def fill(folder: Path) -> Path:
    """Write what the commands read."""
    made = pair("scores")
    onnx.save(network(), folder / "in.onnx")
    onnx.save(made.original, folder / "a.onnx")
    onnx.save(made.converted, folder / "b.onnx")
    np.save(folder / "data.npy", images(200))
    return folder


class Process(Protocol):
    """What the tests want of a process, one of `subprocess.Popen` or `Forked`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None: ...
    def communicate(self, *, timeout: float | None = None) -> object: ...


def start(folder: Path, *words: str, environment: dict[str, str] | None = None) -> Process:
    """Start a command on the data of a folder, its messages in the file ``stderr``."""
    command = [sys.executable, "-m", "onnx_lowrank", *_on_data(words)]
    with (folder / "stderr").open("w") as errors:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary(folder))} | (environment or {}),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )


def start_at_once(folder: Path, *words: str) -> Process:
    """Start a command as `start` does, in a process that has nothing left to import."""
    variables = {"TMPDIR": str(temporary(folder))}
    return forked.start(folder, *_on_data(words), environment=variables, errors=str(folder / "stderr"))


def _on_data(words: tuple[str, ...]) -> list[str]:
    return [*words, "--data", "data.npy", "--threads", "1"]


def wait_until_it_listens(process: Process) -> None:
    """Wait until a process has handlers for signals; before, Python itself ends, as any program does."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next((line for line in status.read_text().splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


def temporary(folder: Path) -> Path:
    """The folder for temporary files of commands that work in a folder."""
    place = folder.with_name(f"{folder.name}-temporary")
    place.mkdir(exist_ok=True)
    return place


def seconds_until_the_end(process: Process, longest: float = 60) -> float:
    """Wait for a process, and end it and fail where that takes longer than so many seconds."""
    begin = time.monotonic()
    try:
        process.communicate(timeout=longest)
    finally:
        process.kill()
    return time.monotonic() - begin


def left(folder: Path) -> set[str]:
    """What a command has left in its folder and among temporary files, inputs and messages aside."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - INPUTS - {"stderr"}
    # PyTorch keeps a cache there.
    return found | {path.name for path in temporary(folder).iterdir() if not path.name.startswith("torchinductor_")}


def last_line(folder: Path) -> str:
    """The last line that a command has said on stderr."""
    lines = (folder / "stderr").read_text().splitlines()
    return lines[-1] if lines else ""
