"""What fine-tuning brings back of the accuracy that a conversion loses, CIFAR-10.

Usage::

    python tools/bench/finetune.py --shared ../shared [--speedups 3 4 5 8] [--learn original both]
        [--samples 50000] [--epochs 10] [--validation 2000] [--threads 2] [--json finetune.json]

The network is converted with 1,000 unlabelled training images, then trained on all of them (or fewer), and judged on
5,000 test images that neither has seen. With ``--validation`` so many of these choose the epoch and the learning rate,
since the original knows the training images by heart; the loss on the others is given too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import onnx
import torch

import onnx_lowrank as olr
from network import Network
from onnx_lowrank.torch import finetune
from yardsticks import NETWORKS

_TESTED = "cifar10/test/"  # in the archive


def main() -> None:
    """Convert, train, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--speedups", type=float, nargs="+", default=[3, 4, 5, 8])
    parser.add_argument("--learn", nargs="+", default=["original", "both"], help="original, labels, both")
    parser.add_argument("--samples", type=int, help="training images at most")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--validation", type=int, default=0, help="test images that choose")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}")
    network, rows = NETWORKS["cifar10"](arguments.shared), []
    with tempfile.TemporaryDirectory() as folder:
        parts = _parted(arguments.shared, arguments.validation, Path(folder)) if arguments.validation else None
        for speedup in arguments.speedups:
            rows.append(_row(network, speedup, parts, arguments))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _parted(shared: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """Folders of test images: those that choose, evenly spread over all classes, and the others."""
    choosing, others = folder / "choosing", folder / "others"
    with zipfile.ZipFile(shared / "data/cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(_TESTED) and not n.endswith("/"))
        for number, name in enumerate(names):
            chosen = number * count // len(names) != (number + 1) * count // len(names)
            file = (choosing if chosen else others) / name.removeprefix(_TESTED)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(name))
    return choosing, others


def _row(
    network: Network, speedup: float, parts: tuple[Path, Path] | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Convert at one speedup, train, judge."""
    started = time.perf_counter()
    converted = network.convert(speedup=speedup, threads=arguments.threads)
    assert converted.model is not None
    row: dict[str, Any] = {"speedup": speedup, "converted": _lost(network, converted.model, parts)}
    row["conversion_s"] = time.perf_counter() - started
    print(f"{speedup:g}x: {row['converted']} {network.unit} (in {row['conversion_s']:.0f} s)", flush=True)
    for learn in arguments.learn:
        trained = finetune(
            network.model,
            converted.model,
            network.data,
            validation=parts and parts[0],
            preprocessing=network.preprocessing,
            learn=learn,
            samples=arguments.samples,
            epochs=arguments.epochs,
            threads=arguments.threads,
        )
        row[learn] = {
            "lost": _lost(network, trained.model, parts),
            "minutes": trained.seconds / 60,
            "learning_rate": trained.learning_rate,
            "best": trained.best,
        }
        print(f"  learnt from {learn}: {row[learn]}", flush=True)
    return row


def _lost(network: Network, model: onnx.ModelProto, parts: tuple[Path, Path] | None) -> dict[str, float]:
    """Points of top-1 lost on all test images, and on those that did not choose."""
    lost = {"all": network.loss(model)}
    if parts:
        found = olr.compare(network.model, model, parts[1], labels=True, preprocessing=network.preprocessing)
        assert found.accuracy is not None
        before, after = found.accuracy.top1
        lost["others"] = 100 * (before - after)
    return {name: round(each, 2) for name, each in lost.items()}


if __name__ == "__main__":
    main()
