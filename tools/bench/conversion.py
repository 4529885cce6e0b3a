"""Measure the time of a conversion against a lower bound: one pass of the original and one of the converted network.

Usage::

    python tools/bench/conversion.py vgg16 --shared ../shared [--samples 128] [--memory 1]
    python tools/bench/conversion.py chain residual concat [--depths 8,16,32,64] [--samples 64,256] [--channels 32]
        [--size 32] [--speedup 2] [--refine fast] [--provider cpu] [--threads 2] [--json conversion.json]
    python tools/bench/conversion.py vgg16 efficientnet-lite0 --speedup 2 --samples 128 --against ../older [--rounds 3]

``chain``, ``residual`` and ``concat`` are synthetic networks of ``--depths`` 3x3 convolutions of equal size with
random weights. Every conversion runs in a process of its own, so that peak memory is its own. Both passes are timed in
the same process, right after it. The total in the ratio excludes verification and the measurement of latency.

With ``--against``, a checkout of another state of the project, both convert in turns, each in a process of its own, by
`convert_once.py`; the ratio is that of the medians of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import onnx_lowrank as olr
from onnx_lowrank.calibrate import default_batch, iterate_batches, open_samples, split_samples
from onnx_lowrank.runtime.network import open_network
from onnx_lowrank.runtime.session import Session, choose_provider
from yardsticks import NETWORKS

SYNTHETIC = ("chain", "residual", "concat")
_FILES = {"vgg16": "data/imagenet_sample.tar"}  # more images than the other benchmarks use, and undecoded
_EXCLUDED = ("verify", "bench", "total")  # of the seconds of a report


@dataclass(frozen=True)
class Case:
    """One conversion.

    Attributes:
        network: of `yardsticks`, or a synthetic one.
        depth: number of convolutions of a synthetic network.
        samples: to calibrate with.
    """

    network: str
    depth: int
    samples: int


def main() -> None:
    """Convert every network and print a row for each conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=[*sorted(NETWORKS), *SYNTHETIC])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--depths", type=_integers, default=(8, 16, 32, 64))
    parser.add_argument("--samples", type=_integers, default=(128,))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="height and width of synthetic networks' inputs")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--refine", default="fast")
    parser.add_argument("--memory", type=float)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--against", type=Path, help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="conversions by each state, with --against")
    arguments = parser.parse_args()
    if arguments.against:
        if not (arguments.against / "onnx_lowrank").is_dir():  # or this state would be compared with itself
            parser.error(f"--against {arguments.against}: no checkout of this project, it has no folder onnx_lowrank")
        _compare_states(arguments)
        return
    print(f"provider {arguments.provider}, {arguments.threads} threads, refine {arguments.refine}")
    print("network   depth  samples  original  converted   total  ratio  passes        peak  seconds by stage")
    rows = []
    for case in _cases(arguments):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            row = process.submit(_converted, case, arguments).result()
        rows.append(asdict(case) | row)
        print(_line(case, row), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    for network in arguments.networks:
        for depth in arguments.depths if network in SYNTHETIC else (0,):
            for samples in arguments.samples:
                yield Case(network, depth, samples)


def _converted(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Convert, then run both networks once over the calibration samples."""
    settings = olr.Settings(
        speedup=arguments.speedup,
        samples=case.samples,
        refine=arguments.refine,
        memory=arguments.memory,
        provider=arguments.provider,
        threads=arguments.threads,
        bench=False,
    )
    model, data, preprocessing = _network(case, arguments)
    result = olr.convert(model, data, settings, preprocessing=preprocessing)
    assert result.model is not None
    report = result.report
    passes = [_one_pass(each, data, settings, preprocessing) for each in (model, result.model)]
    total = report.seconds["total"] - sum(report.seconds.get(stage, 0.0) for stage in _EXCLUDED[:2])
    return {
        "original_s": passes[0],
        "converted_s": passes[1],
        "total_s": total,
        "ratio": total / sum(passes),
        "forward_passes": report.forward_passes,
        "peak_memory_bytes": report.peak_memory_bytes,
        "seconds": report.seconds,
    }


def _compare_states(arguments: argparse.Namespace) -> None:
    """Convert with this state of the project and another one in turns, and print a row for each network."""
    states = Path(__file__).parents[2], arguments.against.resolve()
    print(f"{arguments.threads} threads, refine {arguments.refine}, {arguments.rounds} rounds, medians")
    print("network             samples    here  against  ratio  peak here  against  slowest stages here")
    for case in _cases(arguments):
        with TemporaryDirectory() as folder:
            task = _task(case, arguments, Path(folder))
            runs = [[_in_state(state, task) for state in states] for _ in range(arguments.rounds)]
        here, other = ([run[number] for run in runs] for number in range(2))
        totals, peaks = (
            [float(np.median([run[key] for run in each])) for each in (here, other)]
            for key in ("total_s", "peak_memory_bytes")
        )
        stages = sorted(here[0]["seconds"].items(), key=lambda stage: -stage[1])
        named = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages if stage not in _EXCLUDED)
        print(
            f"{case.network:<19} {case.samples:>7} {totals[0]:>6.1f}s {totals[1]:>7.1f}s {totals[0] / totals[1]:>6.2f}"
            f"  {peaks[0] / 1e9:>6.2f} GB {peaks[1] / 1e9:>5.2f} GB  {named}",
            flush=True,
        )


def _task(case: Case, arguments: argparse.Namespace, folder: Path) -> Path:
    """Write down what to convert, with the data as a file."""
    model, data, preprocessing = _network(case, arguments)
    onnx.save(model, folder / "model.onnx")
    if not isinstance(data, str | Path):
        np.savez(folder / "data.npz", **({"x": data} if isinstance(data, np.ndarray) else data))
        data = folder / "data.npz"
    keys = ("speedup", "refine", "memory", "provider", "threads")
    settings = {"samples": case.samples, "bench": False} | {key: getattr(arguments, key) for key in keys}
    task = folder / "task.json"
    entries = {"model": str(folder / "model.onnx"), "data": str(data), "preprocessing": asdict(preprocessing)}
    task.write_text(json.dumps(entries | {"settings": settings}))
    return task


def _in_state(state: Path, task: Path) -> dict[str, Any]:
    """Convert with the project as it is in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(state)}
    command = [sys.executable, str(Path(__file__).with_name("convert_once.py")), str(task)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _network(case: Case, arguments: argparse.Namespace) -> tuple[onnx.ModelProto, Any, olr.Preprocessing]:
    """Return model, data and preprocessing of a case."""
    if case.network not in SYNTHETIC:
        return _real(case.network, arguments.shared)
    model = synthetic_network(case.network, case.depth, arguments.channels, arguments.size)
    return model, smooth(case.samples + 4, arguments.channels, arguments.size), olr.preset("zero-one")


def _real(name: str, shared: Path) -> tuple[onnx.ModelProto, Any, olr.Preprocessing]:
    """Return model, data and preprocessing of a network, without the samples that other benchmarks hold in memory."""
    network = NETWORKS[name](shared)
    return onnx.load(network.model), shared / _FILES[name] if name in _FILES else network.data, network.preprocessing


def _one_pass(model: onnx.ModelProto, data: Any, settings: olr.Settings, preprocessing: olr.Preprocessing) -> float:
    """Return the seconds that a network takes for the calibration samples, decoding included."""
    provider = choose_provider(settings.provider, settings.threads)
    network = open_network(model, provider, {})
    samples = open_samples(data, network.inputs, preprocessing)
    generator = np.random.default_rng(settings.seed)
    batch_size = default_batch(network.sampled, provider.batch_elements)
    split = split_samples(samples, network.sampled, generator, settings.samples, batch_size)
    session = Session(model, provider)
    start = time.perf_counter()
    for batch in iterate_batches(samples, split.calibration, split.batch_size):
        session.run(batch)
    return time.perf_counter() - start


def synthetic_network(kind: str, depth: int, channels: int, size: int) -> onnx.ModelProto:
    """Chain convolutions of one size; ``residual``: every second ends in a sum, ``concat``: all but one read two."""
    generator, nodes, weights = np.random.default_rng(0), [], []
    tensor, before = "x", ""
    for number in range(depth):
        read, output = tensor, f"r{number}"
        if kind == "concat" and before:
            nodes.append(helper.make_node("Concat", [before, tensor], [read := f"j{number}"], axis=1))
        width = channels * (1 + (read != tensor))
        values = generator.standard_normal((channels, width, 3, 3)) * np.sqrt(2 / (9 * width))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{number}"))
        response = f"c{number}"
        nodes.append(helper.make_node("Conv", [read, f"w{number}"], [response], pads=[1] * 4))
        if kind == "residual" and number % 2 and before:
            nodes.append(helper.make_node("Add", [response, before], [response := f"s{number}"]))
        nodes.append(helper.make_node("Relu", [response], [output]))
        before, tensor = tensor, output
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["y"]))
    input_value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", channels, size, size])
    output_value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", channels, 1, 1])
    graph = helper.make_graph(nodes, kind, [input_value], [output_value], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def smooth(count: int, channels: int, size: int) -> NDArray[np.float32]:
    """Return smoothed noise, shape (count, channels, size, size), float32."""
    noise = np.random.default_rng(1).standard_normal((count, channels, size + 4, size + 4))
    windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), axis=(2, 3))
    return np.asarray(windows.mean(axis=(-2, -1)) * 4, np.float32)


def _line(case: Case, row: dict[str, Any]) -> str:
    passes = "{original:.2f} {converted:.2f}".format(**row["forward_passes"])
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["seconds"].items() if stage not in _EXCLUDED)
    peak = f"{row['peak_memory_bytes'] / 1e9:>6.2f} GB"
    return (
        f"{case.network:<9} {case.depth or '':>5} {case.samples:>8} "
        f"{row['original_s']:>8.1f}s {row['converted_s']:>9.1f}s "
        f"{row['total_s']:>6.1f}s {row['ratio']:>5.1f}x  {passes}  {peak}  {stages}"
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
