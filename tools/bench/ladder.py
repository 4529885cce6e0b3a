"""What every step of the method brings, on the real networks of the benchmark.

Usage::

    python tools/bench/ladder.py vgg16 --shared ../shared [--json ladder.json]
    python tools/bench/ladder.py cifar10 --shared ../shared [--json cifar10.json]

``vgg16`` converts the VGG-16 with 100 ImageNet images and prints the relative error of the last block's output after
ReLU on 100 others: at 4x the ladder from weight SVD to the full method, at 2x the full method. ``cifar10`` converts the
CIFAR-10 VGG-16 with 1,000 training images at 2x, 3x and 4x and prints top-1 on all test images. No fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onnx_lowrank as olr
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.cost import chain_macs
from onnx_lowrank.layer import Layer
from onnx_lowrank.tensor_spec import TensorSpec

LAST_BLOCK = "functional_1/block5_conv3_1/Relu:0"
LADDER: dict[str, dict[str, Any]] = {
    "weight SVD, uniform ranks": {"solver": "weights", "uniform": True},
    "linear symmetric, uniform ranks": {"solver": "linear", "asymmetric": False, "uniform": True},
    "linear asymmetric, uniform ranks": {"solver": "linear", "uniform": True},
    "nonlinear asymmetric, uniform ranks": {"uniform": True},
    "nonlinear asymmetric, selected ranks": {},
}


def main() -> None:
    """Run one benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["vgg16", "cifar10"])
    parser.add_argument("--shared", type=Path, required=True, help="folder with models/ and data/")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
    )
    rows = (vgg16 if arguments.network == "vgg16" else cifar10)(arguments.shared)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def vgg16(shared: Path) -> list[dict[str, Any]]:
    """Relative error of the last block on images that were not solved with."""
    model = shared / "models/vgg16_brain_mri.onnx"
    spec = TensorSpec("input", np.dtype(np.float32), (None, 240, 240, 3))
    images = open_samples(shared / "data/imagenet_sample.tar", [spec], olr.preset("zero-one"))
    order = np.random.default_rng(0).permutation(len(images))
    calibration, held_out = (images.read(np.sort(order[part])) for part in (slice(0, 100), slice(100, 200)))
    rows = []
    for speedup, steps in ((4.0, list(LADDER)), (2.0, list(LADDER)[-1:])):
        for step in steps:
            settings = dict(LADDER[step])
            if settings.pop("uniform", False):
                settings["plan"] = uniform_plan(model, speedup)
            start = time.perf_counter()
            result = olr.convert(model, calibration, samples=100, speedup=speedup, method="channel", **settings)
            seconds = time.perf_counter() - start
            assert result.model is not None
            compared = olr.compare(model, result.model, held_out, tensors=[LAST_BLOCK])
            error = compared.outputs[LAST_BLOCK].relative_error
            rows.append(
                {"step": step, "macs": result.report.speedup, "error": error, "s": seconds}
                | {"stages": result.report.seconds, "passes": result.report.forward_passes}
            )
            print(f"{step:40} {result.report.speedup:5.2f}x  error {error:.4f}  {seconds:5.0f} s", flush=True)
            print(f"{'':40} { ({k: round(v, 1) for k, v in result.report.seconds.items()}) }", flush=True)
    return rows


def cifar10(shared: Path) -> list[dict[str, Any]]:
    """Top-1 on all test images before and after."""
    model, data = shared / "models/vgg16_cifar10_half.onnx", shared / "data/cifar10.zip"
    preprocessing = olr.Preprocessing("cifar10", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    rows = []
    for speedup in (2.0, 3.0, 4.0):
        start = time.perf_counter()
        result = olr.convert(
            model,
            f"{data}/cifar10/train",
            samples=1000,
            speedup=speedup,
            method="channel",
            preprocessing=preprocessing,
        )
        seconds = time.perf_counter() - start
        test = f"{data}/cifar10/test"
        assert result.model is not None
        compared = olr.compare(model, result.model, test, labels=True, preprocessing=preprocessing)
        assert compared.accuracy is not None
        before, after = compared.accuracy.top1
        rows.append({"macs": result.report.speedup, "top1": [before, after], "s": seconds})
        print(
            f"{result.report.speedup:5.2f}x  top-1 {before:.2%} -> {after:.2%} on {compared.images} images  "
            f"{seconds:5.0f} s",
            flush=True,
        )
    return rows


def uniform_plan(model: Path, speedup: float) -> olr.RankPlan:
    """The same share of every layer's filters, as large as the budget allows."""
    inspection = olr.inspect(model)
    layers = [row for row in inspection.rows if isinstance(row, Layer)]
    budget = inspection.macs / speedup - sum(row.macs for row in inspection.rows if not isinstance(row, Layer))
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        spent = sum(chain_macs(layer, entry) for layer, entry in zip(layers, _uniform(layers, share), strict=True))
        low, high = (share, high) if spent <= budget else (low, share)
    return olr.RankPlan(tuple(_uniform(layers, low)))


def _uniform(layers: list[Layer], share: float) -> list[olr.LayerPlan]:
    return [olr.LayerPlan(layer.name, "channel", max(1, int(share * layer.filters))) for layer in layers]


if __name__ == "__main__":
    main()
