"""What fine-tuning brings back of the accuracy that a conversion loses, CIFAR-10.

Usage::

    python tools/bench/finetune.py --shared ../shared [--speedups 3 4 5 8] [--learn original both]
        [--samples 50000] [--epochs 10] [--threads 2] [--json finetune.json]

The network is converted with 1,000 unlabelled training images, then trained on all of them (or fewer), and judged on
5,000 test images that neither has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from onnx_lowrank.torch import finetune
from yardsticks import NETWORKS


def main() -> None:
    """Convert, train, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--speedups", type=float, nargs="+", default=[3, 4, 5, 8])
    parser.add_argument("--learn", nargs="+", default=["original", "both"], help="original, labels, both")
    parser.add_argument("--samples", type=int, help="training images at most")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}")
    network, rows = NETWORKS["cifar10"](arguments.shared), []
    for speedup in arguments.speedups:
        started = time.perf_counter()
        converted = network.convert(speedup=speedup, threads=arguments.threads)
        assert converted.model is not None
        row: dict[str, Any] = {"speedup": speedup, "converted": network.loss(converted.model)}
        row["conversion_s"] = time.perf_counter() - started
        print(f"{speedup:g}x: {row['converted']:.2f} {network.unit} (in {row['conversion_s']:.0f} s)", flush=True)
        for learn in arguments.learn:
            trained = finetune(
                network.model,
                converted.model,
                network.data,
                preprocessing=network.preprocessing,
                learn=learn,
                samples=arguments.samples,
                epochs=arguments.epochs,
                threads=arguments.threads,
            )
            row[learn] = {
                "lost": network.loss(trained.model),
                "minutes": trained.seconds / 60,
                "learning_rate": trained.learning_rate,
                "best": trained.best,
            }
            print(f"  learnt from {learn}: {row[learn]['lost']:.2f}, {row[learn]}", flush=True)
        rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
