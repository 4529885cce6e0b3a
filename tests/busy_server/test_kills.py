"""Commands that are killed, by somebody or by the kernel, also while they write: nothing torn, the next one clears."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.busy_server.commands import COMMANDS, CONVERT, LONGEST_RUN_S, ROOT, fill, left, seconds_until_the_end, start

KILLS, NIGHTS = 4, 15  # at a time; of these one by day and all by night, 60 kills

SLOW_WRITER = """
import os, sys, time
from pathlib import Path
from onnx_lowrank.__main__ import main

step = sys.argv.pop(1)
owner, name = (os, "fsync") if step == "fsync" else (Path, step)
real, calls = getattr(owner, name), []

def slow(*args, **options):
    if "onnx-lowrank-" not in str(args[0]) and step != "fsync":
        return real(*args, **options)
    calls.append(args)
    Path("writing").write_text(str(len(calls)))
    time.sleep(0.4)
    result = real(*args, **options)
    time.sleep(0.4)
    return result

setattr(owner, name, slow)
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def is_old_or_new(path: Path, old: bytes) -> bool:
    """A file is as it was, or a whole new one."""
    content = path.read_bytes()
    if content == old:
        return False
    if path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    else:
        json.loads(content)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", ["write_bytes", "write_text", "fsync", "replace"])
def test_a_kill_while_the_files_are_written(folder: Path, step: str, number: signal.Signals) -> None:
    """Model, report and plan are each old or new; no report is new where the model is old."""
    files = [folder / name for name in ("out.onnx", "r.json", "p.json")]
    for path in files:
        path.write_bytes(b"old " + path.name.encode())
    words = [*CONVERT, "--force", "--data", "data.npy", "--threads", "1", "--no-bench", "--quiet"]
    for call in (1, 2, 3) if step in {"fsync", "replace"} else (1,):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_WRITER, step, *words], cwd=folder, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        while not (folder / "writing").exists() or int((folder / "writing").read_text() or 0) < call:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(timeout=20)
        (folder / "writing").unlink()
        model, *reports = (is_old_or_new(path, b"old " + path.name.encode()) for path in files)
        assert model or not any(reports), (step, call)
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode in {0, 128 + number}
            assert {model, *reports} in [{True}, {False}]  # all, or none
            assert left(folder) == {path.name for path in files}
        for path in files:
            path.write_bytes(b"old " + path.name.encode())
    assert works_in(folder, *words) == {path.name for path in files}
    assert all(is_old_or_new(path, b"old " + path.name.encode()) for path in files)


def works_in(folder: Path, *words: str) -> set[str]:
    """Run a command to its end, and return what is there then."""
    process = subprocess.run(
        [sys.executable, "-m", "onnx_lowrank", *words], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return left(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, NIGHTS))])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_any_moment(folder: Path, command: str, seed: int) -> None:
    """What is left then is whole, or goes away with the next run, which needs no help but --force."""
    begin = time.monotonic()
    seconds_until_the_end(start(folder, *COMMANDS[command]), LONGEST_RUN_S)
    whole_seconds, wanted = time.monotonic() - begin, left(folder)
    moments = random.Random(seed)
    for _ in range(KILLS):
        process = start(folder, *COMMANDS[command], "--force")
        time.sleep(moments.uniform(0.1, whole_seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in folder.rglob("*.onnx"):
            if ".tmp" not in str(path):
                onnx.checker.check_model(onnx.load(path))
        for path in folder.glob("*.npz"):
            np.load(path)["x"]
    last = start(folder, *COMMANDS[command], "--force")
    seconds_until_the_end(last, LONGEST_RUN_S)
    assert last.returncode == 0
    assert left(folder) == wanted


# Out of memory by a limit of the control group


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own, with 200 MB of memory; version 1 and version 2 call the files differently."""
    for parent, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        place = parent / f"onnx-lowrank-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            if (place / limit).exists():
                (place / limit).write_text(str(200 * 2**20))
                yield place
                return
        finally:
            place.rmdir()
    pytest.skip("control groups of memory cannot be made here")


OUT_OF_MEMORY = """
import os, sys
from pathlib import Path
from onnx_lowrank import pipeline
from onnx_lowrank.__main__ import main

group, step = Path(sys.argv.pop(1)), sys.argv.pop(1)
real = getattr(pipeline, step)

def take_all(*args, **options):
    (group / "cgroup.procs").write_text(str(os.getpid()))
    ballast = [os.urandom(2**20) for _ in range(400)]  # twice what the group may have
    return real(*args, **options)

setattr(pipeline, step, take_all)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["solve_network", "verify_conversion", "build_report"])
def test_out_of_memory_by_a_limit_of_the_group(folder: Path, group: Path, step: str) -> None:
    """The kernel kills the process, in the last two steps with OUT on its way; the next run clears what is left."""
    words = [*CONVERT, "--data", "data.npy", "--threads", "1", "--no-bench"]
    process = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(group), step, *words], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    on_its_way = {name for name in left(folder) if name.startswith(".onnx-lowrank-")}
    assert left(folder) == on_its_way
    assert bool(on_its_way) == (step != "solve_network")
    assert works_in(folder, *words) == {"out.onnx", "r.json", "p.json"}
