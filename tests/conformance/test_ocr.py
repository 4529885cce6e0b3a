"""The networks of an OCR package: lean, with gates and hard-swish, weights in Constant nodes, open height and width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import Result, Settings, compare, convert, inspect
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.settings import Solver
from tests.conformance.ocr_images import lines, pages, turned_lines
from tests.helpers import relative, run

Array = NDArray[Any]
Images = Callable[..., Array]

PACKAGE = find_spec("rapidocr_onnxruntime")  # not imported: that takes OpenCV
MODELS = Path(PACKAGE.origin or "").parent / "models" if PACKAGE else Path()
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="the models are those of rapidocr-onnxruntime: pip install it")

DEPTHWISE = "depthwise convolution"
AT_RUN_TIME = "its weight is computed at run time"


# What the networks are for


def overlap(wanted: Array, found: Array) -> float:
    """Of the areas found to be text, the share that both networks find."""
    both, either = np.logical_and(wanted > 0.3, found > 0.3), np.logical_or(wanted > 0.3, found > 0.3)
    return float(both.sum() / either.sum())


def read_alike(wanted: Array, found: Array) -> float:
    """Share of lines that both networks read the same."""
    return float(np.mean([letters(one) == letters(other) for one, other in zip(wanted, found, strict=True)]))


def letters(scores: Array) -> list[int]:
    """The best letter of every column, where it is another one than before; 0 is none."""
    best = scores.argmax(axis=1)
    return [int(letter) for letter, before in zip(best, [0, *best], strict=False) if letter not in (0, before)]


def same_class(wanted: Array, found: Array) -> float:
    return float(np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)))


@dataclass(frozen=True)
class Case:
    """A network, its images, and how much of what it does may be lost.

    Attributes:
        file: of the model.
        images: makes a number of them from a seed.
        size: of the images it is converted with.
        other: another size that it takes.
        count: how many images are tested.
        activations: what follows the layers that can be factorized, and how often.
        reasons: why others stay, and how many.
        speedup: in multiply-adds.
        error: relative, of the output, at most.
        agreement: of what the outputs mean.
        share: of that, at least.
        metric: by name, that says the same.
        package: that the metric needs.
        score: by the metric, at least.
        solver: of its layers.
        samples: that it is calibrated with.
    """

    file: str
    images: Images
    size: dict[str, int]
    other: dict[str, int]
    count: int
    activations: dict[str, int]
    reasons: dict[str, int]
    speedup: float
    error: float
    agreement: Callable[[Array, Array], float]
    share: float
    metric: str
    package: str
    score: float
    solver: Solver = "linear"
    samples: int = 32

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(MODELS / self.file)


CASES = {
    "detection": Case(
        file="ch_PP-OCRv4_det_infer.onnx",
        images=pages,
        size={"height": 192, "width": 192},
        other={"height": 256, "width": 416},
        count=12,
        activations={"hard_swish": 14, "relu": 12, "hard_sigmoid": 10, "identity": 13, "sigmoid": 1},
        reasons={DEPTHWISE: 14},
        speedup=2.0,
        error=0.23,
        agreement=overlap,
        share=0.93,
        metric="map",
        package="faster_coco_eval",
        score=0.95,
    ),
    "recognition": Case(
        file="ch_PP-OCRv4_rec_infer.onnx",
        images=lines,
        size={"width": 320},
        other={"width": 400},
        count=20,
        activations={"hard_swish": 14, "silu": 7, "relu": 2, "hard_sigmoid": 2, "identity": 8},
        reasons={DEPTHWISE: 14, AT_RUN_TIME: 4},
        speedup=1.5,
        error=0.21,
        agreement=read_alike,
        share=0.82,
        metric="cer",
        package="rapidfuzz",
        score=0.95,
    ),
    "angle": Case(
        file="ch_ppocr_mobile_v2.0_cls_infer.onnx",
        images=turned_lines,
        size={"width": 192},
        other={"width": 256},
        count=200,
        activations={"hard_swish": 10, "relu": 12, "hard_sigmoid": 9, "identity": 12},
        reasons={DEPTHWISE: 11},
        speedup=1.3,
        error=0.15,
        agreement=same_class,
        share=0.97,
        metric="top1",
        package="numpy",
        score=0.97,
        samples=96,
    ),
}


# Solved nonlinearly, too, which takes half a minute: that it gains is tested on digits. The network that takes longest
# has nothing to convert that another one has not; what can be factorized of it is looked at by day.
NONLINEAR = {f"{name}, nonlinear": replace(case, solver="auto") for name, case in CASES.items()}
NIGHTLY = {"recognition", *NONLINEAR}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def rows(case: Case) -> list[Layer | SkippedLayer]:
    """What `inspect` finds."""
    image = case.images(0, 1, **case.size)
    return list(inspect(case.model, input_shapes={"x": image.shape}).rows)


@dataclass(frozen=True, eq=False)
class Conversion:
    """A case and what came of it.

    Attributes:
        case: what was asked for.
        result: of the conversion.
    """

    case: Case
    result: Result

    @property
    def model(self) -> onnx.ModelProto:
        assert self.result.model is not None
        return self.result.model


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY)) for name in (*CASES, *NONLINEAR)],
)
def converted(request: pytest.FixtureRequest) -> Conversion:
    case = (CASES | NONLINEAR)[request.param]
    images = case.images(0, case.samples + 8, **case.size)
    few = Settings(samples=case.samples, positions=150, refine="none", solver=case.solver, bench=False)  # to be quick
    return Conversion(case, convert(case.model, {"x": images}, few, speedup=case.speedup))


def outputs(model: onnx.ModelProto, images: Array) -> Array:
    (output,) = run(model, {"x": images}).values()
    return output


def counted(model: onnx.ModelProto, image: Array) -> dict[str, int]:
    """Multiply-adds of every Conv, ConvTranspose and MatMul, from the sizes of what it reads and makes."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    weights |= {node.output[0]: node.attribute[0].t.dims for node in model.graph.node if node.op_type == "Constant"}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "MatMul")]
    names = {name for node in nodes for name in (node.input[0], node.output[0])} - {"x"}
    shapes = {name: values.shape for name, values in run(model, {"x": image}, sorted(names)).items()}
    shapes["x"] = image.shape
    found = {}
    for node in nodes:
        x, y = shapes[node.input[0]], shapes[node.output[0]]
        if node.op_type == "MatMul":
            found[node.name] = prod(y) * x[-1]
        else:
            found[node.name] = prod(y if node.op_type == "Conv" else x) * prod(weights[node.input[1]][1:])
    return found


def test_all_but_depthwise_convolutions_can_be_factorized(case: Case, rows: list[Layer | SkippedLayer]) -> None:
    assert sum(isinstance(row, Layer) for row in rows) == sum(case.activations.values())
    assert Counter(row.reason for row in rows if isinstance(row, SkippedLayer)) == case.reasons
    assert {row.name: row.macs for row in rows if row.macs} == counted(case.model, case.images(0, 1, **case.size))


def test_every_activation_is_recognised(case: Case, rows: list[Layer | SkippedLayer]) -> None:
    found = Counter(row.activation.name for row in rows if isinstance(row, Layer))
    assert found == case.activations


@pytest.mark.slow
def test_the_converted_network_is_valid_and_as_cheap_as_said(converted: Conversion) -> None:
    case, report = converted.case, converted.result.report
    onnx.checker.check_model(converted.model, full_check=True)
    assert list(converted.model.graph.input) == list(case.model.graph.input)
    assert list(converted.model.graph.output) == list(case.model.graph.output)
    assert report.speedup >= case.speedup
    image = case.images(0, 1, **case.size)
    assert sum(counted(converted.model, image).values()) == report.macs[1]


@pytest.mark.slow
@pytest.mark.parametrize("resized", [False, True], ids=["size of calibration", "other size"])
def test_what_it_finds_stays_the_same(converted: Conversion, resized: bool) -> None:
    case = converted.case
    images = case.images(1, case.count, **(case.other if resized else case.size))
    wanted, found = outputs(case.model, images), outputs(converted.model, images)
    assert wanted.shape == found.shape
    assert relative(wanted, found) < case.error
    assert case.agreement(wanted, found) >= case.share


@pytest.mark.slow
def test_measures_by_name_say_the_same(converted: Conversion) -> None:
    case = converted.case
    pytest.importorskip(case.package)
    images = case.images(1, case.count, **case.size)
    measured = compare(case.model, converted.model, {"x": images}, metric=case.metric).metric
    assert measured is not None
    assert measured.original == 1  # held against itself
    assert measured.converted >= case.score
    if case.metric == "top1":
        assert measured.converted == same_class(outputs(case.model, images), outputs(converted.model, images))
