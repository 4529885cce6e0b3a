from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace

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


# GPUs


class DriverError(Exception):
    """NVML's."""


class Driver:
    """Stands in for the module ``pynvml``, of a machine with one GPU."""

    NVMLError = DriverError

    def __init__(self, name: str = "NVIDIA Marvel 9000", fails: Collection[str] = ()) -> None:
        self._name, self._fails = name, fails
        self.opened = self.closed = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if "init" in self._fails:
            raise DriverError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if "handle" in self._fails:
            raise DriverError("Not Found")
        return f"gpu {index}"

    def nvmlDeviceGetName(self, gpu: str) -> str:  # noqa: N802
        assert gpu == "gpu 0"
        if "name" in self._fails:
            raise DriverError("Unknown Error")
        return self._name

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:  # noqa: N802
        assert gpu == "gpu 0"
        if "memory" in self._fails:
            raise DriverError("Not Supported")
        return SimpleNamespace(total=90_000 * 2**20, free=81_079 * 2**20, used=8_921 * 2**20)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    device._gpu_name.cache_clear()
    yield
    device._gpu_name.cache_clear()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_is_known_by_what_its_driver_says(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    driver = Driver(fails={"memory"})
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert device_name(Provider(provider)) == "NVIDIA Marvel 9000"
    assert (driver.opened, driver.closed) == (1, 1)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_free_memory_of_a_gpu_is_what_its_driver_says(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    driver = Driver(name="")
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert free_on_device(Provider(provider)) == 81_079 * 2**20
    assert device_name(Provider(provider)) == "GPU"
    assert driver.opened == driver.closed == 2


@pytest.mark.parametrize(
    "driver",
    [None, Driver(fails={"init"}), Driver(fails={"handle"}), Driver(fails={"name", "memory"})],
)
def test_a_gpu_that_nothing_is_known_of(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert device_name(Provider("cuda")) == "GPU"
    assert free_on_device(Provider("cuda")) == 0
    assert driver is None or driver.opened == driver.closed


def test_a_cpu_asks_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert free_on_device(Provider("cpu")) == 0
    assert device_name(Provider("cpu"))
    assert driver.opened == 0


def test_the_library_itself_answers_or_says_that_there_is_no_driver() -> None:
    pytest.importorskip("pynvml")
    assert device_name(Provider("cuda"))
    assert free_on_device(Provider("cuda")) >= 0
