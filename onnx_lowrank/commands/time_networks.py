"""Times the networks beside it with the own tool of a runtime, and writes a table of latencies for onnx-lowrank.

`latency-networks` puts this file into its archive. It needs Python 3.9 or newer and no package, so that it runs on the
device itself, or on a computer that reaches the device by a command such as ``adb shell``:

    python time_networks.py ncnn table.json --threads 4 --device "Phone 12"

Runtimes that do not read ONNX need their converter too, which may have run on another computer: ``--convert-only``.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence  # noqa: UP035  (this file runs where Python is older)

_SCHEMA = 2
_SMALLEST_MS = 0.001  # tools round to 0.01 ms: no time is 0
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Network:
    """One of the networks in the archive.

    Attributes:
        key: what the table calls it.
        file: its ONNX file.
        inputs: shape by input name.
    """

    key: str
    file: Path
    inputs: dict[str, list[int]]


@dataclass(frozen=True)
class Job:
    """How networks are timed.

    Attributes:
        tool: words of the command that times.
        threads: it runs with.
        runs: of each network.
        folder: what the folder of the networks is called where the tool runs.
        precision: that is wanted.
    """

    tool: Sequence[str]
    threads: int
    runs: int
    folder: str
    precision: str


@dataclass(frozen=True)
class Runtime:
    """A runtime and its tools.

    Attributes:
        tool: the one that times.
        options: words behind the tool that have it time a network.
        pattern: the shortest time as the tool prints it, and its unit, milliseconds where it names none.
        suffix: of its networks.
        converter: the one that converts; empty where it reads ONNX.
        conversion: words behind the converter.
    """

    tool: str
    options: Callable[[Job, Network, str], Sequence[str]]
    pattern: str
    suffix: str = ".onnx"
    converter: str = ""
    conversion: Callable[[Network], Sequence[str]] = lambda _: ()


def _onnxruntime(job: Job, _: Network, path: str) -> Sequence[str]:
    return ["-I", "-e", "cpu", "-m", "times", "-r", str(job.runs), "-x", str(job.threads), path]


def _openvino(job: Job, _: Network, path: str) -> Sequence[str]:
    number = ["-niter", str(job.runs), "-nthreads", str(job.threads), "-nstreams", "1"]
    return ["-m", path, "-d", "CPU", "-api", "sync", "-hint", "none", *number]


def _tensorrt(job: Job, _: Network, path: str) -> Sequence[str]:
    return [f"--onnx={path}", f"--iterations={job.runs}", "--useCudaGraph", "--noDataTransfers"]


def _ncnn(job: Job, network: Network, path: str) -> Sequence[str]:
    # The axis of samples is left out, and the last axis comes first.
    shapes = ",".join("[" + ",".join(map(str, shape[:0:-1])) + "]" for shape in network.inputs.values())
    return [str(job.runs), str(job.threads), "0", "-1", "0", f"param={path}", f"shape={shapes}"]


def _ncnn_conversion(network: Network) -> Sequence[str]:
    shapes = ",".join("[" + ",".join(map(str, shape)) + "]" for shape in network.inputs.values())
    return [str(network.file), f"inputshape={shapes}"]


def _mnn(job: Job, _: Network, path: str) -> Sequence[str]:
    folder = path.rpartition("/")[0]  # of one network, since the tool times all that it finds
    precision = {"f32": "1", "f16": "2", "bf16": "3"}[job.precision]
    return [folder, str(job.runs), "2", "0", str(job.threads), precision]


def _mnn_conversion(network: Network) -> Sequence[str]:
    return ["-f", "ONNX", "--modelFile", str(network.file), "--MNNModel", str(converted(network.file, ".mnn")),
            "--bizCode", "MNN"]  # fmt: skip


_TIME = r" *([0-9.]+(?:e[-+]?[0-9]+)?) *(s|ms|us)?\b"
_UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "": 1.0}
RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime_perf_test", _onnxruntime, rf"Min Latency(?: is|:){_TIME}"),
    "openvino": Runtime("benchmark_app", _openvino, rf"Min:{_TIME}"),
    "tensorrt": Runtime("trtexec", _tensorrt, rf"GPU Compute Time: min ={_TIME}"),
    "ncnn": Runtime("benchncnn", _ncnn, rf"min ={_TIME}", ".ncnn.param", "pnnx", _ncnn_conversion),
    "mnn": Runtime("benchmark.out", _mnn, rf"min ={_TIME}", ".mnn", "MNNConvert", _mnn_conversion),
}


def converted(file: Path, suffix: str) -> Path:
    """Return where a network is in a runtime's format: MNN's each in a folder of its own, as its tool wants it."""
    return file.parent / file.stem / f"{file.stem}{suffix}" if suffix == ".mnn" else file.with_suffix(suffix)


def convert(runtime: Runtime, networks: Sequence[Network], converter: Sequence[str]) -> None:
    """Convert the networks that have not been converted yet."""
    for position, network in enumerate(networks):
        target = converted(network.file, runtime.suffix)
        if runtime.converter and not target.is_file():
            _say(f"converting {position + 1} of {len(networks)}")
            target.parent.mkdir(exist_ok=True)
            text = _output([*converter, *runtime.conversion(network)])
            if not target.is_file():
                sys.exit(f"error: {network.file}: {converter[0]} wrote no {target.name}: {_last_line(text)}")


def time_all(runtime: Runtime, networks: Sequence[Network], job: Job) -> dict[str, float]:
    """Return the shortest time of every network in milliseconds, by its key."""
    found = {}
    for position, network in enumerate(networks):
        _say(f"timing {position + 1} of {len(networks)}")
        file = converted(network.file, runtime.suffix)
        path = f"{job.folder}/{file.relative_to(network.file.parent).as_posix()}"
        text = _output([*job.tool, *runtime.options(job, network, path)])
        times = re.findall(runtime.pattern, text)
        if not times or not math.isfinite(float(times[-1][0])):
            sys.exit(f"error: {network.file}: {job.tool[0]} printed no time: {_last_line(text)}")
        number, unit = times[-1]
        found[network.key] = max(_SMALLEST_MS, _UNITS[unit] * float(number))
    return found


def read_networks(folder: Path) -> tuple[list[Network], int]:
    """Return the networks of an archive, and how many channels kernels process at a time."""
    listed = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    networks = [
        Network(entry["key"], folder / "networks" / entry["file"], entry["inputs"]) for entry in listed["networks"]
    ]
    return networks, listed["block"]


def table(machine: dict[str, Any], milliseconds: dict[str, float]) -> str:
    """Return a table that `--latency-table` reads."""
    return json.dumps({"schema": _SCHEMA, "machine": machine, "milliseconds": milliseconds}, indent=1) + "\n"


def _output(command: Sequence[str]) -> str:
    """Return all that a command prints."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TIMEOUT_S, check=False, text=True,
            errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        sys.exit(f"error: {command[0]}: not found: install it, or say where it is with --tool or --converter")
    except subprocess.TimeoutExpired:
        sys.exit(f"error: {shlex.join(command)}: did not end within {_TIMEOUT_S} s")
    if done.returncode:
        sys.exit(f"error: {shlex.join(command)}: exit code {done.returncode}: {_last_line(done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\r")
    sys.stderr.flush()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the words of the command line."""
    parser = argparse.ArgumentParser(description="Time networks with the own tool of a runtime.")
    add = parser.add_argument
    add("runtime", choices=sorted(RUNTIMES))
    add("table", type=Path, help="JSON file to write, for onnx-lowrank --latency-table")
    add("--threads", type=int, default=1)
    add("--runs", type=int, default=10, help="of every network")
    add("--device", default="device", help="name of the device, for reports")
    add("--version", default="unknown", help="of the runtime, for reports")
    add("--precision", choices=["f32", "tf32", "f16", "bf16"], help="that the runtime computes in")
    add("--tool", type=shlex.split, help="command that times, such as 'adb shell /data/local/tmp/benchncnn'")
    add("--converter", type=shlex.split, help="command that converts, such as /opt/pnnx")
    add("--folder", help="what the folder 'networks' is called where the tool runs")
    add("--convert-only", action="store_true", help="only convert the networks; nothing is timed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all networks and write the table."""
    options = parse(arguments)
    runtime = RUNTIMES[options.runtime]
    networks, block = read_networks(Path(__file__).resolve().parent)
    convert(runtime, networks, options.converter or [runtime.converter])
    if options.convert_only:
        return
    folder = options.folder or str(networks[0].file.parent)
    precision = options.precision or ("tf32" if options.runtime == "tensorrt" else "f32")
    job = Job(options.tool or [runtime.tool], options.threads, options.runs, folder.rstrip("/"), precision)
    machine = {
        "runtime": options.runtime, "version": options.version, "precision": precision,
        "provider": "tensorrt" if options.runtime == "tensorrt" else "cpu", "device": options.device,
        "threads": options.threads, "block": block,
    }  # fmt: skip
    options.table.write_text(table(machine, time_all(runtime, networks, job)), encoding="utf-8")
    _say(f"{len(networks)} networks timed, written: {options.table}\n")


if __name__ == "__main__":
    main()
