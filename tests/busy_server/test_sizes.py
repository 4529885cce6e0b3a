"""Much of everything: images, layers, and a disk that is too small for a training's checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnx_lowrank import convert
from tests.busy_server.commands import FINETUNE, ROOT, fill, left, start_at_once
from tests.helpers import build, filters
from tests.networks import network

LONG = (*FINETUNE, "--epochs", "12")  # so that a disk can be filled meanwhile


def run(folder: Path, *words: str) -> tuple[float, float]:
    """Convert in a process of its own, and return the seconds and the peak of its memory in MB."""
    code = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "-m", "onnx_lowrank", *words, "--quiet", "--threads", "1"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin, int(done.stdout) / 1000


@pytest.mark.nightly
def test_twenty_thousand_small_images(tmp_path: Path) -> None:
    """All of them are listed, some are read."""
    onnx.save(network(), tmp_path / "in.onnx")
    random = np.random.default_rng(0)
    for number in range(20_000):
        folder = tmp_path / "images" / str(number % 100)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{number}.png")
    words = ("in.onnx", "out.onnx", "--speedup", "1.5", "--no-bench", "--data")
    seconds, megabytes = run(tmp_path, *words, "images")
    (tmp_path / "few").mkdir()
    for folder in sorted((tmp_path / "images").iterdir())[:5]:
        folder.rename(tmp_path / "few" / folder.name)
    few_seconds, few_megabytes = run(tmp_path, *words, "few", "--force")
    print(f"20,000 images: {seconds:.1f} s, {megabytes:.0f} MB; 1,000: {few_seconds:.1f} s, {few_megabytes:.0f} MB")
    assert megabytes < few_megabytes + 50
    assert seconds < few_seconds + 20


def deep(layers: int) -> onnx.ModelProto:
    """Residual blocks of one convolution each, with 16 channels."""
    lines = ["t0 = Conv <pads = [1, 1, 1, 1]> (x, first)"]
    for number in range(layers - 1):
        lines += [
            f"c{number} = Conv <pads = [1, 1, 1, 1]> (t{number}, w{number})",
            f"a{number} = Relu (c{number})",
            f"t{number + 1} = Add (a{number}, t{number})",
        ]
    graph = (
        f"g (float[N, 3, 12, 12] x) => (float[N, 16, 12, 12] y) {{ {' '.join(lines)} y = Identity (t{layers - 1}) }}"
    )
    weights = {f"w{number}": 0.1 * filters(number, 16, 16, 3, 3) for number in range(layers - 1)}
    return build(graph, {"first": filters(0, 16, 3, 3, 3), **weights})


@pytest.mark.nightly
def test_three_hundred_layers(tmp_path: Path) -> None:
    """Time grows as the layers do, and memory is that of one layer at a time and what must be kept."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", random.standard_normal((100, 3, 12, 12), np.float32))
    found = {}
    for layers in (75, 300):
        onnx.save(deep(layers), tmp_path / "in.onnx")
        words = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5", "--no-bench", "--force")
        found[layers] = run(tmp_path, *words)
        converted = onnx.load(tmp_path / "out.onnx")
        assert len([node for node in converted.graph.node if node.op_type == "Conv"]) > 1.2 * layers
    for layers, (seconds, megabytes) in found.items():
        print(f"{layers} layers: {seconds:.1f} s, {megabytes:.0f} MB")
    assert found[300][0] < 6 * found[75][0]
    assert found[300][1] < 4 * found[75][1]


def test_many_layers_by_day() -> None:
    """As many as a network may have whose nodes refer to each other in one long chain."""
    model = deep(40)
    data = {"x": np.random.default_rng(0).standard_normal((30, 3, 12, 12), np.float32)}
    report = convert(model, data, speedup=1.3, bench=False, threads=1, positions=20, refine="none").report
    assert len(report.layers) == 40
    assert report.speedup >= 1.3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_while_a_network_is_trained(small_disk: Path) -> None:
    """After the first checkpoint: that one stays, nothing else does, and with more room the training goes on."""
    fill(small_disk)
    data = np.load(small_disk / "data.npy")
    np.save(small_disk / "data.npy", data[:60])
    process = start_at_once(small_disk, *LONG)
    while "out.onnx.checkpoint" not in left(small_disk):
        assert process.poll() is None, (small_disk / "stderr").read_text()
        time.sleep(0.005)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
    process.communicate(timeout=120)
    said = (small_disk / "stderr").read_text()
    assert process.returncode == 1, said
    assert "No space left" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert left(small_disk) == {"out.onnx.checkpoint", "ballast"}
    (small_disk / "ballast").unlink()
    again = start_at_once(small_disk, *LONG, "--resume")
    again.communicate(timeout=120)
    assert again.returncode == 0, (small_disk / "stderr").read_text()
    assert left(small_disk) == {"out.onnx", "r.json"}
