"""Networks that take one sample without an axis for it, or have samples on another axis than the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.errors import CalibrationError, ModelError
from tests.helpers import Array, build, filters, normal, relative, run

QUICK: dict[str, Any] = {"speedup": 1.5, "rank_multiple": 1, "bench": False, "refine": "none"}


def one_image(opset: int = 17, sizes: str = "12, 10") -> onnx.ModelProto:
    """Takes (3, height, width) and gives five scores."""
    unsqueeze = "Unsqueeze (x, zero)" if opset >= 13 else "Unsqueeze <axes = [0]> (x)"
    graph = f"""g (float[3, {sizes}] x) => (float[5] y) {{
        u = {unsqueeze}
        c1 = Conv (u, w1)
        r = Relu (c1)
        c2 = Conv (r, w2)
        pool = GlobalAveragePool (c2)
        flat = Flatten (pool)
        s = MatMul (flat, f)
        y = Reshape (s, five)
    }}"""
    weights = {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 16, 16, 3, 3), "f": normal(2, 16, 5)}
    weights |= {"five": np.array([5])} | ({"zero": np.array([0])} if opset >= 13 else {})
    return build(graph, weights, opset=opset)


def scores(model: onnx.ModelProto, samples: Array) -> Array:
    return np.stack([run(model, {"x": sample})["y"] for sample in samples])


@pytest.mark.parametrize(("opset", "sizes"), [(17, "12, 10"), (11, "12, 10"), (17, "h, w")])
def test_samples_go_one_by_one_where_the_model_has_no_axis_for_them(opset: int, sizes: str) -> None:
    model, data = one_image(opset, sizes), normal(3, 40, 3, 12, 10)
    result = convert(model, data, **QUICK)
    assert result.model is not None
    assert list(result.model.graph.input) == list(model.graph.input)
    assert result.report.macs[0] == 10 * 8 * 16 * 27 + 8 * 6 * 16 * 144 + 80
    assert result.report.calibration.images == 32
    assert result.report.verification is not None
    held_out = result.report.verification["outputs"]["y"]
    assert held_out["agreement"] is not None
    error = relative(scores(model, data), scores(result.model, data))
    assert held_out["relative_error"] == pytest.approx(error, rel=0.6)
    assert 0 < error < 0.5


def test_one_recording_is_one_sample(tmp_path: Path) -> None:
    model, data = one_image(), normal(3, 3, 12, 10)
    np.save(tmp_path / "one.npy", data)
    assert convert(model, str(tmp_path / "one.npy"), **QUICK).report.calibration.images == 1
    with pytest.raises(CalibrationError, match=r"\(samples, 3, 12, 10\) is wanted: put samples in front"):
        convert(model, normal(3, 30, 12, 10), **QUICK)
    assert inspect(model).rows[0].macs == 10 * 8 * 16 * 27


def recurrent(batch: str = "N") -> onnx.ModelProto:
    """A layer, scaled by a number, with a state that has samples on its second axis."""
    graph = f"""g (float[N, 8] x, float[2, {batch}, 16] state, int64 rate) => (float[N, 16] y) {{
        h = MatMul (x, w1)
        r = Relu (h)
        t = ReduceSum <keepdims = 0> (state, zero)
        k = Cast <to = 1> (rate)
        s = Div (r, k)
        a = Add (s, t)
        y = MatMul (a, w2)
    }}"""
    weights = {"w1": normal(0, 8, 16), "w2": normal(1, 16, 16), "zero": np.array([0])}
    return build(graph, weights, opset=17)


@pytest.mark.parametrize("batch", ["N", "other"])
@pytest.mark.parametrize("axis", [0, 1])
def test_samples_on_another_axis_are_found(batch: str, axis: int) -> None:
    """By the name of the axis or the number of samples; data may have them there or in front."""
    model, state = recurrent(batch), normal(4, 2, 300, 16)
    data = {"x": normal(3, 300, 8), "state": state if axis else state.swapaxes(0, 1), "rate": np.array(4)}
    settings = {**QUICK, "speedup": 1.2}
    result = convert(model, data, **settings)
    assert result.model is not None
    assert list(result.model.graph.input) == list(model.graph.input)
    feeds = {**data, "state": state}
    error = relative(run(model, feeds)["y"], run(result.model, feeds)["y"])
    assert result.report.verification is not None
    assert result.report.verification["outputs"]["y"]["relative_error"] == pytest.approx(error, rel=0.6)
    named = convert(model, data, **settings, samples_axis={"state": 1})
    assert named.model is not None
    assert named.model.graph == result.model.graph


def test_numbers_for_all_samples_come_from_files_too(tmp_path: Path) -> None:
    data = {"x": normal(3, 300, 8), "state": normal(4, 2, 300, 16), "rate": np.array(4)}
    np.savez(tmp_path / "data.npz", x=data["x"], state=data["state"], rate=data["rate"])
    settings = {**QUICK, "speedup": 1.2}
    from_file, from_arrays = (convert(recurrent(), each, **settings) for each in (str(tmp_path / "data.npz"), data))
    each_the_same = convert(recurrent(), {**data, "rate": np.full(300, 4)}, **settings)
    assert from_file.model is not None
    for other in (from_arrays.model, each_the_same.model):
        assert other is not None
        assert other.graph == from_file.model.graph


def test_errors_say_which_axis_is_meant() -> None:
    data = {"x": normal(3, 300, 8), "state": normal(4, 2, 30, 16), "rate": np.array(4)}
    with pytest.raises(CalibrationError, match=r"samples_axis={'state': 1}"):
        convert(recurrent("other"), data, **QUICK)
    with pytest.raises(ModelError, match="`samples_axis`: axis 3 of input 'state' found, which has 3: give one from 0"):
        convert(recurrent(), data, **QUICK, samples_axis={"state": 3})
    with pytest.raises(
        ModelError, match="`samples_axis`: no input 'stat' that samples are fed to, wanted one of x, st"
    ):
        convert(recurrent(), data, **QUICK, samples_axis={"stat": 1})
