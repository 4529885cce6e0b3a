"""Commands that are killed, by somebody or by the kernel, also while they write: nothing torn, the next one clears."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import forked
from tests.busy_server.commands import (
    COMMANDS,
    CONVERT,
    LONGEST_RUN_S,
    fill,
    left,
    seconds_until_the_end,
    start,
    start_at_once,
)
from tests.busy_server.disturbed import run_out_of_memory, write_slowly

KILLS, NIGHTS = 4, 15  # at a time; all by night, 60 kills
KILLS_BY_DAY = 2


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
        process = forked.start(folder, *words, prepare=partial(write_slowly, step))
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
    done = forked.run(folder, *words)
    assert done.code == 0, done.errors
    return left(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, NIGHTS))])
@pytest.mark.parametrize(
    "command",
    ["convert", "samples", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("sweep", "finetune"))],
)
def test_a_kill_at_any_moment(folder: Path, command: str, seed: int) -> None:
    """What is left then is whole, or goes away with the next run, which needs no help but --force.

    By day while it works; at night also while it starts, which takes longer than all else.
    """
    begin_it = start if seed else start_at_once
    begin = time.monotonic()
    seconds_until_the_end(begin_it(folder, *COMMANDS[command]), LONGEST_RUN_S)
    whole_seconds, wanted = time.monotonic() - begin, left(folder)
    moments = random.Random(seed)
    for _ in range(KILLS if seed else KILLS_BY_DAY):
        process = begin_it(folder, *COMMANDS[command], "--force")
        time.sleep(moments.uniform(0.1, whole_seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in folder.rglob("*.onnx"):
            if ".tmp" not in str(path):
                onnx.checker.check_model(onnx.load(path))
        for path in folder.glob("*.npz"):
            np.load(path)["x"]
    last = begin_it(folder, *COMMANDS[command], "--force")
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


@pytest.mark.slow
@pytest.mark.parametrize("step", ["solve_network", "verify_conversion", "build_report"])
def test_out_of_memory_by_a_limit_of_the_group(folder: Path, group: Path, step: str) -> None:
    """The kernel kills the process, in the last two steps with OUT on its way; the next run clears what is left."""
    words = [*CONVERT, "--data", "data.npy", "--threads", "1", "--no-bench"]
    done = forked.run(folder, *words, prepare=partial(run_out_of_memory, str(group), step))
    assert done.code == -signal.SIGKILL, done.errors
    on_its_way = {name for name in left(folder) if name.startswith(".onnx-lowrank-")}
    assert left(folder) == on_its_way
    assert bool(on_its_way) == (step != "solve_network")
    assert works_in(folder, *words) == {"out.onnx", "r.json", "p.json"}
