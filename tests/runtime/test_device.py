from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnx_lowrank.runtime import device
from onnx_lowrank.runtime.device import cpu_count, device_name, free_on_device, rank_block
from onnx_lowrank.runtime.provider import Provider


def test_rank_block() -> None:
    assert rank_block(Provider("cuda")) == 8
    assert rank_block(Provider("cpu")) in {8, 16}


@pytest.mark.parametrize(("flags", "block"), [("sse avx2 avx512f", 16), ("sse avx2", 8)])
def test_rank_block_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch, flags: str, block: int) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : {flags}")
    assert rank_block(Provider("cpu")) == block


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_rank_block_of_a_gpu_does_not_go_by_the_processor(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags : avx512f")
    assert rank_block(Provider(provider)) == 8


def test_rank_block_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert rank_block(Provider("cpu")) == 8


# Names of devices


def test_a_cpu_is_known_by_its_model_its_cores_and_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = (
        "processor : 0\nmodel name\t: Marvel 9000 @ 3.0: GHz\nflags : avx2 avx512f\nprocessor : 1\nmodel name : no\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    monkeypatch.setattr(device, "cpu_count", lambda: 3)
    assert device_name(Provider("cpu")) == "Marvel 9000 @ 3.0: GHz, 3 cores, blocks of 16"


@pytest.mark.parametrize("processor", ["Other 1", ""])
@pytest.mark.parametrize("board", ["Raspberry Pi 5\0", None])
def test_a_cpu_that_proc_does_not_name(monkeypatch: pytest.MonkeyPatch, processor: str, board: str | None) -> None:
    def read(path: Path, **_: str) -> str:
        if path == Path("/proc/cpuinfo"):
            return "processor : 0\nFeatures : fp asimd\n"
        if board is None:
            raise FileNotFoundError
        return board

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(device.platform, "processor", lambda: processor)
    monkeypatch.setattr(device.platform, "machine", lambda: "aarch64")
    assert device_name(Provider("cpu")).startswith(f"{'Raspberry Pi 5' if board else processor or 'aarch64'}, ")


def test_threads_are_not_part_of_the_name() -> None:
    assert device_name(Provider("cpu", 1)) == device_name(Provider("cpu", 2))


def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7, 9}, raising=False)
    assert cpu_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cpu_count() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_count() == 1


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A place for a driver's tool of our own making."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    device._gpu_name.cache_clear()
    yield tmp_path / "nvidia-smi"
    device._gpu_name.cache_clear()


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script")
@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("echo '  NVIDIA Marvel 9000 '", "NVIDIA Marvel 9000"),
        ("exit 9", "GPU"),
        ("echo", "GPU"),
    ],
)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_is_known_by_what_its_driver_says(tool: Path, script: str, name: str, provider: str) -> None:
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert device_name(Provider(provider)) == name


def test_a_gpu_without_its_tool(tool: Path) -> None:
    assert not tool.exists()
    assert device_name(Provider("cuda")) == "GPU"
    device._gpu_name.cache_clear()
    tool.write_bytes(b"\0not a program")
    tool.chmod(0o755)
    assert device_name(Provider("cuda")) == "GPU"


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script")
@pytest.mark.parametrize(("script", "size"), [("echo ' 81079 '", 81_079 * 2**20), ("exit 9", 0), ("echo '[N/A]'", 0)])
def test_free_memory_of_a_gpu_is_what_its_driver_says(tool: Path, script: str, size: int) -> None:
    tool.write_text(f'#!/bin/sh\n[ "$1" = --query-gpu=memory.free ] && {script}\n')
    tool.chmod(0o755)
    assert free_on_device(Provider("cuda")) == size
    assert free_on_device(Provider("cpu")) == 0
