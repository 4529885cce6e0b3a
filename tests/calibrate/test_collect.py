from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.calibrate import collect_targets, layer_positions
from onnx_lowrank.calibrate.taps import is_computed_anew
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import TargetResponses
from tests.helpers import CPU, Array, applied, build, filters, find, normal, run, sampled

IMAGES = 7
X = normal(1, IMAGES, 3, 10, 9)


def residual_network() -> onnx.ModelProto:
    """BatchNormalization folded, a residual sum, a stride, and a layer without an activation."""
    return build(
        """g (float[N,3,10,9] x) => (float[N,6,5,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0, b0)
            n = BatchNormalization(a, gamma, beta, mean, var)
            r = Relu(n)
            c = Conv<pads=[1,1,1,1]>(r, w1)
            sum = Add(r, c)
            s = Relu(sum)
            y = Conv<pads=[1,1,1,1], strides=[2,2]>(s, w2)
        }""",
        {
            **{"w0": filters(0, 5, 3, 3, 3), "b0": normal(1, 5), "gamma": normal(2, 5), "beta": normal(3, 5)},
            **{"mean": normal(4, 5), "var": normal(5, 5) ** 2, "w1": filters(6, 5, 5, 3, 3)},
            "w2": filters(7, 6, 5, 3, 3),
        },
    )


def batches(x: Array, size: int) -> list[dict[str, Array]]:
    return [{"x": x[first : first + size]} for first in range(0, len(x), size)]


def collected(model: onnx.ModelProto, size: int, x: Array = X) -> tuple[list[Layer], Any, dict[str, TargetResponses]]:
    layers, _ = find(model, {"x": x[:1]})
    positions = layer_positions(layers, len(x), 11, seed=3)
    return layers, positions, collect_targets(model, layers, positions, batches(x, size), CPU)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_targets_are_the_response_tensors_at_the_positions(batch_size: int) -> None:
    model = residual_network()
    layers, positions, targets = collected(model, batch_size)
    assert [(layer.response, layer.residual) for layer in layers] == [("n", None), ("c", "r"), ("y", None)]
    whole = run(model, {"x": X}, ["n", "c", "r", "y"])
    for layer in layers:
        found = targets[layer.name]
        assert found.responses.dtype == np.float32
        assert found.responses.shape == (IMAGES * 11, layer.filters)
        # onnxruntime fuses BatchNormalization into the convolution in one of the two.
        wanted = sampled(whole[layer.response], positions[layer.name])
        np.testing.assert_allclose(found.responses, wanted, rtol=1e-5, atol=2e-6)
        if layer.residual:
            assert found.residual is not None
            wanted = sampled(whole[layer.residual], positions[layer.name])
            np.testing.assert_allclose(found.residual, wanted, rtol=1e-5, atol=2e-6)
        else:
            assert found.residual is None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_responses_of_pointwise_layers_are_those_of_the_network(batch_size: int) -> None:
    """They are computed from the rows of the inputs: with a folded normalization, a residual, strides, and probes."""
    model = build(
        """g (float[N,3,10,9] x) => (float[N,5,5,5] y) {
            a = Conv(x, w0, b0)
            n = BatchNormalization(a, gamma, beta, mean, var)
            r = Relu(n)
            c = Conv(r, w1)
            sum = Add(r, c)
            d = Conv<strides=[2,2]>(sum, w2, b0)
            y = Relu(d)
        }""",
        {
            **{"w0": filters(0, 5, 3, 1, 1), "b0": normal(1, 5), "gamma": normal(2, 5), "beta": normal(3, 5)},
            **{"mean": normal(4, 5), "var": normal(5, 5) ** 2, "w1": filters(6, 5, 5, 1, 1)},
            "w2": filters(7, 5, 5, 1, 1),
        },
    )
    layers, _ = find(model, {"x": X[:1]})
    assert [(layer.response, layer.residual) for layer in layers] == [("n", None), ("c", "r"), ("d", None)]
    assert all(is_computed_anew(layer, 11) for layer in layers)
    positions = layer_positions(layers, IMAGES, 11, seed=3)
    probes = {layer.name: np.array([2, 5]) for layer in layers[:2]}
    targets = collect_targets(model, layers, positions, batches(X, batch_size), CPU, probes)
    whole = run(model, {"x": X}, ["n", "c", "r", "d"])
    for layer in layers:
        found = targets[layer.name]
        wanted = sampled(whole[layer.response], positions[layer.name])
        np.testing.assert_allclose(found.responses, wanted, rtol=1e-5, atol=5e-6)
        if found.probe is not None:
            rows = applied(layer, found.probe.patches.reshape(len(found.probe.rows), -1))
            np.testing.assert_allclose(found.responses[found.probe.rows], rows, rtol=1e-5, atol=5e-6)
    residual = targets[layers[1].name].residual
    assert residual is not None
    np.testing.assert_allclose(residual, sampled(whole["r"], positions[layers[1].name]), rtol=1e-5, atol=2e-6)


def test_a_graph_input_as_residual() -> None:
    model = build(
        "g (float[N,3,10,9] x) => (float[N,3,10,9] y) { c = Conv<pads=[1,1,1,1]>(x, w) s = Add(c, x) y = Relu(s) }",
        {"w": filters(0, 3, 3, 3, 3)},
    )
    (layer,), positions, targets = collected(model, 3)
    residual = targets[layer.name].residual
    assert residual is not None
    np.testing.assert_array_equal(residual, sampled(X, positions[layer.name]))


def test_two_inputs_and_one_layer_of_several() -> None:
    model = build(
        """g (float[N,3,10,9] x, float[N,3,10,9] z) => (float[N,4,8,7] y) {
            s = Add(x, z)
            a = Conv<pads=[1,1,1,1]>(s, w)
            b = Relu(a)
            y = Conv(b, v)
        }""",
        {"w": filters(0, 4, 3, 3, 3), "v": filters(1, 4, 4, 3, 3)},
    )
    feeds = {"x": X, "z": normal(2, *X.shape)}
    layers, _ = find(model, feeds)
    positions = layer_positions(layers[1:], IMAGES, 11, seed=3)
    found = collect_targets(model, layers[1:], positions, [feeds], CPU)
    assert list(found) == ["y"]
    wanted = sampled(run(model, feeds)["y"], positions["y"])
    np.testing.assert_allclose(found["y"].responses, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_are_float32_whatever_the_model_is(dtype: Any) -> None:
    code = {np.float16: "float16", np.float32: "float"}[dtype]
    model = build(
        f"g ({code}[N,3,10,9] x) => ({code}[N,4,8,7] y) {{ y = Conv(x, w) }}", {"w": filters(0, 4, 3, 3, 3, dtype)}
    )
    _, positions, targets = collected(model, 3, X.astype(dtype))
    wanted = sampled(run(model, {"x": X.astype(dtype)})["y"], positions["y"])
    assert targets["y"].responses.dtype == np.float32
    np.testing.assert_allclose(targets["y"].responses, wanted.astype(np.float32), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_responses_that_are_not_finite(bad: float) -> None:
    weight = filters(0, 4, 3, 3, 3)
    weight[0, 0, 0, 0] = bad
    model = build("g (float[N,3,10,9] x) => (float[N,4,8,7] y) { y = Conv(x, w) }", {"w": weight})
    with pytest.raises(
        CalibrationError, match="Conv 'y': its response is NaN, infinite or beyond 1e.15 in the original"
    ):
        collected(model, 3)


def test_a_residual_that_is_not_finite() -> None:
    model = build(
        """g (float[N,3,10,9] x) => (float[N,3,10,9] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            r = Log(x)
            s = Add(c, r)
            y = Relu(s)
        }""",
        {"w": filters(0, 3, 3, 3, 3)},
    )
    with pytest.raises(CalibrationError, match="Conv 'c': its residual is NaN, infinite or beyond 1e.15"):
        collected(model, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_probes_are_the_input_patches_of_the_rows_they_name(batch_size: int) -> None:
    model = residual_network()
    layers, _ = find(model, {"x": X[:1]})
    positions = layer_positions(layers, IMAGES, 11, seed=3)
    probes = {"n": np.array([0, 4, 10]), "y": np.array([7])}
    probes = {layer.name: probes[layer.response] for layer in layers if layer.response in probes}
    targets = collect_targets(model, layers, positions, batches(X, batch_size), CPU, probes)
    for layer in layers:
        found = targets[layer.name]
        if layer.name not in probes:
            assert found.probe is None
            continue
        assert found.probe is not None
        assert found.probe.patches.shape == (IMAGES * len(probes[layer.name]), *layer.weight.shape[1:])
        assert found.probe.patches.dtype == np.float32
        rows = applied(layer, found.probe.patches.reshape(len(found.probe.rows), -1))
        np.testing.assert_allclose(found.responses[found.probe.rows], rows, rtol=1e-5, atol=2e-5)
        wanted = [image * 11 + place for image in range(IMAGES) for place in probes[layer.name]]
        assert found.probe.rows.tolist() == wanted
