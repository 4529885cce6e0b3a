"""What comes with the onnx package: its cases of convolutions at full rank, its networks at half the multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank import LayerPlan, RankPlan, Settings, convert, inspect
from onnx_lowrank.errors import ModelError
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import FACTORIZATIONS, rank_kinds
from tests.conformance.random_weights import DATA, light_network
from tests.helpers import Feeds, run
from tests.networks import images

Array = NDArray[Any]

# Cases of one convolution each

CASES = {
    path.name: path
    for pattern in ("pytorch-converted/test_Conv*", "pytorch-operator/test_operator_conv*")
    for path in DATA.glob(pattern)
}
ELIGIBLE = {
    *(f"test_Conv1d{kind}" for kind in ("", "_dilated", "_pad1", "_pad1size1", "_pad2", "_pad2size1", "_stride")),
    *(f"test_Conv2d{kind}" for kind in ("", "_dilated", "_no_bias", "_padding", "_strided")),
    *(f"test_Conv3d{kind}" for kind in ("", "_dilated", "_dilated_strided", "_no_bias", "_stride", "_stride_padding")),
    "test_operator_conv",
    *(TRANSPOSED := {"test_ConvTranspose2d", "test_ConvTranspose2d_no_bias", "test_operator_convtranspose"}),
}
NARROW = {"test_Conv1d_groups", "test_Conv2d_groups", "test_Conv2d_groups_thnn", "test_Conv3d_groups"}
DEPTHWISE = {f"test_Conv2d_depthwise{kind}" for kind in ("", "_padded", "_strided", "_with_multiplier")}
REASONS = {
    **dict.fromkeys(NARROW, "2 groups of 2 channels: they pay from 32 channels on"),
    **dict.fromkeys(DEPTHWISE, "depthwise convolution"),
}
METHODS = {1: ("channel", "input", "tucker"), 2: FACTORIZATIONS, 3: ("channel", "input", "tucker")}  # by spatial axes


@dataclass(frozen=True, eq=False)
class Case:
    """A model of one node, an input and the output that belongs to it."""

    model: onnx.ModelProto
    inputs: Feeds
    output: Array

    @staticmethod
    def read(path: Path) -> Case:
        model = onnx.load(path / "model.onnx")
        first, last = (
            numpy_helper.to_array(onnx.load_tensor(path / f"test_data_set_0/{name}_0.pb"))
            for name in ("input", "output")
        )
        return Case(model, {model.graph.node[0].input[0]: first}, last)

    @property
    def samples(self) -> Feeds:
        """The input over and over: at least 20 samples, and one batch more to verify with."""
        return {name: np.concatenate([values] * (1 + -(-20 // len(values)))) for name, values in self.inputs.items()}

    def full_rank(self, method: str) -> RankPlan:
        """The largest ranks there can be, of every group."""
        (node,) = self.model.graph.node
        d, c, *kernel = next(tensor.dims for tensor in self.model.graph.initializer if tensor.name == node.input[1])
        if node.op_type == "ConvTranspose":
            d, c = c, d
        d //= next(attribute.i for attribute in node.attribute if attribute.name == "group")
        ranks = {"channel": d, "spatial": min(c * kernel[0], d * kernel[-1]), "input": min(c, d * prod(kernel))}
        return RankPlan((LayerPlan(node.output[0], method, **{kind: ranks[kind] for kind in rank_kinds(method)}),))


def axes(name: str) -> int:
    return next((count for count in METHODS if f"{count}d" in name), 2)


def test_every_case_is_known() -> None:
    assert sorted(CASES) == sorted([*ELIGIBLE, *REASONS])


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_case_is_eligible_or_there_is_a_reason(name: str) -> None:
    (row,) = inspect(CASES[name] / "model.onnx").rows
    assert isinstance(row, Layer if name in ELIGIBLE else SkippedLayer)
    assert getattr(row, "reason", None) == REASONS.get(name)


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in sorted(ELIGIBLE | NARROW) for method in METHODS[axes(name)]]
)
def test_full_rank_gives_the_output_of_the_package(name: str, method: str) -> None:
    case = Case.read(CASES[name])
    converted = convert(case.model, case.samples, plan=case.full_rank(method), bench=False).model
    assert converted is not None
    (op,) = (node.op_type for node in case.model.graph.node)
    kinds = {
        "channel": [op, "Conv"], "spatial": [op, op], "spatial-channel": [op, op, "Conv"], "input": ["Conv", op],
        "tucker": ["Conv", op, "Conv"],
    }  # fmt: skip
    assert [node.op_type for node in converted.graph.node] == kinds[method]
    (output,) = run(converted, case.inputs).values()
    # Outputs go up to 2. onnxruntime's own are off by 2.4e-7, those of two or three convolutions by up to 8.3e-7.
    np.testing.assert_allclose(output, case.output, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_what_stays_cannot_be_converted(name: str) -> None:
    case = Case.read(CASES[name])
    with pytest.raises(ModelError, match=f"no layer can be factorized.*{REASONS[name]}"):
        convert(case.model, case.samples, speedup=2)


# Whole networks


@dataclass(frozen=True)
class Expected:
    """What a network is made of and how well it is converted.

    Attributes:
        layers: convolutions and fully connected layers.
        eligible: those that can be factorized.
        error: at most, half again as much as was measured.
        divisor: how much narrower it is made.
        nightly: whether it has no structure that another one has not, so that it need not be converted every time.
    """

    layers: int
    eligible: int
    error: float
    divisor: int = 4
    nightly: bool = False


NETWORKS = {
    # Groups of a quarter of the width would be too narrow to factorize.
    "bvlc_alexnet": Expected(8, 8, 0.167, divisor=1, nightly=True),
    "densenet121": Expected(121, 121, 0.099, nightly=True),
    "inception_v1": Expected(58, 58, 0.086, nightly=True),
    "inception_v2": Expected(70, 70, 0.030, nightly=True),
    "resnet50": Expected(54, 54, 0.026),
    "shufflenet": Expected(50, 32, 0.232, divisor=1),
    "squeezenet": Expected(26, 26, 0.110),
    "vgg19": Expected(19, 19, 0.095, nightly=True),
    "zfnet512": Expected(8, 8, 0.111),
}


@cache
def network(name: str) -> onnx.ModelProto:
    return light_network(name, NETWORKS[name].divisor)


@cache
def pictures(count: int, seed: int) -> Array:
    """Smooth images of different colours and contrasts, lest random networks have the same to say of all of them."""
    generator = np.random.default_rng(seed)
    contrast, colour = generator.uniform(0.2, 2, (count, 3, 1, 1)), generator.standard_normal((count, 3, 1, 1))
    return (images(count, 224, seed=seed) * contrast + colour).astype(np.float32)


def counted_macs(model: onnx.ModelProto) -> int:
    """Multiply-adds by the shapes that onnx infers: for every output number, the weights of one filter."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    macs = {
        "Conv": lambda node: prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:]),
        "Gemm": lambda node: prod(shapes[node.output[0]]) * shapes[node.input[0]][1],
    }
    return sum(macs[node.op_type](node) for node in graph.node if node.op_type in macs)


def image_input(model: onnx.ModelProto) -> str:
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    return name


def scores(model: onnx.ModelProto, pixels: Array) -> Array:
    """What the network says of images, given one at a time: the batch size is fixed."""
    return np.stack([next(iter(run(model, {image_input(model): each[None]}).values())) for each in pixels])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_a_network_is_listed_and_counted(name: str) -> None:
    found = inspect(network(name))
    assert len(found.rows) == NETWORKS[name].layers
    assert sum(isinstance(row, Layer) for row in found.rows) == NETWORKS[name].eligible
    assert found.macs == counted_macs(network(name))


def test_the_layers_of_shufflenet_that_stay() -> None:
    rows = [row for row in inspect(network("shufflenet")).rows if isinstance(row, SkippedLayer)]
    reasons = [row.reason for row in rows]
    assert reasons.count("depthwise convolution") == 16
    assert [reason for reason in reasons if reason != "depthwise convolution"] == [
        f"4 groups of {channels} channels: they pay from 32 channels on" for channels in (6, 28)
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] * each.nightly) for name, each in NETWORKS.items()]
)
def test_half_the_multiply_adds_of_a_network(name: str) -> None:
    model = network(name)
    # Little to solve with, since it is graphs that are put to the test; the same ranks on every machine.
    quick = Settings(
        speedup=2, samples=16, positions=32, solver="linear", refine="none", bench=False, rank_multiple=4, threads=1
    )
    result = convert(model, {image_input(model): pictures(20, 0)}, quick)
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert counted_macs(result.model) == result.report.macs[1]
    assert 2 <= counted_macs(model) / counted_macs(result.model) <= 2.1
    wanted, found = (scores(each, pictures(6, 1)) for each in (model, result.model))
    assert found.shape == wanted.shape
    # Relative to how much images differ: 1 is the error of scores that are the same for all.
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted - wanted.mean(axis=0)) < NETWORKS[name].error
