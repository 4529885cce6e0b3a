"""Signals at random moments of whole commands: they end in time, with one line, and leave nothing half done."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.busy_server.commands import (
    COMMANDS,
    LONGEST_RUN_S,
    fill,
    last_line,
    left,
    seconds_until_the_end,
    start,
    start_at_once,
    wait_until_it_listens,
)

LONGEST_SECONDS = 2.0
SIGNALS, NIGHTS = 10, 20  # at a time; all by night, 200 signals
SIGNALS_BY_DAY = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("signals"))


def clear(folder: Path) -> None:
    """Remove what complete runs have written."""
    for name in left(folder):
        path = folder / name
        if path.is_file():
            path.unlink()
    if (folder / "out").is_dir():
        (folder / "out").rmdir()


def is_whole(folder: Path, command: str) -> None:
    """What is there can be read: no half of a model or report."""
    for path in [*folder.rglob("*.onnx")]:
        onnx.checker.check_model(onnx.load(path))
    for path in [*folder.rglob("*.json")]:
        json.loads(path.read_text())
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            assert [arrays[name].shape for name in arrays] == [(200, 3, 12, 12)]
    assert not [name for name in left(folder) if ".tmp" in name or "/." in name or name.startswith(".")], command


def finished_targets(folder: Path) -> list[str]:
    """Networks that an interrupted sweep names; each is there with its report, and nothing else is."""
    found = json.loads((folder / "out/sweep.json").read_text())
    assert found["complete"] is False
    models = [point["model"] for point in found["points"]]
    reports = [str(Path(model).with_suffix(".json")) for model in models]
    assert left(folder) == {"out", "out/sweep.json", "out/sweep.html", *models, *reports}
    return models


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, NIGHTS))])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_at_any_moment(folder: Path, command: str, seed: int) -> None:
    """By day while it works; at night also while it starts, which takes longer than all else."""
    begin_it, count = (start, SIGNALS) if seed else (start_at_once, SIGNALS_BY_DAY)
    clear(folder)
    begin = time.monotonic()
    whole = begin_it(folder, *COMMANDS[command])
    seconds_until_the_end(whole, LONGEST_RUN_S)
    whole_seconds = time.monotonic() - begin
    assert whole.returncode == 0, last_line(folder)
    moments = np.random.default_rng(seed).uniform(0, whole_seconds, count)
    numbers = random.Random(seed).choices([signal.SIGINT, signal.SIGTERM], k=count)
    longest, ended = 0.0, []
    for moment, number in zip(moments, numbers, strict=True):
        clear(folder)
        process = begin_it(folder, *COMMANDS[command])
        wait_until_it_listens(process)
        time.sleep(moment)
        process.send_signal(number)
        longest = max(longest, seconds_until_the_end(process))
        ended.append(process.returncode)
        is_whole(folder, command)
        if process.returncode == 0:  # it was done by then
            assert left(folder) & {"out.onnx", "out/sweep.json", "out.npz"}
            continue
        assert process.returncode == 128 + number, last_line(folder)
        said = (folder / "stderr").read_text()
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert said.count("error: ") == 1
        assert last_line(folder).startswith(f"error: {word}: ")
        assert "Traceback" not in said
        if last_line(folder) == f"error: {word}: nothing was written":
            assert left(folder) - {"out.onnx.checkpoint"} == set(), moment
        elif (done := re.search(r"(\d) of 3 targets are done and stay in out$", said.rstrip())) is not None:
            assert len(finished_targets(folder)) == int(done[1])
    print(f"{command}: {count} signals, {ended.count(0)} too late, the longest took {longest:.2f} s")
    assert longest < LONGEST_SECONDS
    assert ended.count(0) <= 0.8 * count  # most moments are in the middle, even where the first run was slow
