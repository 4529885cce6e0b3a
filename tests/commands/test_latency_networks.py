"""Networks for a device: their archive, and the script in it with tools that print what the real ones print."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import RankPlan, convert
from onnx_lowrank.commands.latency_networks import save_latency_networks
from onnx_lowrank.errors import BudgetError, ModelError, OutputError
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine
from tests.helpers import build, normal, plain_network, run, work
from tests.networks import images

# What each tool prints for a network that takes {ms} milliseconds; from their sources and documents.
PRINTED = {
    "onnxruntime_perf_test": "Session creation time cost: 0.0021 s\\nAverage inference time cost: {worse} ms\\n"
    "Min Latency: {seconds} s\\nMax Latency: 0.5 s\\nP50 Latency: 0.1 s",
    "trtexec": "[I] Latency: min = 99.1 ms, max = 99.9 ms, mean = 99.5 ms, median = 99.4 ms\\n"
    "[I] GPU Compute Time: min = {ms} ms, max = 50.2 ms, mean = 50.1 ms, median = 50.1 ms, percentile(90%) = 50.2 ms",
    "benchncnn": "loop_count = 10\\nnum_threads = 2\\ncooling_down = 0\\n"
    "          networks/0001.ncnn.param  min =  {ms}  max =  300.12  avg =  200.3",
    "benchmark.out": "MNN benchmark\\nForward type: CPU thread=2 precision=1\\n--------> Benchmarking... loop = 10\\n"
    "[ - ] 0001.mnn                    max =  300.123 ms  min =   {ms} ms  avg =  200.456 ms",
    "benchmark_app": "[ INFO ] Latency:\\n[ INFO ]    Median:           90.55 ms\\n[ INFO ]    Average:   91.1 ms\\n"
    "[ INFO ]    Min:              {us} us\\n[ INFO ]    Max:              300.2 ms",  # the unit depends on the time
}
TOOLS = {
    "onnxruntime": "onnxruntime_perf_test",
    "tensorrt": "trtexec",
    "ncnn": "benchncnn",
    "mnn": "benchmark.out",
    "openvino": "benchmark_app",
}

# Takes the time of a network from the number in the name of its file, and notes how it was called.
TOOL = """#!{python}
import re, sys
words = " ".join(sys.argv[1:])
with open({log!r}, "a") as log:
    log.write(words + "\\n")
ms = 30 - int(re.findall(r"(\\d{{4}})", words)[-1]) / 8
print({printed!r}.replace("{{ms}}", f"{{ms:.6f}}").replace("{{seconds}}", f"{{ms / 1e3:.9f}}")
      .replace("{{us}}", f"{{1e3 * ms:.3f}}").replace("{{worse}}", "77"))
"""
CONVERTER = """#!{python}
import sys
words = sys.argv[1:]
if {name!r} == "pnnx":
    target = words[0].replace(".onnx", ".ncnn.param")
else:
    target = words[words.index("--MNNModel") + 1]
open(target, "w").write("converted")
print("done")
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "networks.zip"
    count = save_latency_networks(plain_network(3), images(40, 8), path, samples=30, threads=1)
    assert count == len(listed(path)["networks"])
    return path


@pytest.fixture
def device(archive: Path, tmp_path: Path) -> Path:
    """The archive as it is unpacked on a device."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "device")
    return tmp_path / "device"


def listed(path: Path) -> Any:
    with zipfile.ZipFile(path) as opened:
        return json.loads(opened.read("networks.json"))


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)


def tools(folder: Path, log: Path) -> None:
    for name, printed in PRINTED.items():
        put(folder, name, TOOL.format(python=sys.executable, log=str(log), printed=printed.replace("\\n", "\n")))
    for name in ("pnnx", "MNNConvert"):
        put(folder, name, CONVERTER.format(python=sys.executable, name=name))


def timed(device: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script as a user does: without this package, and with an older Python's isolation from the user's."""
    command = [sys.executable, "-I", "-S", str(device / "time_networks.py"), *words]
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=device, env=environment, capture_output=True, text=True, check=False)


def test_every_network_runs_and_is_what_its_key_says(device: Path) -> None:
    entries = json.loads((device / "networks.json").read_text())["networks"]
    whole, kept = entries[0], next(entry for entry in entries if entry["key"].endswith("kept"))
    assert whole["key"].startswith("network ")
    assert whole["inputs"] == {"x": [1, 3, 8, 8]}
    assert "Conv 32x3x3x3, input 8x8" in kept["key"]
    assert len({entry["key"] for entry in entries}) == len(entries) > 20
    for entry in entries:
        model = onnx.load(device / "networks" / entry["file"])
        feeds = {name: np.abs(normal(0, *shape)) for name, shape in entry["inputs"].items()}
        assert all(np.isfinite(values).all() for values in run(model, feeds).values())


def test_networks_compress_well(archive: Path) -> None:
    """Weights of chains are short noise, repeated."""
    with zipfile.ZipFile(archive) as opened:
        large = [
            info for info in opened.infolist() if info.file_size > 30_000 and info.filename != "networks/0000.onnx"
        ]
    assert large
    assert all(info.compress_size < 0.6 * info.file_size for info in large)


def test_the_same_networks_make_the_same_archive(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    save_latency_networks(plain_network(3), images(40, 8), again, samples=30, threads=1)
    assert again.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("runtime", TOOLS)
def test_a_table_that_a_conversion_reads(device: Path, tmp_path: Path, runtime: str) -> None:
    log = tmp_path / "calls.txt"
    tools(tmp_path / "bin", log)
    words = [runtime, "table.json", "--threads", "2", "--device", "a board", "--version", "9.1"]
    done = timed(device, *words, path=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    table = LatencyTable.from_json((device / "table.json").read_text(), "t")
    precision, provider = ("tf32", "tensorrt") if runtime == "tensorrt" else ("f32", "cpu")
    assert table.machine == Machine(runtime, "9.1", precision, provider, "a board", 2, 8)
    entries = json.loads((device / "networks.json").read_text())["networks"]
    wanted = {entry["key"]: 30 - int(entry["file"][:4]) / 8 for entry in entries}
    assert table.milliseconds == pytest.approx(wanted, abs=1e-5)
    calls = log.read_text().splitlines()
    assert len(calls) == len(entries)
    if runtime == "ncnn":
        assert calls[0].startswith("10 2 0 -1 0 param=")
        assert calls[0].endswith("shape=[8,8,3]")
    settings = {"cost": "latency", "speedup": 1.01, "refine": "none", "dry_run": True, "runtime": runtime}

    def planned() -> RankPlan:
        files = {"latency_table": device / "table.json"}
        return convert(plain_network(3), images(40, 8), samples=30, threads=1, **settings, **files).plan

    if runtime == "tensorrt":  # on a GPU no chain of so few channels pays, whatever the table says
        with pytest.raises(BudgetError, match=r"the largest that can is 1\.00 "):
            planned()
    else:
        assert len(planned().layers) == 3


def test_the_plan_is_that_of_the_devices_times(device: Path) -> None:
    """Where 3 x 3 convolutions take long, and chains nothing, all are factorized; where chains do, none can be."""
    entries = json.loads((device / "networks.json").read_text())["networks"]

    def planned(kept: float, chain: float) -> set[str]:
        milliseconds = {
            entry["key"]: 3 * kept + 1
            if entry["file"].startswith("0000")
            else kept
            if "kept" in entry["key"]
            else chain
            for entry in entries
        }
        table = LatencyTable(Machine("ncnn", "1", "f16", "cpu", "a phone", 4, 8), milliseconds)
        (device / "made.json").write_text(table.to_json())
        result = convert(
            plain_network(3), images(40, 8), samples=30, threads=1, cost="latency", speedup=15, refine="none",
            runtime="ncnn", latency_table=device / "made.json", dry_run=True,
        )  # fmt: skip
        return {entry.method for entry in result.plan}

    assert "kept" not in planned(10, 0.1)
    with pytest.raises(BudgetError, match="speedup 15 cannot be reached, the largest that can is 1"):
        planned(10, 11)


def test_the_tool_may_be_a_command_for_another_machine(device: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls.txt"
    tools(tmp_path / "bin", log)
    first = timed(device, "mnn", "t.json", "--convert-only", path=str(tmp_path / "bin"))
    assert first.returncode == 0, first.stderr
    assert not (device / "t.json").exists()
    (tmp_path / "bin" / "MNNConvert").unlink()  # it is not needed any more
    shell = f"{sys.executable} {tmp_path / 'bin' / 'benchmark.out'} -on -the -phone"
    done = timed(device, "mnn", "t.json", "--tool", shell, "--folder", "/data/networks/", "--precision", "f16")
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines()[1] == "-on -the -phone /data/networks/0001 10 2 0 1 2"


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (None, "error: benchncnn: not found: install it, or say where it is with --tool or --converter"),
        ("#!/bin/sh\necho no such file\n", "0000.onnx: benchncnn printed no time: no such file"),
        ("#!/bin/sh\n", "0000.onnx: benchncnn printed no time: it printed nothing"),
        ("#!/bin/sh\necho out of memory >&2; exit 4\n", "exit code 4: out of memory"),
    ],
)
def test_tools_that_fail(device: Path, tmp_path: Path, tool: str | None, message: str) -> None:
    tools(tmp_path / "bin", tmp_path / "calls.txt")
    (tmp_path / "bin" / "benchncnn").unlink()
    if tool is not None:
        put(tmp_path / "bin", "benchncnn", tool)
    done = timed(device, "ncnn", "t.json", path=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (device / "t.json").exists()


def test_a_converter_that_writes_nothing(device: Path, tmp_path: Path) -> None:
    put(tmp_path / "bin", "pnnx", "#!/bin/sh\necho unsupported operator\n")
    done = timed(device, "ncnn", "t.json", path=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("0000.onnx: pnnx wrote no 0000.ncnn.param: unsupported operator")


def test_the_real_benchmark_app(device: Path, archive: Path) -> None:
    """Two networks, by the program that OpenVINO brings."""
    pytest.importorskip("openvino.tools.benchmark", reason="OpenVINO brings benchmark_app")
    entries = json.loads((device / "networks.json").read_text())
    entries["networks"] = entries["networks"][:2]
    (device / "networks.json").write_text(json.dumps(entries))
    tool = f"{sys.executable} -c 'from openvino.tools.benchmark.main import main; main()'"
    done = timed(device, "openvino", "t.json", "--runs", "3", "--tool", tool)
    assert done.returncode == 0, done.stderr
    assert all(
        0 < ms < 1000 for ms in LatencyTable.from_json((device / "t.json").read_text(), "t").milliseconds.values()
    )


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "networks.zip"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        save_latency_networks(plain_network(3), images(40, 8), path, samples=30)
    assert path.read_bytes() == b"mine"
    nothing = build("g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="factorize"):
        save_latency_networks(nothing, images(40, 4), path, force=True, samples=30)
    assert path.read_bytes() == b"mine"


def test_work_of_chains_is_what_keys_say(device: Path) -> None:
    """The oracle counts multiply-adds in the file."""
    entries = json.loads((device / "networks.json").read_text())["networks"]
    entry = next(each for each in entries if each["key"].endswith("batch 1, channel, channel 8"))
    channels = int(entry["key"].split()[1].split("x")[1])
    first, last = work(onnx.load(device / "networks" / entry["file"]))
    assert (first.weight, last.weight) == ((8, channels, 3, 3), (32, 8, 1, 1))
