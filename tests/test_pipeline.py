from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

import onnx_lowrank as olr
from onnx_lowrank import pipeline
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.errors import BudgetError, CalibrationError, ModelError, RankError, VerificationError
from onnx_lowrank.layer import Layer
from onnx_lowrank.load import find_layers, weighted_tensors
from onnx_lowrank.runtime import observe_shapes
from onnx_lowrank.tensor_spec import TensorSpec
from tests.helpers import CPU, build, filters, normal, relative, run

Array = NDArray[Any]
SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} with real networks is not here")


def images(count: int = 60, size: int = 12, channels: int = 3, seed: int = 0) -> Array:
    """Smooth random maps: neighbouring pixels are alike, as in photographs."""
    noise = normal(seed, count, channels, size + 4, size + 4)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), axis=(2, 3))
    return (windows.mean(axis=(-2, -1)) * 4).astype(np.float32)


def network(batch: str = "N", seed: int = 0) -> onnx.ModelProto:
    """Three convolutions, the second with BatchNormalization, the third closing a residual block."""
    graph = f"""g (float[{batch}, 3, 12, 12] x) => (float[{batch}, 5] scores) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        n2 = BatchNormalization (c2, gamma, beta, mean, variance)
        r2 = Relu (n2)
        c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, b3)
        s3 = Add (c3, r1)
        r3 = Relu (s3)
        pool = GlobalAveragePool (r3)
        flat = Flatten (pool)
        scores = Gemm (flat, f)
    }}"""
    weights = {
        "w1": filters(seed, 16, 3, 3, 3),
        "b1": normal(seed + 1, 16),
        "w2": filters(seed + 2, 16, 16, 3, 3),
        "gamma": 1 + 0.2 * normal(seed + 3, 16),
        "beta": normal(seed + 4, 16),
        "mean": 0.1 * normal(seed + 5, 16),
        "variance": 1 + 0.3 * np.abs(normal(seed + 6, 16)),
        "w3": filters(seed + 7, 16, 16, 3, 3),
        "b3": normal(seed + 8, 16),
        "f": normal(seed + 9, 16, 5),
    }
    return build(graph, weights)


def full_rank(model: onnx.ModelProto, x: Array) -> olr.RankPlan:
    layers, _ = find_layers(model, observe_shapes(model, {"x": x[:1]}, weighted_tensors(model), CPU))
    return olr.RankPlan(tuple(olr.LayerPlan(layer.name, "channel", layer.filters) for layer in layers))


def converted(result: olr.Result) -> onnx.ModelProto:
    assert result.model is not None
    return result.model


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    bias=st.booleans(),
    channels_last=st.booleans(),
    activation=st.sampled_from(["Relu", "Sigmoid", "HardSwish", "Identity"]),
    seed=st.integers(0, 1000),
)
def test_full_rank_reproduces_the_network(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    auto_pad: str,
    bias: bool,
    channels_last: bool,
    activation: str,
    seed: int,
) -> None:
    if auto_pad != "NOTSET":
        dilations = (1, 1)  # onnxruntime refuses dilation together with SAME
    place = f"pads = {list(pads)}" if auto_pad == "NOTSET" else f'auto_pad = "{auto_pad}"'
    attributes = f"strides = {list(strides)}, dilations = {list(dilations)}, {place}"
    shape, first = (
        ("12, 12, 3", "t = Transpose <perm = [0, 3, 1, 2]> (x)") if channels_last else ("3, 12, 12", "t = Identity (x)")
    )
    graph = f"""g (float[N, {shape}] x) => (float[N, d, h, w] y) {{
        {first}
        c1 = Conv <{attributes}> (t, w1{", b1" if bias else ""})
        r1 = {activation} (c1)
        c2 = Conv (r1, w2)
        y = Relu (c2)
    }}"""
    weights = {"w1": filters(seed, 7, 3, *kernel), "b1": normal(seed + 1, 7), "w2": filters(seed + 2, 5, 7, 1, 1)}
    if not bias:
        del weights["b1"]
    model = build(graph, weights)
    x = images(20, seed=seed)
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if channels_last else x
    result = olr.convert(model, x, plan=full_rank(model, x), positions=30)
    unseen = x[::-1] * 0.7
    wanted, found = run(model, {"x": unseen})["y"], run(converted(result), {"x": unseen})["y"]
    assert relative(wanted, found) < 1e-5
    assert sum(node.op_type == "Conv" for node in converted(result).graph.node) == 4


def test_full_rank_with_batch_normalization_and_residual() -> None:
    model, x = network(), images()
    result = olr.convert(model, x, plan=full_rank(model, x), positions=50)
    assert relative(run(model, {"x": x})["scores"], run(converted(result), {"x": x})["scores"]) < 1e-5
    kinds = [node.op_type for node in converted(result).graph.node]
    assert "BatchNormalization" not in kinds
    onnx.checker.check_model(converted(result), full_check=True)


def test_speedup_is_met_and_the_report_tells_the_truth() -> None:
    model, x = network(), images(100)
    result = olr.convert(model, x, speedup=2, rank_multiple=1)
    report = result.to_dict()
    assert 2.0 <= report["speedup"]["macs"] < 2.15
    recount = olr.inspect(converted(result))
    assert report["macs"] == {"before": olr.inspect(model).macs, "after": recount.macs}
    assert report["params"] == {"before": olr.inspect(model).parameters, "after": recount.parameters}
    assert [layer["op"] for layer in report["layers"]] == ["Conv", "Conv", "Conv", "Gemm"]
    assert report["layers"][2]["activation"] == "relu"
    factorized = [layer for layer in report["layers"] if layer["method"] == "channel"]
    assert factorized
    for layer in factorized:
        assert 0 < layer["error"]["solved"] <= layer["error"]["linear"] < 1
        assert 0 < layer["energy"] <= 1
    assert report["verification"]["images"] == 20
    assert report["forward_passes"]["original"] <= 1.05
    assert report["forward_passes"]["converted"] <= 1.0
    held_out = report["verification"]["outputs"]["scores"]
    assert held_out["relative_error"] < 0.5
    assert {entry.key: entry.value for entry in converted(result).metadata_props}[
        "onnx_lowrank.target"
    ] == "speedup 2 (macs)"


def test_solving_on_data_beats_the_data_free_factors() -> None:
    model, x = network(), images(120)
    errors = {}
    for solver in ("weights", "linear", "auto"):
        result = olr.convert(model, x, speedup=2.5, rank_multiple=1, solver=solver)
        errors[solver] = (
            olr.compare(model, converted(result), images(50, seed=9), tensors=["r3"]).outputs["r3"].relative_error
        )
    assert errors["auto"] < errors["linear"] < errors["weights"]


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        olr.convert(network(), images(), speedup=2, seed=3, output=tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    olr.convert(network(), images(), speedup=2, seed=4, output=tmp_path / "c.onnx")
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "c.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "c.onnx"]


def test_batch_size_changes_nothing_but_float_noise() -> None:
    x = images()
    small, large = (converted(olr.convert(network(), x, speedup=2, batch_size=size)) for size in (1, 13))
    assert relative(run(small, {"x": x})["scores"], run(large, {"x": x})["scores"]) < 1e-4


@pytest.mark.parametrize("batch", ["1", "4"])
def test_fixed_batch(batch: str) -> None:
    x = images(50)
    result = olr.convert(network(batch), x, speedup=2)
    assert result.report.calibration.images % int(batch) == 0
    feeds = {"x": x[: int(batch)]}
    assert relative(run(network(batch), feeds)["scores"], run(converted(result), feeds)["scores"]) < 0.5


def test_include_and_exclude() -> None:
    model, x = network(), images()
    report = olr.convert(model, x, speedup=1.2, include=("c1", "c2"), exclude=("1",)).to_dict()
    assert {layer["name"]: layer["method"] for layer in report["layers"]} == {
        "c1": "kept",
        "n2" if any(layer["name"] == "n2" for layer in report["layers"]) else "c2": "channel",
        "c3": "kept",
        "scores": "kept",
    }
    reasons = {layer["name"]: layer["reason"] for layer in report["layers"]}
    assert reasons["c1"] == "excluded by '1'"
    assert reasons["c3"] == "not among the included layers"


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_pattern_that_matches_nothing(option: str) -> None:
    with pytest.raises(ModelError, match=rf"--{option} 'features': matches none of the 4 layers \(c1, c2"):
        olr.convert(network(), images(), **{option: ("features",)})


def test_pattern_that_is_none() -> None:
    with pytest.raises(ModelError, match=r"--include '\(': not a regular expression"):
        olr.convert(network(), images(), include=("(",))


def test_nothing_left_to_convert() -> None:
    with pytest.raises(ModelError, match="no layer can be factorized .*excluded by 'c'"):
        olr.convert(network(), images(), exclude=("c",))


def test_dry_run_plans_only(tmp_path: Path) -> None:
    result = olr.convert(network(), images(), speedup=2, dry_run=True, output=tmp_path / "out.onnx")
    assert result.model is None
    assert result.report.verification is None
    assert result.report.speedup >= 2
    assert not list(tmp_path.iterdir())
    again = olr.convert(network(), images(), plan=olr.RankPlan.from_json(result.plan.to_json()))
    assert again.report.macs == result.report.macs
    with pytest.raises(ValueError, match="no model to save"):
        result.save(tmp_path / "out.onnx")


def test_out_of_reach() -> None:
    with pytest.raises(
        BudgetError, match=r"speedup 500 cannot be reached, the largest that can is \d+\.\d\d .*lower --speedup"
    ):
        olr.convert(network(), images(), speedup=500)


@pytest.mark.parametrize("speedup", [1.0, 0.5, -2.0, float("nan"), float("inf")])
def test_speedup_that_is_none(speedup: float) -> None:
    with pytest.raises(BudgetError, match="wanted a number above 1"):
        olr.convert(network(), images(), speedup=speedup)


def test_wrong_settings_are_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="speed_up"):
        olr.convert(network(), images(), speed_up=2)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        olr.convert(network(), images(), samples=0)


def test_no_data() -> None:
    with pytest.raises(CalibrationError, match="data: none given"):
        olr.convert(network())


def test_fewer_samples_than_wanted() -> None:
    with pytest.raises(CalibrationError, match="60 usable samples, wanted 100"):
        olr.convert(network(), images(), samples=100)


def test_nan_in_weights_is_found_in_the_responses() -> None:
    model = network()
    broken = numpy_helper.to_array(model.graph.initializer[0]).copy()
    broken[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w1"))
    with pytest.raises(CalibrationError, match="Conv 'c1': its response is NaN or infinite in the original network"):
        olr.convert(model, images())


def test_plan_with_unknown_layer() -> None:
    with pytest.raises(RankError, match="no layer 'nowhere'"):
        olr.convert(network(), images(), plan=olr.RankPlan((olr.LayerPlan("nowhere", "channel", 2),)))


def test_a_bad_result_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pipeline.replace_layer

    def spoil(model: onnx.ModelProto, layer: Any, factors: Any) -> None:
        honest(model, layer, factors)
        bias = model.graph.initializer[-1]
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1e4, bias.name))

    monkeypatch.setattr(pipeline, "replace_layer", spoil)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    with pytest.raises(VerificationError, match=r"output 'scores': relative error .* at most 1 is wanted"):
        olr.convert(network(), images(), speedup=2, output=out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert out.read_bytes() == b"before"


def test_without_samples_to_verify_with_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        olr.convert(network(), images(20), speedup=2, samples=20)
    assert "no samples left to verify with" in caplog.text


@needs_shared
@pytest.mark.slow
def test_full_rank_of_a_real_vgg16() -> None:
    path = SHARED / "models/vgg16_brain_mri.onnx"
    data = SHARED / "data/imagenet_sample.tar"
    layers = [row for row in olr.inspect(path).rows if isinstance(row, Layer)]
    plan = olr.RankPlan(tuple(olr.LayerPlan(layer.name, "channel", layer.filters) for layer in layers))
    spec = TensorSpec("input", np.dtype(np.float32), (None, 240, 240, 3))
    photographs = open_samples(data, [spec], olr.preset("zero-one")).read(range(5))
    result = olr.convert(path, photographs, plan=plan, positions=50, solver="linear")
    last = olr.compare(path, converted(result), photographs, tensors=["functional_1/block5_conv3_1/Relu:0"])
    assert all(fidelity.relative_error < 1e-4 for fidelity in last.outputs.values())
