"""Checkpoints: what is read is what was written; a file is there whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from onnx_lowrank.errors import OutputError
from onnx_lowrank.torch.training import checkpoint as module
from onnx_lowrank.torch.training.checkpoint import Checkpoint, State

ODD = ("a.b", "a/b", "/", "weights/x", "größe.重み", " ", "__metadata__x", "0", "a" * 300)
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NOTES = {"epochs": [{"loss": 1e-300, "marks": None}], "größe": "重み\n", "rate": 0.1, "best": 0}


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, len(name) % 7, generator=generator).to(dtype) for name in ODD}


def example(seed: int = 0) -> Checkpoint:
    return Checkpoint(state(seed), state(seed + 1), state(seed + 2), NOTES)


def assert_same(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_read_is_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.checkpoint"
    Checkpoint(state(0, dtype), {}, state(2, dtype), NOTES).write(path)
    found = Checkpoint.read(path)
    assert_same(found.state, state(0, dtype))
    assert found.momentum == {}
    assert_same(found.best, state(2, dtype))
    assert found.notes == NOTES
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5))
def test_any_key_will_do(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("keys") / "x.checkpoint"
    weights = {name: torch.full((2,), float(number)) for number, name in enumerate(names)}
    Checkpoint(weights, weights, {}, {}).write(path)
    assert_same(Checkpoint.read(path).state, weights)
    assert_same(Checkpoint.read(path).momentum, weights)


def test_tensors_may_be_views_of_each_other_in_any_layout(tmp_path: Path) -> None:
    """As those of convolutions are, channels last; and the best weights may be those of now."""
    wide = torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    weights = {"whole": wide, "part": wide[:, 1:], "turned": wide.transpose(0, 3), "none": wide[:0], "one": wide.sum()}
    Checkpoint(weights, {}, weights, {}).write(tmp_path / "x")
    assert_same(Checkpoint.read(tmp_path / "x").state, weights)
    assert_same(Checkpoint.read(tmp_path / "x").best, weights)


def test_the_next_one_takes_the_place_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "x.checkpoint"
    example(0).write(path)
    example(7).write(path)
    assert_same(Checkpoint.read(path).state, state(7))
    assert list(tmp_path.iterdir()) == [path]


# What is none


def wrong(path: Path) -> str:
    with pytest.raises(OutputError) as caught:
        Checkpoint.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: not a checkpoint (")
    assert text.endswith("): delete it, or start without `resume`")
    return text


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_part_of_one_is_none(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.checkpoint"
    example().write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    wrong(path)


FOREIGN = {
    "random": bytes(range(7, 256)) * 20,
    "text": b"no checkpoint at all",
    "onnx": b"\x08\x08\x12\x07pytorch" * 40,
    "huge header": b"\xff" * 8 + b"{}",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(FOREIGN[kind])
    wrong(tmp_path / "x")


NO_NOTES: dict[str, dict[str, str] | None] = {"nothing": None, "others": {"format": "pt"}, "no JSON": {"notes": "{"}}


@pytest.mark.parametrize("kind", NO_NOTES)
def test_tensors_without_our_notes_are_none(tmp_path: Path, kind: str) -> None:
    save_file({"weights/a": torch.ones(2)}, tmp_path / "x", NO_NOTES[kind])
    wrong(tmp_path / "x")


def test_a_folder_and_nothing_are_none(tmp_path: Path) -> None:
    wrong(tmp_path)
    wrong(tmp_path / "missing")


# Writing that fails

FAILURES = [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda each: type(each).__name__)
def test_a_failure_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = tmp_path / "x.checkpoint"
    example(0).write(path)
    content = path.read_bytes()

    def half(tensors: State, file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(content[: len(content) // 2])
        raise error

    monkeypatch.setattr(module, "save_file", half)
    with pytest.raises(OutputError, match=r"x\.checkpoint: the checkpoint cannot be written \(.*No space left"):
        example(7).write(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.checkpoint"
    example(0).write(path)
    content = path.read_bytes()

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(
        OutputError, match=r"x\.checkpoint: cannot be written \(Permission denied\): free some space or choose"
    ):
        example(7).write(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.checkpoint"
    example(0).write(path)
    content = path.read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        example(7).write(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"none/x: cannot be written \(No such file or directory\): free some space or choose"
    ):
        example().write(tmp_path / "none" / "x")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_one(small_disk: Path) -> None:
    path = small_disk / "x.checkpoint"
    first = Checkpoint({"w": torch.ones(20_000)}, {}, {}, {"epoch": 1})
    first.write(path)
    content = path.read_bytes()
    with pytest.raises(OutputError, match="the checkpoint cannot be written .*free some space"):
        Checkpoint({"w": torch.ones(60_000)}, {}, {}, {"epoch": 2}).write(path)
    assert path.read_bytes() == content
    assert list(small_disk.iterdir()) == [path]
