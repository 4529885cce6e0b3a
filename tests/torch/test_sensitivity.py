"""What outputs feel of channels, against gradients worked out by hand, and what that brings in whole conversions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from onnx_lowrank import Result, Settings, convert, pipeline, sweep
from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.layers.channel_group import ChannelGroup
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.torch import sensitivity
from onnx_lowrank.torch.sensitivity import sensitivities
from tests.example_layers import conv_layer
from tests.helpers import Array, build, filters, find, normal, relative, run
from tests.networks import images, network

QUICK: dict[str, Any] = {"bench": False, "provider": "cpu", "threads": 1, "rank_multiple": 1, "samples": 60}
D = 6
SIZES = np.array([4.0, 2.0, 1.0, 1.0, 0.5, 0.25], np.float32)  # of what the outputs read of each channel


def felt(model: onnx.ModelProto, x: Array, count: int = 1) -> dict[str, Array]:
    """Of the first layers of a network."""
    layers, _ = find(model, {"x": x[:2]})
    batches = [{"x": part} for part in np.array_split(x, 4)]
    found = {name: each.sum(axis=0) for name, each in sensitivities(model, layers[:count], batches, 0).items()}
    return {name: each / each.sum() for name, each in found.items()}


def maps(activation: str, *, seed: int = 0) -> onnx.ModelProto:
    """A convolution, and one 1 x 1 that reads its channels by different amounts."""
    graph = f"""g (float[N, 3, 8, 8] x) => (float[N, 40, 8, 8] y) {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        a = {activation} (c)
        y = Conv (a, v)
    }}"""
    read = normal(seed + 1, 40, D, 1, 1) * SIZES[:, None, None]
    return build(graph, {"w": filters(seed, D, 3, 3, 3), "b": np.linspace(-1, 1, D, dtype=np.float32), "v": read})


@pytest.mark.parametrize("activation", ["Identity", "Relu", "Tanh"])
def test_outputs_feel_channels_as_much_as_they_read_of_them(activation: str) -> None:
    model = maps(activation)
    read = onnx.numpy_helper.to_array(model.graph.initializer[2])[:, :, 0, 0].astype(np.float64)
    wanted = (read**2).sum(axis=0)
    (found,) = felt(model, images(200, 8)).values()
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=0.2)  # random signs, on some thousand positions


def test_the_slope_is_that_of_the_sum_with_a_residual() -> None:
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 40, 8, 8] y) {
        t = Conv (x, u, b)
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        s = Add (c, t)
        a = Relu (s)
        y = Conv (a, v)
    }"""
    read = normal(1, 40, D, 1, 1) * SIZES[:, None, None]
    bias = np.linspace(-1, 1, D, dtype=np.float32)  # channels are open at very different shares of the positions
    model = build(graph, {"u": filters(5, D, 3, 1, 1), "b": bias, "w": filters(0, D, 3, 3, 3), "v": read})
    layer = next(each for each in find(model, {"x": images(2, 8)})[0] if each.residual)
    x = images(200, 8)
    found = sensitivities(model, [layer], [{"x": x}], 0)[layer.name].sum(axis=0)
    wanted = (read.astype(np.float64)[:, :, 0, 0] ** 2).sum(axis=0)
    np.testing.assert_allclose(found / found.sum(), wanted / wanted.sum(), rtol=0.2)


def test_samples_go_to_both_halves_in_turns() -> None:
    model = maps("Relu")
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.full(D, -1e-3, np.float32), "b"))
    layers, _ = find(model, {"x": images(2, 8)})
    x = images(12, 8)
    x[1::2] = 0  # nothing gets through, and nothing is felt
    batches = [{"x": part} for part in np.array_split(x, 4)]  # of three samples: turns go on from one to the next
    first, second = sensitivities(model, layers[:1], batches, 0)[layers[0].name]
    assert first.all()
    assert not second.any()


def test_scores_are_felt_as_divergence() -> None:
    graph = """g (float[N, 4] x) => (float[N, 5] scores) {
        hidden = Gemm (x, w)
        scores = Gemm (hidden, v)
    }"""
    w, v = normal(0, 4, D), normal(1, D, 5) * SIZES[:, None]
    x = normal(2, 2000, 4)
    logits = (x @ w @ v).astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    wanted = np.zeros(D)
    for each in p:
        wanted += np.diag(v.astype(np.float64) @ (np.diag(each) - np.outer(each, each)) @ v.T)
    found = felt(build(graph, {"w": w, "v": v}), x)["hidden"]
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=0.2)


def test_probabilities_are_taken_for_what_they_are() -> None:
    graph = """g (float[N, 4] x) => (float[N, 5] p) {{
        hidden = Gemm (x, w)
        scores = Gemm (hidden, v)
        {last}
    }}"""
    weights = {"w": normal(0, 4, D), "v": normal(1, D, 5) * SIZES[:, None]}
    as_scores, as_probabilities = (
        felt(build(graph.format(last=last), weights), normal(2, 500, 4))["hidden"]
        for last in ("p = Identity (scores)", "p = Softmax <axis = 1> (scores)")
    )
    np.testing.assert_allclose(as_scores, as_probabilities, rtol=1e-4)


def test_every_layer_is_measured_and_the_same_seed_gives_the_same() -> None:
    model, x = network(), images(32)
    found = felt(model, x, 4)
    assert {name: each.shape for name, each in found.items()} == {"c1": (16,), "c2": (16,), "c3": (16,), "scores": (5,)}
    again = felt(model, x, 4)
    for name, each in found.items():
        np.testing.assert_array_equal(each, again[name])


def test_layers_that_no_floating_output_reads_have_none() -> None:
    graph = """g (float[N, 3, 8, 8] x) => (int64[N, 8, 8] best) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        a = Relu (c)
        y = Conv (a, v)
        best = ArgMax <axis = 1, keepdims = 0> (y)
    }"""
    assert felt(build(graph, {"w": filters(0, D, 3, 3, 3), "v": filters(1, 9, D, 1, 1)}), images(16, 8)) == {}


# Whole conversions


def uneven() -> onnx.ModelProto:
    """A network whose outputs read half of its channels a hundred times as much as the others."""
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 8, 12, 12] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        r2 = Clip (c2, low, high)
        y = Conv (r2, w3)
    }"""
    read = filters(2, 8, 32, 1, 1) * np.where(np.arange(32) % 2, 1.0, 0.01).astype(np.float32)[:, None, None]
    weights = {"w1": filters(0, 32, 3, 3, 3), "w2": filters(1, 32, 32, 3, 3), "w3": read}
    return build(graph, weights | {"low": np.float32(0), "high": np.float32(6)})


def converted(weighting: str, **changes: Any) -> Result:
    settings: dict[str, Any] = {**QUICK, "speedup": 2, "include": ("c2",), "method": "channel", **changes}
    return convert(uneven(), {"x": images(100)}, weighting=weighting, **settings)


def weigh_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MACS", "SHARE"):
        monkeypatch.setattr(f"onnx_lowrank.settings._MIN_WEIGHED_{name}", 0)


def lost(result: Result) -> float:
    assert result.model is not None
    feeds = {"x": images(40, seed=9)}
    return relative(run(uneven(), feeds)["y"], run(result.model, feeds)["y"])


def test_a_conversion_loses_less_where_outputs_feel_it() -> None:
    plain, weighed = converted("none"), converted("outputs")
    assert lost(weighed) < 0.7 * lost(plain)
    assert (plain.report.weighting, weighed.report.weighting) == ("none", "outputs")
    assert weighed.report.to_dict()["weighting"] == "outputs"
    assert "weigh" in weighed.report.seconds
    assert "weigh" not in plain.report.seconds


def test_so_does_one_with_fewer_channels() -> None:
    plain, weighed = (converted(kind, include=("c2",), method="width", speedup=1.5) for kind in ("none", "outputs"))
    assert lost(weighed) < lost(plain)


def test_further_readers_of_channels_are_weighed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 4, 12, 12] y, float[N, 4, 12, 12] z) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        a = Conv (r1, w2)
        b = Conv (r1, w3)
        y = Conv (a, v)
        z = Conv (b, v)
    }"""
    shapes = {1: (24, 3, 3, 3), 2: (4, 24, 1, 1), 3: (4, 24, 1, 1)}
    uneven = {"v": np.diag(np.array([1, 2, 4, 8], np.float32))[:, :, None, None]}
    model = build(graph, uneven | {f"w{n}": filters(n, *shape) for n, shape in shapes.items()})
    seen: list[tuple[Layer, TargetResponses]] = []
    real = pipeline.measure_width_losses

    def watched(layer: Layer, targets: Any, others: Any, effort: Any) -> Any:
        seen.extend([(layer, targets), *others])
        return real(layer, targets, others, effort)

    monkeypatch.setattr(pipeline, "measure_width_losses", watched)
    settings: dict[str, Any] = {**QUICK, "method": "width", "speedup": 1.2}
    originals = {layer.name: layer for layer in find(model, {"x": images(2)})[0]}
    convert(model, {"x": images(100)}, weighting="outputs", **settings)
    found = {layer.name: layer for layer, _ in seen}
    for name in "ab":
        ratio = found[name].weight / originals[name].weight
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
        assert np.ptp(ratio[:, 0]) > 1e-3


def test_a_dry_run_says_so_too() -> None:
    result = convert(uneven(), {"x": images(100)}, Settings(**QUICK, speedup=4, weighting="outputs"), dry_run=True)
    assert result.report.weighting == "outputs"


def test_a_sweep_weighs_once_for_all_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = sensitivity.measure_output_weights
    monkeypatch.setattr(sensitivity, "measure_output_weights", lambda *given: calls.append("") or real(*given))
    settings = Settings(**QUICK, weighting="outputs", include=("c2",))
    results = sweep(uneven(), {"x": images(160)}, (2, 3), settings, models=True).results
    assert len(calls) == 1
    assert [each.report.weighting for each in results] == ["outputs"] * 2


@pytest.mark.parametrize(
    ("settings", "weighs"),
    [
        ({}, True),
        ({"preview": True}, False),
        ({"solver": "linear"}, False),
        ({"selection": "energy", "method": "channel"}, False),
        ({"method": ("channel", "spatial")}, False),
        ({"weighting": "none"}, False),
        ({"weighting": "outputs", "solver": "linear"}, True),
    ],
)
def test_auto_weighs_with_the_whole_method(settings: dict[str, Any], *, weighs: bool) -> None:
    layers = [thin(10_000_000)]
    assert Settings(**settings).weighs_outputs(layers, 10_000_000) == weighs


def test_auto_weighs_networks_that_are_large_and_may_lose_channels() -> None:
    whole = thin(10_000_000)
    assert Settings().weighs_outputs([whole], whole.macs)
    assert not Settings().weighs_outputs([thin(9_990_000)], 9_990_000)
    assert Settings().weighs_outputs([whole], 4 * whole.macs)
    assert not Settings().weighs_outputs([whole], 4 * whole.macs + 4)
    stays = replace(whole, reads="a shortcut shares them")
    assert not Settings().weighs_outputs([stays], whole.macs)


def thin(macs: int) -> Layer:
    """A 1 x 1 convolution whose channels may be left out."""
    layer = conv_layer(10, 10, (1, 1), (100, macs // 10_000))
    group = ChannelGroup(10, ("before",))
    return replace(layer, reads=(group,))


def test_what_pytorch_cannot_run_is_converted_all_alike(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> Any:
        raise ModelError("operator Strange cannot be converted")

    monkeypatch.setattr(sensitivity, "to_torch", refused)
    with pytest.raises(ModelError, match="operator Strange"):
        converted("outputs")
    weigh_any_network(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert converted("auto").report.weighting == "none"
    assert "errors in all channels of a layer count alike: operator Strange cannot be converted" in caplog.text


def test_gradients_that_do_not_fit_into_memory_are_not_computed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weigh_any_network(monkeypatch)
    # 16 bytes for each of 72 channels at 144 positions
    with pytest.raises(ModelError, match=r"would take 0.00017 GB, 0.0001 GB are there: give more `memory`, or "):
        converted("outputs", memory=1e-4, include=())
    with caplog.at_level(logging.INFO):
        assert converted("auto", memory=1e-4, include=()).report.weighting == "none"
    assert converted("auto", memory=2e-4, include=()).report.weighting == "outputs"


@pytest.mark.parametrize("package", ["torch", "accelerate"])
def test_without_part_of_the_extra_auto_goes_without_and_outputs_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: Callable[[str], None], package: str
) -> None:
    weigh_any_network(monkeypatch)
    assert converted("auto").report.weighting == "outputs"
    missing(package)
    assert converted("auto").report.weighting == "none"
    monkeypatch.setattr(pipeline, "find_layers_on_data", None)  # it is said before anything is opened
    with pytest.raises(MissingDependencyError, match=rf"not installed \(.*{package}.*: pip install"):
        converted("outputs")


@pytest.mark.parametrize("error", [MissingDependencyError("no safetensors"), OSError("libtorch_cpu.so: cannot open")])
def test_auto_does_not_fail_by_a_broken_installation(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: Any) -> Any:
        raise error

    weigh_any_network(monkeypatch)
    monkeypatch.setattr(sensitivity, "measure_output_weights", broken)
    assert converted("auto").report.weighting == "none"


def test_another_weighting_is_an_error() -> None:
    with pytest.raises(ValueError, match="weighting must be one of auto, outputs, none, got 'all'"):
        Settings(weighting="all")  # type: ignore[arg-type]
