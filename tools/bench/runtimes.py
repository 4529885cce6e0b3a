"""Networks converted for a runtime under its own measured milliseconds: asked for, measured, lost.

Usage::

    python tools/bench/runtimes.py vgg16 --runtimes ncnn,mnn,openvino --shared ../shared [--speedup 3] [--threads 1]
        [--method auto | --method channel,width] [--keep FOLDER] [--json runtimes.json]

A row per runtime: the speedup of the written file as measured there after the conversion (medians, original and
converted in turns) with its bounds, the loss on samples that were not used for solving, the seconds it took to measure
the layers, and what methods were chosen. Latencies are measured anew, not taken from the user's cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx_lowrank as olr
from network import Network
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.runtime.progress import Item
from yardsticks import NETWORKS


def main() -> None:
    """Convert for every runtime and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--runtimes", type=lambda text: text.split(","), default=["onnxruntime"])
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", type=lambda text: text.split(",") if "," in text else text, default="auto")
    parser.add_argument("--keep", type=Path, help="folder for the converted networks")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network](arguments.shared)
    print(f"{network.name}, {arguments.speedup:g}x asked for, {arguments.threads} threads, {platform.machine()}")
    rows = []
    for runtime in arguments.runtimes:
        rows.append(_row(network, runtime, arguments))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _row(network: Network, runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    clock, begin = Clock(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = olr.convert(
                network.model,
                network.data,
                preprocessing=network.preprocessing,
                progress=clock,
                samples=network.samples,
                threads=arguments.threads,
                runtime=runtime,
                cost="latency",
                speedup=arguments.speedup,
                method=arguments.method,
                latency_table=Path(folder) / "table.json",
                input_shapes=network.input_shapes,
            )
        except BudgetError as error:
            return {"network": network.name, "runtime": runtime, "error": str(error), "table_s": clock.table_s}
        machine = json.loads((Path(folder) / "table.json").read_text())["machine"]
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        result.save(arguments.keep / f"{arguments.network}-{runtime.replace(':', '-')}.onnx", force=True)
    report = result.to_dict()
    assert result.model is not None
    return {
        "network": network.name,
        "runtime": runtime,
        "machine": machine,
        "asked": arguments.speedup,
        "latency": report["latency"],
        "macs": report["speedup"]["macs"],
        "loss": network.loss(result.model),
        "unit": network.unit,
        "methods": dict(Counter(entry.method for entry in result.plan)),
        "table_s": clock.table_s,
        "seconds": report["seconds"],
        "total_s": time.perf_counter() - begin,
    }


class Clock:
    """Watches a conversion: how long layers are timed."""

    table_s = 0.0

    def track(self, items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:  # noqa: ARG002
        """Pass items on."""
        begin = time.perf_counter()
        yield from items
        if stage == "latency":
            self.table_s += time.perf_counter() - begin


if __name__ == "__main__":
    main()
