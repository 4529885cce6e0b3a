"""Every kind of layer that is converted: at full rank nothing changes, at half the cost little does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import LayerPlan, RankPlan, convert, inspect
from onnx_lowrank.errors import RankError
from onnx_lowrank.layers.layer import Layer
from tests.helpers import build, normal, relative, run

Array = NDArray[Any]


def smooth(count: int, channels: int, *size: int) -> Array:
    """Noise whose neighbours are alike along every spatial axis."""
    noise = normal(3, count, channels, *(length + 4 for length in size))
    for axis in range(2, noise.ndim):
        noise = np.lib.stride_tricks.sliding_window_view(noise, 5, axis=axis).mean(axis=-1)
    return np.asarray(noise * 3, np.float32)


def scaled(seed: int, *shape: int) -> Array:
    return (normal(seed, *shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def one_dimensional() -> tuple[onnx.ModelProto, Array]:
    """Audio-like: stride, dilation, one-sided padding, BatchNormalization, slopes by channel."""
    graph = """g (float[N, 4, 96] x) => (float[N, 6] y) {
        c1 = Conv <pads = [4, 4], strides = [2]> (x, w1, b1)
        r1 = PRelu (c1, slopes)
        c2 = Conv <pads = [4, 0], dilations = [2]> (r1, w2)
        n2 = BatchNormalization (c2, gamma, beta, mean, variance)
        r2 = Relu (n2)
        c3 = Conv (r2, w3)
        s3 = Add (c3, offsets)
        r3 = Relu (s3)
        p = GlobalAveragePool (r3)
        f = Flatten (p)
        y = Gemm (f, fc)
    }"""
    weights = {
        "w1": scaled(0, 24, 4, 9),
        "b1": normal(1, 24),
        "slopes": np.abs(normal(2, 24, 1)),
        "w2": scaled(3, 24, 24, 3),
        "gamma": 1 + 0.2 * normal(4, 24),
        "beta": normal(5, 24),
        "mean": 0.1 * normal(6, 24),
        "variance": 1 + 0.3 * np.abs(normal(7, 24)),
        "w3": scaled(8, 32, 24, 1),
        "offsets": normal(9, 1, 32, 1),
        "fc": normal(10, 32, 6),
    }
    return build(graph, weights), smooth(60, 4, 96)


def three_dimensional() -> tuple[onnx.ModelProto, Array]:
    """Video-like: uneven kernels, strides and pads, a residual sum."""
    graph = """g (float[N, 3, 6, 10, 8] x) => (float[N, 5] y) {
        c1 = Conv <pads = [1, 1, 1, 1, 1, 1], strides = [1, 2, 1]> (x, w1, b1)
        r1 = Relu (c1)
        c2 = Conv <auto_pad = "SAME_UPPER"> (r1, w2)
        s2 = Add (c2, r1)
        r2 = Relu (s2)
        c3 = Conv <pads = [0, 1, 0, 0, 0, 2]> (r2, w3)
        r3 = LeakyRelu <alpha = 0.1> (c3)
        p = GlobalAveragePool (r3)
        f = Flatten (p)
        y = Gemm (f, fc)
    }"""
    weights = {
        "w1": scaled(0, 16, 3, 3, 3, 3),
        "b1": normal(1, 16),
        "w2": scaled(2, 16, 16, 3, 3, 1),
        "w3": scaled(3, 20, 16, 1, 2, 3),
        "fc": normal(4, 20, 5),
    }
    return build(graph, weights), smooth(40, 3, 6, 10, 8)


def perceptron() -> tuple[onnx.ModelProto, Array]:
    """Gemm with scale and transposed weight, BatchNormalization behind a row of channels, a residual sum."""
    graph = """g (float[N, 20] x) => (float[N, 6] y) {
        d1 = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w1, b1)
        r1 = Relu (d1)
        d2 = MatMul (r1, w2)
        n2 = BatchNormalization (d2, gamma, beta, mean, variance)
        s2 = Add (n2, r1)
        r2 = Relu (s2)
        d3 = Gemm (r2, w3, b3)
        y = Tanh (d3)
    }"""
    weights = {
        "w1": scaled(0, 32, 20),
        "b1": normal(1, 1, 32),
        "w2": scaled(2, 32, 32),
        "gamma": 1 + 0.2 * normal(3, 32),
        "beta": normal(4, 32),
        "mean": 0.1 * normal(5, 32),
        "variance": 1 + 0.3 * np.abs(normal(6, 32)),
        "w3": scaled(7, 32, 6),
        "b3": normal(8, 6),
    }
    return build(graph, weights), correlated(700, 20)


def tokens() -> tuple[onnx.ModelProto, Array]:
    """MatMul over rows of tokens, offsets and a GELU behind it, as transformers have it."""
    graph = """g (float[N, 9, 24] x) => (float[N, 9, 24] y) {
        d1 = MatMul (x, w1)
        a1 = Add (d1, b1)
        t1 = Div (a1, root)
        e1 = Erf (t1)
        o1 = Add (e1, one)
        m1 = Mul (a1, o1)
        g1 = Mul (m1, half)
        d2 = MatMul (g1, w2)
        a2 = Add (b2, d2)
        y = Add (a2, x)
    }"""
    weights = {
        "w1": scaled(0, 24, 48),
        "b1": normal(1, 48),
        "w2": scaled(2, 48, 24),
        "b2": normal(3, 24),
        **{name: np.float32(value) for name, value in (("root", np.sqrt(2)), ("one", 1), ("half", 0.5))},
    }
    return build(graph, weights), correlated(120 * 9, 24).reshape(120, 9, 24)


def correlated(count: int, size: int) -> Array:
    """Rows whose numbers go together, as features do."""
    decay = np.exp(-np.arange(size) / 4)[:, None]
    return (normal(3, count, size) @ (decay * normal(4, size, size))).astype(np.float32)


NETWORKS = {"1-D": one_dimensional, "3-D": three_dimensional, "dense": perceptron, "tokens": tokens}
OPERATORS = {
    **{"1-D": ["Conv", "Conv", "Conv", "Gemm"], "3-D": ["Conv", "Conv", "Conv", "Gemm"]},
    **{"dense": ["Gemm", "MatMul", "Gemm"], "tokens": ["MatMul", "MatMul"]},
}


def layers(model: onnx.ModelProto) -> list[Layer]:
    return [row for row in inspect(model).rows if isinstance(row, Layer)]


@pytest.mark.parametrize("name", NETWORKS)
def test_full_rank_changes_nothing(name: str) -> None:
    model, data = NETWORKS[name]()
    found = layers(model)
    assert [layer.op for layer in found] == OPERATORS[name]
    plan = RankPlan(tuple(LayerPlan(layer.name, "channel", channel=layer.filters) for layer in found))
    converted = convert(model, {"x": data}, plan=plan, solver="linear", bench=False).model
    assert converted is not None
    assert sum(
        "lowrank" in tensor.name and "weight" in tensor.name for tensor in converted.graph.initializer
    ) == 2 * len(found)
    assert relative(run(model, {"x": data})["y"], run(converted, {"x": data})["y"]) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_fewer_multiply_adds_and_nearly_the_same_outputs(name: str) -> None:
    model, data = NETWORKS[name]()
    result = convert(model, {"x": data}, speedup=1.4, samples=len(data) * 4 // 5, rank_multiple=1, bench=False)
    assert result.model is not None
    assert result.report.speedup >= 1.4
    assert {layer.method for layer in result.report.layers} <= {"channel", "input", "tucker", "width", "kept"}
    assert result.report.verification is not None
    assert result.report.verification["outputs"]["y"]["relative_error"] < 0.2
    assert inspect(result.model).macs == result.report.macs[1]


def test_a_plan_cannot_split_what_has_no_two_axes() -> None:
    model, data = one_dimensional()
    name = layers(model)[0].name
    with pytest.raises(RankError, match="a 1-D convolution has no spatial decomposition, got method 'spatial'"):
        convert(model, {"x": data}, plan=RankPlan((LayerPlan(name, "spatial", spatial=2),)))
