from __future__ import annotations

from pathlib import Path

import pytest

from onnx_lowrank.runtime import cgroup, memory


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up machine: its files are written by the tests."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path)
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


def test_what_is_free_on_the_machine(system: Path) -> None:
    (system / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  2000 kB\n")
    assert memory.free_bytes() == 2000 * 1024
    assert memory.budget_bytes(None) == 1000 * 1024
    assert memory.budget_bytes(None, 600) == 1000 * 1024  # what is held is not free
    assert memory.budget_bytes(1.5) == 1_500_000_000
    assert memory.budget_bytes(1.5, 600) == 1_499_999_400
    assert memory.budget_bytes(1e-9, 600) == 0


@pytest.mark.parametrize(("limit", "free"), [("1000000", 400_000), ("500000", 0), ("max", 2000 * 1024)])
def test_the_limit_of_a_container(system: Path, limit: str, free: int) -> None:
    (system / "meminfo").write_text("MemAvailable:  2000 kB\n")
    (system / "memory.max").write_text(f"{limit}\n")
    (system / "memory.current").write_text("600000\n")
    assert memory.free_bytes() == free


def test_half_of_all_where_nothing_is_said(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    assert memory.free_bytes() == 50 * 4096


def test_the_real_machine_has_some() -> None:
    assert 0 < memory.free_bytes() < 2**50
