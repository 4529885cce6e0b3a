"""Threads by default: what a process may use, from made-up machines, and that sessions and solvers keep to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from onnx_lowrank.linalg.threads import side_by_side
from onnx_lowrank.runtime import cgroup, processors
from onnx_lowrank.runtime.processors import linear_algebra_threads, usable_cores
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session
from tests.helpers import blas_threads
from tests.networks import images, network


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight processors, each a core of its own; the tests write the rest."""
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    monkeypatch.setattr(processors, "_CPUS", tmp_path / "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cores_that_it_may_run_on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    assert usable_cores() == 3


def test_two_threads_of_a_core_are_one(machine: Path) -> None:
    for cpu in range(8):
        write(machine / f"cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    assert usable_cores() == 4


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("1600000 100000", 8)],
)
@pytest.mark.parametrize("mount", ["", "unified"])
def test_the_share_of_a_container(machine: Path, quota: str, cores: int, mount: str) -> None:
    write(machine / "own", "0::/\n")
    write(machine / "cgroup" / mount / "cpu.max", f"{quota}\n")
    assert usable_cores() == cores


def test_the_smallest_share_of_all_groups_around_it(machine: Path) -> None:
    write(machine / "own", "0::/system.slice/build.service/job\n")
    write(machine / "cgroup/system.slice/build.service/job/cpu.max", "max 100000\n")
    write(machine / "cgroup/system.slice/build.service/cpu.max", "300000 100000\n")
    write(machine / "cgroup/system.slice/cpu.max", "500000 100000\n")
    assert usable_cores() == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 3)])
@pytest.mark.parametrize("seen_at", ["docker/1f", ""])
def test_version_1(machine: Path, quota: str, cores: int, seen_at: str) -> None:
    """Inside of a container the group may be mounted where the path of the host does not lead."""
    write(machine / "own", "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/\n")
    write(machine / "cgroup/cpu" / seen_at / "cpu.cfs_quota_us", f"{quota}\n")
    write(machine / "cgroup/cpu" / seen_at / "cpu.cfs_period_us", "100000\n")
    assert usable_cores() == cores


def test_the_real_machine_has_some() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def threads_at_work() -> int:
    """So many threads work side by side where there is enough to do."""
    inside: set[int] = set()

    def work(_: int) -> None:
        inside.add(threading.get_ident())
        time.sleep(0.02)

    list(side_by_side(work, range(100)))
    return len(inside)


def test_work_is_shared_out_among_no_more_threads_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with threadpool_limits(3, user_api="blas"):
        monkeypatch.setattr(processors, "usable_cores", lambda: 2)
        with linear_algebra_threads(None):
            assert threads_at_work() == 2
            assert blas_threads() == 1
        with linear_algebra_threads(1):
            assert threads_at_work() == 1
        monkeypatch.setattr(processors, "usable_cores", lambda: 64)
        with linear_algebra_threads(None):
            assert threads_at_work() == 3  # as the user's environment said
            with linear_algebra_threads(None):  # another conversion, which this one's limit says nothing about
                assert threads_at_work() == 3
        assert threads_at_work() == 1


IDLE = """
import sys, time
import numpy as np
from pathlib import Path
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session
from tests.networks import images, network
session = Session(network(), Provider(threads=2), deployed=sys.argv[1] == "deployed")
batch = {"x": images(64)}
session.run(batch)
start, spent = time.perf_counter(), 0.0
for _ in range(50):
    session.run(batch)
    before = time.process_time()
    time.sleep(0.005)
    spent += time.process_time() - before
print(spent)
"""


def idle_seconds(kind: str) -> float:
    """Processor time of a session between its runs, over a quarter of a second."""
    done = subprocess.run([sys.executable, "-c", IDLE, kind], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_only_sessions_that_are_timed_wait_in_a_loop() -> None:
    """They run as users run them; all others leave the processor to others."""
    assert idle_seconds("deployed") > 5 * idle_seconds("calibration")


def test_the_results_are_the_same() -> None:
    batch = {"x": images(8)}
    (one,) = Session(network(), Provider(threads=1)).run(batch).values()
    (other,) = Session(network(), Provider(threads=1), deployed=True).run(batch).values()
    np.testing.assert_array_equal(one, other)
