"""What the benchmarks share: networks, their calibration data and loss, plans of uniform ranks.

All but the digits are outside the repository; ``--shared`` names the folder with models/ and data/.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import onnx_lowrank as olr
from deployed import DEPLOYED
from network import Network, convolutions, largest_share
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.layers.cost import chain_macs
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

LAST_BLOCK = "functional_1/block5_conv3_1/Relu:0"


def uniform(layer: Layer, share: float, method: str) -> olr.LayerPlan:
    """Return a layer's plan at a share of its largest rank; a layer stays where its chain would cost more.

    Layers without height and width to separate, such as dense ones, are split by channels.
    """
    method = method if layer.separable else "channel"
    ranks: dict[str, Any] = {method: max(1, int(share * largest_ranks(layer)[method]))}
    plan = olr.LayerPlan(layer.name, method, **ranks)
    return plan if chain_macs(layer, plan) < layer.macs else olr.LayerPlan(layer.name)


def uniform_plan(network: Network, speedup: float, method: str) -> tuple[olr.RankPlan, float]:
    """Return the plan with the largest share, alike for all layers, that the budget allows; and its actual speedup."""
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
    # Four more than the solver uses, so that verification has held-out samples of its own.
    calibration, held_out = (images.read(np.sort(order[part])) for part in (slice(0, 104), slice(104, 204)))

    def loss(converted: onnx.ModelProto) -> float:
        return olr.compare(model, converted, held_out, tensors=[LAST_BLOCK]).outputs[LAST_BLOCK].relative_error

    speedups, unit, preprocessing = (2.0, 3.0, 4.0, 5.0), "relative error of the last block", olr.preset("zero-one")

    def inputs(count: int) -> NDArray[Any]:
        return calibration["input"][:count]

    return Network("VGG-16", model, speedups, calibration, preprocessing, 100, inputs, loss, unit)


def cifar10(shared: Path) -> Network:
    """CIFAR-10 VGG-16, 1,000 training images to calibrate, top-1 on all 5,000 test images."""
    model, data = shared / "models/vgg16_cifar10_half.onnx", f"{shared}/data/cifar10.zip/cifar10"
    preprocessing = olr.Preprocessing("cifar10", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

    def loss(converted: onnx.ModelProto) -> float:
        compared = olr.compare(model, converted, f"{data}/test", labels=True, preprocessing=preprocessing)
        assert compared.accuracy is not None
        before, after = compared.accuracy.top1
        return 100 * (before - after)

    def inputs(count: int) -> NDArray[Any]:
        spec = TensorSpec("input", np.dtype(np.float32), (None, 3, 32, 32))
        samples = open_samples(f"{data}/train", [spec], preprocessing)
        return samples.read(np.random.default_rng(0).permutation(len(samples))[:count])["input"]

    unit = "points of top-1 lost"
    speedups = (2.0, 3.0, 4.0)
    return Network("CIFAR-10 VGG-16", model, speedups, f"{data}/train", preprocessing, 1000, inputs, loss, unit)


def digits(_: Path) -> Network:
    """The bundled demo model, training digits to calibrate, 1,000 others to measure top-1 on."""
    sys.path.append(str(Path(__file__).parents[1]))
    from demo_data import load_digits, split_digits  # noqa: PLC0415  (only this network needs the extra demo)

    model = Path(__file__).parents[2] / "models/demo_mnist_vgg.onnx"
    train, held_out = split_digits(load_digits())

    def loss(converted: onnx.ModelProto) -> float:
        right = []
        for network in (onnx.load(model), converted):
            scores = next(iter(Session(network, Provider()).run({"input": held_out.inputs}).values()))
            right.append(float((scores.argmax(axis=1) == held_out.labels).mean()))
        return 100 * (right[0] - right[1])

    speedups, unit = (2.0, 3.0, 4.0), "points of top-1 lost"
    data, preprocessing = {"input": train.inputs}, olr.preset("zero-one")
    return Network("digits", model, speedups, data, preprocessing, 256, lambda n: train.inputs[:n], loss, unit)


NETWORKS: dict[str, Callable[[Path], Network]] = {"vgg16": vgg16, "cifar10": cifar10, "digits": digits, **DEPLOYED}
