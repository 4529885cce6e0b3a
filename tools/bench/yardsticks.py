"""What the benchmarks share: the networks, what to calibrate with, how far a converted one is off, uniform ranks.

None of them is part of the project; ``--shared`` names the folder with models/ and data/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import onnx_lowrank as olr
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.cost import chain_macs
from onnx_lowrank.layer import Layer
from onnx_lowrank.plan import largest_ranks
from onnx_lowrank.tensor_spec import TensorSpec

LAST_BLOCK = "functional_1/block5_conv3_1/Relu:0"


@dataclass(frozen=True, eq=False)
class Network:
    """A network to measure on.

    Attributes:
        name: for the table.
        model: the original.
        speedups: to convert at.
        inputs: some calibration samples.
        convert: `olr.convert` with the calibration samples in place; takes settings.
        loss: what a converted model loses on samples that were not solved with.
        unit: of the loss.
    """

    name: str
    model: Path
    speedups: tuple[float, ...]
    inputs: Callable[[int], NDArray[Any]]
    convert: Callable[..., olr.Result]
    loss: Callable[[onnx.ModelProto], float]
    unit: str


def convolutions(network: Network) -> tuple[list[Layer], int]:
    """Layers to factorize, and the multiply-adds of those that stay."""
    rows = olr.inspect(network.model).rows
    layers = [row for row in rows if isinstance(row, Layer)]
    return layers, sum(row.macs for row in rows if not isinstance(row, Layer))


def largest_share(fits: Callable[[float], bool]) -> float:
    """The largest share of 0 to 1 that fits, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def uniform(layer: Layer, share: float, method: str) -> olr.LayerPlan:
    """The same share of every layer's largest rank; a layer whose chain would cost more stays."""
    ranks: dict[str, Any] = {method: max(1, int(share * largest_ranks(layer)[method]))}
    plan = olr.LayerPlan(layer.name, method, **ranks)
    return plan if chain_macs(layer, plan) < layer.macs else olr.LayerPlan(layer.name)


def uniform_plan(network: Network, speedup: float, method: str) -> tuple[olr.RankPlan, float]:
    """The largest share that the budget allows, for all layers alike; and the speedup it really is."""
    layers, skipped = convolutions(network)
    whole = skipped + sum(layer.macs for layer in layers)

    def spent(share: float) -> int:
        return skipped + sum(chain_macs(layer, uniform(layer, share, method)) for layer in layers)

    share = largest_share(lambda share: spent(share) <= whole / speedup)
    return olr.RankPlan(tuple(uniform(layer, share, method) for layer in layers)), whole / spent(share)


def vgg16(shared: Path) -> Network:
    """VGG-16, 100 ImageNet images to calibrate, 100 others to measure the last block's relative error on."""
    model = shared / "models/vgg16_brain_mri.onnx"
    spec = TensorSpec("input", np.dtype(np.float32), (None, 240, 240, 3))
    images = open_samples(shared / "data/imagenet_sample.tar", [spec], olr.preset("zero-one"))
    order = np.random.default_rng(0).permutation(len(images))
    # Four more than are solved with: verification takes them, and not the hundred once more.
    calibration, held_out = (images.read(np.sort(order[part])) for part in (slice(0, 104), slice(104, 204)))

    def convert(**settings: Any) -> olr.Result:
        return olr.convert(model, calibration, **{"samples": 100, **settings})

    def loss(converted: onnx.ModelProto) -> float:
        return olr.compare(model, converted, held_out, tensors=[LAST_BLOCK]).outputs[LAST_BLOCK].relative_error

    speedups, unit = (2.0, 3.0, 4.0, 5.0), "relative error of the last block"
    return Network("VGG-16", model, speedups, lambda count: calibration["input"][:count], convert, loss, unit)


def cifar10(shared: Path) -> Network:
    """CIFAR-10 VGG-16, 1,000 training images to calibrate, top-1 on all 5,000 test images."""
    model, data = shared / "models/vgg16_cifar10_half.onnx", f"{shared}/data/cifar10.zip/cifar10"
    preprocessing = olr.Preprocessing("cifar10", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

    def convert(**settings: Any) -> olr.Result:
        return olr.convert(model, f"{data}/train", preprocessing=preprocessing, **{"samples": 1000, **settings})

    def loss(converted: onnx.ModelProto) -> float:
        compared = olr.compare(model, converted, f"{data}/test", labels=True, preprocessing=preprocessing)
        assert compared.accuracy is not None
        before, after = compared.accuracy.top1
        return 100 * (before - after)

    def inputs(count: int) -> NDArray[Any]:
        spec = TensorSpec("input", np.dtype(np.float32), (None, 3, 32, 32))
        samples = open_samples(f"{data}/train", [spec], preprocessing)
        return samples.read(np.random.default_rng(0).permutation(len(samples))[:count])["input"]

    return Network("CIFAR-10 VGG-16", model, (2.0, 3.0, 4.0), inputs, convert, loss, "points of top-1 lost")


NETWORKS = {"vgg16": vgg16, "cifar10": cifar10}
