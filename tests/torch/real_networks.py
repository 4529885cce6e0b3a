"""Networks to be turned into modules, each with batches of two sizes where it takes them, and some converted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import Settings, convert
from tests.conformance.ocr_images import lines, pages, turned_lines
from tests.conformance.scene_networks import channels_last, detector, outliner
from tests.conformance.test_ocr import CASES, MODELS, PACKAGE
from tests.conformance.test_onnx_package import NETWORKS, image_input, network
from tests.networks import images

Array = NDArray[Any]
Network = Callable[[], onnx.ModelProto]
ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "models"
DEMO = ROOT / "models" / "demo_mnist_vgg.onnx"
# As quick as possible: only the structure of the result matters, so filters are fitted instead of responses.
QUICK = Settings(
    speedup=2, samples=8, positions=40, rank_multiple=4, refine="none", solver="weights", bench=False, threads=1
)


@dataclass(frozen=True, eq=False)
class Real:
    """A network and what it takes.

    Attributes:
        read: makes it.
        batches: makes its inputs, of several sizes.
        missing: why it may not be here.
    """

    read: Network
    batches: Callable[[], list[Array]]
    missing: str = ""

    @property
    def model(self) -> onnx.ModelProto:
        if self.missing:
            pytest.skip(self.missing)
        return self.read()

    @property
    def smallest(self) -> Array:
        return min(self.batches(), key=lambda batch: batch.size)


def scenes(*sizes: tuple[int, int, int], last: bool = False) -> list[Array]:
    """Images of several counts, heights and widths."""
    made = [images(n, max(h, w), seed=n)[:, :, :h, :w] for n, h, w in sizes]
    return [np.ascontiguousarray(each.transpose(0, 2, 3, 1) if last else each) for each in made]


@cache
def read(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


@cache
def scores_of(path: Path) -> onnx.ModelProto:
    """A network without its last Softmax, which says 0 and 1 of images like these, whatever the weights are."""
    model = onnx.load(path)
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    last = makers[graph.output[0].name]
    while last.op_type != "Softmax":
        last = makers[last.input[0]]
    for node in [each for each in graph.node if last.output[0] in each.input]:
        graph.node.remove(node)
    graph.node.remove(last)
    graph.output[0].name = last.input[0]
    return model


@cache
def converted(name: str) -> onnx.ModelProto:
    """One of the networks at twice its speed."""
    model = REAL[name].model
    samples = REAL[name].batches()[0]
    many = np.concatenate([samples] * -(-10 // len(samples)))
    many = many + np.random.default_rng(0).standard_normal(many.shape).astype(np.float32) / 10
    result = convert(model, {image_input(model): many}, QUICK)
    assert result.model is not None
    return result.model


def _shared(name: str, batches: Callable[[], list[Array]], way: Callable[[Path], onnx.ModelProto] = read) -> Real:
    path = SHARED / name
    return Real(partial(way, path), batches, "" if path.is_file() else f"{path} is not here")


def _ocr(name: str, batches: Callable[[], list[Array]], way: Callable[[Path], onnx.ModelProto] = read) -> Real:
    missing = "" if PACKAGE else "the models are those of rapidocr-onnxruntime: pip install it"
    return Real(partial(way, MODELS / CASES[name].file), batches, missing)


REAL = {
    **{name: Real(partial(network, name), lambda: [images(1, 224)]) for name in NETWORKS},
    "detector": Real(cache(detector), lambda: scenes((2, 64, 96), (1, 96, 32), (3, 32, 32))),
    "outliner": Real(cache(outliner), lambda: scenes((2, 32, 48), (1, 64, 16))),
    "channels_last": Real(cache(channels_last), lambda: scenes((2, 32, 40), (1, 24, 24), last=True)),
    "demo": Real(partial(read, DEMO), lambda: [images(count, 28, 1) for count in (2, 1)]),
    "detection": _ocr("detection", lambda: [pages(0, 1, 96, 128), pages(1, 2, 64, 64)]),
    "recognition": _ocr("recognition", lambda: [lines(0, 1, 192), lines(1, 2, 96)]),
    "angle": _ocr("angle", lambda: [turned_lines(0, 2), turned_lines(1, 1, 256)], scores_of),
    "vgg16_cifar10": _shared("vgg16_cifar10_half.onnx", lambda: [images(count, 32) for count in (2, 1)]),
    "vgg16_brain_mri": _shared("vgg16_brain_mri.onnx", lambda: scenes((1, 240, 240), last=True), scores_of),
}
CONVERTED = ("detector", "outliner", "channels_last", "demo", "recognition")
REAL |= {
    f"{name}, converted": Real(partial(converted, name), REAL[name].batches, REAL[name].missing) for name in CONVERTED
}
# Converting "recognition" takes 15 s in each process that tests it; the same kinds of chains are in the others.
BY_DAY = [pytest.param(name, marks=[pytest.mark.nightly] * (name == "recognition, converted")) for name in REAL]
# A single image takes vgg16_brain_mri half a second, and structures that others have, too, are for the night.
NIGHTLY = {*(name for name, each in NETWORKS.items() if each.nightly), "recognition, converted"}
QUICK_ONES = [
    pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY)) for name in REAL if name != "vgg16_brain_mri"
]
