"""Networks as they are deployed today: depthwise, with residual sums, gates and several heads.

EfficientNet-Lite0 is in the shared folder. The others are those that two packages carry, which need only be installed,
not imported: rapidocr-onnxruntime, and ddddocr 1.6.1 (``pip install --no-deps ddddocr==1.6.1``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import onnx_lowrank as olr
from network import Network
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

Array = NDArray[Any]

_CALIBRATION = 300  # photos; the other 200 judge
_VERIFICATION = 1  # of the calibration samples: a conversion wants one that it does not solve with
_BATCH = 20


def efficientnet_lite0(shared: Path) -> Network:
    """EfficientNet-Lite0, 300 photos to calibrate, top-1 of ImageNet's 1,000 classes on 200 others."""
    model = shared / "models/efficientnet_lite0.onnx"
    preprocessing = olr.Preprocessing("efficientnet-lite", 1.0, (127.0,), (128.0,), crop_share=224 / 256)
    photos = _photos(shared, "input", 224, preprocessing)
    assert photos.labels is not None
    order = np.random.default_rng(0).permutation(len(photos))
    calibration, held_out = order[:_CALIBRATION], order[_CALIBRATION:]
    judged, labels = photos.read(held_out)["input"], photos.labels[held_out]
    before = top1(onnx.load(model), "input", judged, labels)

    def loss(converted: onnx.ModelProto) -> float:
        return 100 * (before - top1(converted, "input", judged, labels))

    data = photos.read(calibration)
    unit = f"points of top-1 lost, of {100 * before:.1f}"
    speedups, samples = (1.2, 1.33, 1.5, 2.0), _CALIBRATION - _VERIFICATION
    inputs = partial(_first, data["input"])
    return Network("EfficientNet-Lite0", model, speedups, data, preprocessing, samples, inputs, loss, unit)


def top1(model: onnx.ModelProto, name: str, inputs: Array, labels: Array) -> float:
    """Return the share of samples that a classifier puts into the right class."""
    session = Session(model, Provider())
    batches = np.split(inputs, range(_BATCH, len(inputs), _BATCH))
    scores = np.concatenate([next(iter(session.run({name: batch}).values())) for batch in batches])
    return float((scores.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class TextNetwork:
    """One of rapidocr's networks, and the rendered text it is measured on.

    Attributes:
        file: of the model.
        images: function of `tests.conformance.ocr_images` that renders them.
        size: of the images.
        samples: to calibrate with.
        held_out: to measure on.
    """

    file: str
    images: str
    size: dict[str, int]
    samples: int
    held_out: int

    def __call__(self, _: Path) -> Network:
        """Render images and open the network."""
        sys.path.append(str(Path(__file__).parents[2]))
        from tests.conformance import ocr_images  # noqa: PLC0415  (the repository's root is on the path only now)

        render = getattr(ocr_images, self.images)
        calibration = render(0, self.samples + _VERIFICATION, **self.size)
        held_out = render(1, self.held_out, **self.size)
        model = file_of_package("rapidocr_onnxruntime", f"models/{self.file}")
        return judged_by_outputs(f"rapidocr {self.file}", model, "x", calibration, held_out)


def yolox(shared: Path) -> Network:
    """ddddocr's YOLOX at its fixed 416 x 416 and batch of 1, 32 photos to calibrate, 24 others to measure on."""
    preprocessing = olr.Preprocessing("yolox", channel_order="bgr", resize="stretch")
    photos = _photos(shared, "images", 416, preprocessing)
    order = np.random.default_rng(0).permutation(len(photos))
    calibration, held_out = (photos.read(order[part])["images"] for part in (slice(0, 33), slice(33, 57)))
    return judged_by_outputs("YOLOX", file_of_package("ddddocr", "common_det.onnx"), "images", calibration, held_out)


def judged_by_outputs(name: str, model: Path, x: str, calibration: Array, held_out: Array) -> Network:
    """Return a network that is judged by the relative error of its one output."""

    def loss(converted: onnx.ModelProto) -> float:
        (output,) = olr.compare(model, converted, {x: held_out}).outputs.values()
        return output.relative_error

    return Network(
        name,
        model,
        (1.5, 2.0),
        {x: calibration},
        olr.preset("zero-one"),
        len(calibration) - _VERIFICATION,
        partial(_first, calibration),
        loss,
        "relative error of the output",
        input_shapes={x: (1, *calibration.shape[1:])},
    )


def _photos(shared: Path, x: str, side: int, preprocessing: olr.Preprocessing) -> Samples:
    spec = TensorSpec(x, np.dtype(np.float32), (None, 3, side, side))
    classes: Sequence[str] = (shared / "data/imagenet_classes.txt").read_text().split()
    return open_samples(shared / "data/imagenet_sample.tar", [spec], preprocessing, class_names=classes)


def file_of_package(package: str, file: str) -> Path:
    """Return a file of an installed package, without importing that."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"the network is part of {package}, which is not installed: pip install --no-deps {package}")
    return Path(spec.origin).parent / file


def _first(samples: Array, count: int) -> Array:
    return samples[:count]


DEPLOYED: dict[str, Callable[[Path], Network]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "ocr-detection": TextNetwork("ch_PP-OCRv4_det_infer.onnx", "pages", {"height": 192, "width": 192}, 48, 24),
    "ocr-recognition": TextNetwork("ch_PP-OCRv4_rec_infer.onnx", "lines", {"width": 320}, 48, 24),
    "ocr-angle": TextNetwork("ch_ppocr_mobile_v2.0_cls_infer.onnx", "turned_lines", {"width": 192}, 96, 100),
    "yolox": yolox,
}
