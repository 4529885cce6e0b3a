"""Progress on stderr where that is no terminal: plain lines with what is done and how long the rest takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from onnx_lowrank.cli import watch
from onnx_lowrank.cli.watch import Watch
from onnx_lowrank.runtime.progress import track_samples
from tests.command_line import works


def test_lines_have_what_is_done_and_the_seconds_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = Watch(Console(file=stream, width=200), quiet=False, words={})

    def steps() -> Iterator[int]:
        for step in range(10):
            yield step
            now[0] += 3.0

    assert list(shown.track(steps(), "solve", 10)) == list(range(10))
    assert stream.getvalue().splitlines() == [
        "solve: 3/10, about 14 s left",
        "solve: 5/10, about 12 s left",
        "solve: 7/10, about 8 s left",
        "solve: 9/10, about 3 s left",
        "solve: 10/10",
    ]


def test_samples_of_a_batch_are_done_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = Watch(Console(file=stream, width=200), quiet=False, words={})
    for _ in track_samples(shown, [{"x": np.zeros(size)} for size in (8, 8, 8, 6)], "collect", 30):
        now[0] += 6.0
    assert stream.getvalue().splitlines() == [
        "collect: 8/30, about 16 s left",
        "collect: 16/30, about 10 s left",
        "collect: 24/30, about 4 s left",
        "collect: 30/30",
    ]


def test_stages_count_samples_and_layers(folder: Path) -> None:
    words = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--batch-size", "5")
    lines = works(*words).stderr.splitlines()
    assert [line for line in lines if "/" in line] == ["collect: 48/48", "ranks: 3/3", "solve: 2/2", "verify: 12/12"]
    compared = works("compare", "in.onnx", "out.onnx", "--data", "data.npy", "--batch-size", "7").stderr
    assert compared.splitlines()[-1] == "compare: 60/60"
