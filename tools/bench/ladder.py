"""Measure what each step of the method contributes, on the real networks of the benchmark.

Usage::

    python tools/bench/ladder.py vgg16 --shared ../shared [--speedup 4] [--seed 1] [--threads 2] [--json ladder.json]
    python tools/bench/ladder.py cifar10 --shared ../shared
    python tools/bench/ladder.py efficientnet-lite0 --shared ../shared --speedup 1.5

From weight SVD with the same share of ranks in every layer to the tool with its defaults: each row adds one step and
has the loss on samples that were not used for solving. The steps from "order of the paper" to "refined" have the same
ranks; those behind them choose their own. Both need PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from onnx_lowrank.errors import VerificationError
from yardsticks import NETWORKS, uniform_plan

UNIFORM: dict[str, dict[str, Any]] = {
    "weight SVD, uniform ranks": {"solver": "weights"},
    "linear symmetric, uniform ranks": {"solver": "linear", "asymmetric": False},
    "linear asymmetric, uniform ranks": {"solver": "linear"},
    "nonlinear asymmetric, uniform ranks": {},
}
CHANNEL: dict[str, dict[str, Any]] = {
    "ranks selected by energy": {"selection": "energy"},
    "ranks selected by error": {},
}
ALL_METHODS: dict[str, dict[str, Any]] = {
    "spatial too, order of the paper": {"solver": "paper"},
    "spatial filters and map from data, linear": {"solver": "linear"},
    "the same, nonlinear": {"refine": "none"},
    "refined (--refine fast)": {"refine": "fast"},
}
WEIGHED: dict[str, dict[str, Any]] = {
    "errors weighed by the outputs (default)": {"refine": "fast"},
    "longer, and block by block (--refine full)": {"refine": "full"},
}


def main() -> None:
    """Measure all steps on one network and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--speedup", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="to convert with; all if not given")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}")
    network = replace(NETWORKS[arguments.network](arguments.shared), threads=arguments.threads)
    speedup, alike = arguments.speedup, {"weighting": "none"}
    print(f"{network.name}: {network.unit}", flush=True)
    uniform, _ = uniform_plan(network, speedup, "channel")
    chosen = network.convert(speedup=speedup, dry_run=True, seed=arguments.seed, **alike).plan
    by_channel = {"speedup": speedup, "method": "channel"}
    steps = {name: {"plan": uniform, **alike, **settings} for name, settings in UNIFORM.items()}
    steps |= {name: {**by_channel, **alike, **settings} for name, settings in CHANNEL.items()}
    steps |= {name: {"plan": chosen, **alike, **settings} for name, settings in ALL_METHODS.items()}
    steps |= {name: {"speedup": speedup, "weighting": "outputs", **settings} for name, settings in WEIGHED.items()}
    rows = []
    for name, settings in steps.items():
        start = time.perf_counter()
        try:
            result = network.convert(seed=arguments.seed, **settings)
        except VerificationError as error:  # the lowest steps may be so bad that the tool refuses them
            print(f"{name:42} {error}", flush=True)
            continue
        seconds = time.perf_counter() - start
        assert result.model is not None
        loss = network.loss(result.model)
        rows.append({"step": name, "macs": result.report.speedup, "loss": loss, "s": seconds})
        stages = "  ".join(f"{stage} {taken:.0f}" for stage, taken in result.report.seconds.items())
        print(f"{name:42} {result.report.speedup:5.2f}x  {loss:8.4f}   seconds: {stages}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
