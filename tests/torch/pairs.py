"""Small networks with a converted version that has something left to learn, and data for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from demo_data import Digits, load_digits
from onnx_lowrank import Result, Settings, convert
from tests.conformance.scene_networks import channels_last, detector
from tests.helpers import plain_network
from tests.networks import images, network
from tests.torch.real_networks import DEMO

Array = NDArray[Any]
# Fitting filters instead of responses leaves enough of an error to see it fall. Methods are named, so that trainings
# start from the same networks whatever `auto` chooses.
ROUGH = Settings(
    speedup=3,
    samples=24,
    positions=40,
    rank_multiple=1,
    refine="none",
    solver="weights",
    method=("channel", "spatial", "spatial-channel"),
    bench=False,
    threads=1,
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A network, its converted version, and samples.

    Attributes:
        original: the network.
        result: of its conversion.
        samples: for both.
    """

    original: onnx.ModelProto
    result: Result
    samples: Array

    @property
    def converted(self) -> onnx.ModelProto:
        assert self.result.model is not None
        return self.result.model


def _last(batch: Array) -> Array:
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1))


MADE: dict[str, tuple[Callable[[], onnx.ModelProto], Callable[[], Array]]] = {
    "scores": (network, lambda: images(128, 12)),
    "fixed batch": (partial(network, "4"), lambda: images(100, 12)),
    "maps": (partial(plain_network, 3, 16), lambda: images(128, 8)),
    "detector": (detector, lambda: images(40, 32)),
    "channels last": (channels_last, lambda: _last(images(64, 16))),
}


@cache
def pair(name: str) -> Pair:
    """One of `MADE`."""
    make, samples = MADE[name]
    return converted_pair(make(), samples())


def converted_pair(original: onnx.ModelProto, samples: Array, **changes: Any) -> Pair:
    """A network beside its converted version."""
    return Pair(original, convert(original, {original.graph.input[0].name: samples}, ROUGH, **changes), samples)


@cache
def digits() -> Digits:
    """A few digits of each class, in random order."""
    everything = load_digits()
    chosen = np.random.default_rng(0).permutation(len(everything.labels))[:200]
    return Digits(everything.images[chosen], everything.labels[chosen])


@cache
def demo() -> Pair:
    """The demo network, which tells digits apart."""
    return converted_pair(onnx.load(DEMO), digits().inputs, speedup=4, rank_multiple=8)


def save_classes(folder: Path, pictures: Array, labels: Array) -> Path:
    """Write images (uint8; grey, or three channels last) into a folder for each class."""
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:04}.png")
    return folder


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers by name."""
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def perturbed(model: onnx.ModelProto, share: float, seed: int = 0) -> onnx.ModelProto:
    """The same network, noise added to its filters in proportion to their size."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    generator = np.random.default_rng(seed)
    for tensor in changed.graph.initializer:
        old = numpy_helper.to_array(tensor)
        if old.ndim >= 2:
            noise = generator.standard_normal(old.shape) * old.std() * share
            tensor.CopyFrom(numpy_helper.from_array((old + noise).astype(old.dtype), tensor.name))
    return changed


def in_onnxruntime_alone() -> onnx.ModelProto:
    """A network with an operator that PyTorch knows nothing of."""
    model = network()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain, relu.name = "QuickGelu", "com.microsoft", "quick"
    model.opset_import.add(domain="com.microsoft", version=1)
    return model
