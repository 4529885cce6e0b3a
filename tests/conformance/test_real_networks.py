"""Networks that were trained: the bundled one, and those of the benchmark, where their folder is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnx_lowrank as olr
from demo_data import load_digits, split_digits
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.settings import Solver

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models/demo_mnist_vgg.onnx"
SHARED = ROOT.parent / "shared"
LAST_BLOCK = "functional_1/block5_conv3_1/Relu:0"

STEPS: tuple[tuple[Solver, bool], ...] = (("weights", True), ("linear", False), ("linear", True), ("auto", True))

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} with real networks and data is not here")


def test_each_step_of_the_method_gains_on_digits() -> None:
    """Measured: relative errors of 0.268, 0.049, 0.036 and 0.035."""
    train, held_out = split_digits(load_digits())
    quick = olr.Settings(speedup=3, positions=20, refine="none", bench=False, provider="cpu", threads=1)
    errors, samples = [], train.inputs[::20]
    plan = olr.convert(DEMO, samples, quick, dry_run=True).plan
    for solver, asymmetric in STEPS:
        result = olr.convert(DEMO, samples, quick, plan=plan, solver=solver, asymmetric=asymmetric)
        assert result.model is not None
        compared = olr.compare(DEMO, result.model, held_out.inputs[::3], threads=1)
        errors.append(compared.outputs["logits"].relative_error)
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.9 * errors[1]


@needs_shared
@pytest.mark.nightly
def test_full_rank_reproduces_vgg16() -> None:
    path = SHARED / "models/vgg16_brain_mri.onnx"
    layers = [row for row in olr.inspect(path).rows if isinstance(row, Layer)]
    assert [layer.op for layer in layers] == ["Conv"] * 13 + ["MatMul"] * 4
    plan = olr.RankPlan(tuple(olr.LayerPlan(layer.name, "channel", layer.filters) for layer in layers))
    spec = TensorSpec("input", np.dtype(np.float32), (None, 240, 240, 3))
    photographs = open_samples(SHARED / "data/imagenet_sample.tar", [spec], olr.preset("zero-one")).read(range(5))
    result = olr.convert(path, photographs, plan=plan, positions=50, solver="linear")
    assert result.model is not None
    compared = olr.compare(path, result.model, photographs, tensors=[LAST_BLOCK])
    assert all(fidelity.relative_error < 1e-4 for fidelity in compared.outputs.values())


@needs_shared
@pytest.mark.nightly
def test_each_step_of_the_method_gains_on_cifar10() -> None:
    path, data = SHARED / "models/vgg16_cifar10_half.onnx", SHARED / "data/cifar10.zip"
    preprocessing = olr.Preprocessing("cifar10", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    errors = []
    for solver, asymmetric in STEPS:
        result = olr.convert(
            path,
            f"{data}/cifar10/train",
            speedup=2,
            samples=400,
            solver=solver,
            asymmetric=asymmetric,
            preprocessing=preprocessing,
        )
        assert result.model is not None
        test = f"{data}/cifar10/test"
        compared = olr.compare(
            path, result.model, test, samples=1000, tensors=["conv5_3_relu"], preprocessing=preprocessing
        )
        errors.append(compared.outputs["conv5_3_relu"].relative_error)
    assert errors == sorted(errors, reverse=True)
