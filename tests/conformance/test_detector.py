"""Networks with branches that meet again: a detector with three outputs, an outliner, an export with channels last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank import LayerPlan, RankPlan, Result, Settings, convert, inspect
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import FACTORIZATIONS, Factorization, largest_ranks
from tests.command_line import fails, works
from tests.conformance.scene_networks import channels_last, detector, outliner
from tests.helpers import relative, run
from tests.networks import images

Array = NDArray[Any]

QUICK = Settings(speedup=2, rank_multiple=1, refine="none", bench=False)


def pictures(count: int, height: int, width: int, seed: int = 0) -> Array:
    return images(count, max(height, width), seed=seed)[:, :, :height, :width]


def counted(model: onnx.ModelProto, batch: Array) -> int:
    """Multiply-adds per image of all convolutions, from the sizes of their outputs, or inputs where transposed."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    sized = [(node.output[0], node) for node in model.graph.node if node.op_type == "Conv"]
    sized += [(node.input[0], node) for node in model.graph.node if node.op_type == "ConvTranspose"]
    sizes = run(model, {"x": batch}, list({name for name, _ in sized} - {"x"})) | {"x": batch}
    return sum(sizes[name][0].size * prod(weights[node.input[1]][1:]) for name, node in sized)


def differences(before: onnx.ModelProto, after: onnx.ModelProto | None, batch: Array) -> dict[str, float]:
    """Relative error of every output, the shapes being the same."""
    assert after is not None
    wanted, found = run(before, {"x": batch}), run(after, {"x": batch})
    assert {name: array.shape for name, array in wanted.items()} == {name: array.shape for name, array in found.items()}
    return {name: relative(wanted[name], found[name]) for name in wanted}


# A detector


@pytest.fixture(scope="module")
def faster() -> Result:
    return convert(detector(), {"x": pictures(40, 96, 160)}, QUICK, positions=100, solver="linear")


@pytest.mark.parametrize(
    "methods", [FACTORIZATIONS, *(pytest.param([each], marks=pytest.mark.nightly) for each in FACTORIZATIONS)]
)
def test_full_rank_changes_nothing_in_a_detector(methods: Sequence[Factorization]) -> None:
    """By day layers take turns with the methods."""
    model, samples = detector(), pictures(4, 64, 96)
    plans, turns = [], cycle(methods)
    for layer in inspect(model, input_shapes={"x": (1, 3, 64, 96)}).rows:
        assert isinstance(layer, Layer)
        assert layer.activation.name == ("silu" if layer.filters != 20 else "identity")
        plans.append(LayerPlan(layer.name, next(turns) if layer.separable else "channel", **largest_ranks(layer)))
    converted = convert(model, {"x": samples}, QUICK, plan=RankPlan(tuple(plans)), solver="weights").model
    assert max(differences(model, converted, samples).values()) < 2e-5


@pytest.mark.parametrize("size", [(2, 96, 160), (1, 96, 160), (3, 160, 64)], ids=str)
def test_all_outputs_of_a_detector_stay_close_at_any_size(faster: Result, size: tuple[int, int, int]) -> None:
    errors = differences(detector(), faster.model, pictures(*size, seed=1))
    assert list(errors) == ["boxes8", "boxes16", "boxes32"]
    assert max(errors.values()) < 0.22


def test_the_faster_detector_is_valid_and_as_cheap_as_said(faster: Result) -> None:
    assert faster.model is not None
    onnx.checker.check_model(faster.model, full_check=True)
    assert faster.report.speedup >= 2
    batch = pictures(2, 96, 160)
    assert (counted(detector(), batch), counted(faster.model, batch)) == faster.report.macs


# From the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector, and images of many sizes."""
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(detector(), folder / "model.onnx")
    (folder / "images").mkdir()
    for number in range(10):
        save(pictures(1, 70 + 10 * number, 120, seed=number)[0], folder / f"images/{number}.png")
    return folder


def save(picture: Array, path: Path) -> None:
    pixels = np.clip(picture.transpose(1, 2, 0) * 64 + 128, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


SHAPES = ["x:1,3,96,160", "1x3x96x160", "[1,3,96,160]"]


@pytest.mark.parametrize("shape", SHAPES)
def test_inspect_needs_a_shape_for_open_axes(folder: Path, shape: str) -> None:
    model = str(folder / "model.onnx")
    error = fails(folder, "inspect", model)
    assert error == f"error: {model}: input 'x' has open axes (1,3,?,?): pass --input-shapes x:1,3,?,?"
    found = json.loads(works("inspect", model, "--input-shapes", shape, "--json").stdout)
    assert found["macs"] == counted(detector(), pictures(1, 96, 160))


@pytest.mark.parametrize(
    "shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.nightly) for shape in SHAPES[1:])]
)
def test_images_are_brought_to_the_shape_that_is_given(folder: Path, tmp_path: Path, shape: str) -> None:
    quick = ["--speedup", "1.5", "--samples", "8", "--positions", "40", "--refine", "none", "--no-bench"]
    words = [str(folder / "model.onnx"), str(tmp_path / "fast.onnx"), "--data", str(folder / "images"), *quick]
    assert "has no fixed size: pass one, as in --input-shapes x:1,3,224,224" in fails(tmp_path, *words)
    works(*words, "--input-shapes", shape, "--report", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    converted = onnx.load(tmp_path / "fast.onnx")
    assert report["macs"]["after"] == counted(converted, pictures(1, 96, 160))
    assert max(differences(detector(), converted, pictures(2, 64, 128)).values()) < 0.2


# Transposed convolutions


def test_transposed_convolutions_are_factorized_too() -> None:
    model, samples = outliner(), pictures(24, 48, 64)
    result = convert(model, {"x": samples}, QUICK, positions=200)
    assert result.model is not None
    assert result.report.speedup >= 2
    assert counted(model, samples[:1]) == result.report.macs[0]
    assert counted(result.model, samples[:1]) == result.report.macs[1]
    layers = [layer for layer in result.report.layers if layer.op == "ConvTranspose"]
    assert len(layers) == 2
    assert layers[0].method != "kept"
    for size in ((2, 48, 64), (1, 80, 32)):
        errors = differences(model, result.model, pictures(*size, seed=1))
        assert errors["mask"] < 0.12


# Channels last


def test_images_for_a_network_with_channels_last(tmp_path: Path) -> None:
    model = channels_last()
    for number in range(30):
        save(pictures(1, 32, 40, seed=number)[0], tmp_path / f"{number:02}.png")
    pixels = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in sorted(tmp_path.iterdir())])
    from_images, from_arrays = (convert(model, data, QUICK, samples=24) for data in (tmp_path, {"x": pixels}))
    assert from_images.model is not None
    assert from_images.report.speedup >= 2
    others = pixels[:, ::-1]  # not solved with
    assert differences(model, from_images.model, others)["y"] < 0.01
    assert differences(from_images.model, from_arrays.model, others)["y"] < 5e-4
