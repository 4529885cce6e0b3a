"""Layers whose weights are computed from constants are converted like any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert
from onnx_lowrank.graph.index import GraphIndex
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.helpers import build, filters, normal, relative, run

SAMPLES = normal(9, 40, 3, 10, 10)
BODIES = {
    "c": "n = ReduceL2<axes=[1,2,3], keepdims=1>(v) u = Div(v, n) k = Mul(g, u)",
    "d": """m = ReduceMean<axes=[1,2,3], keepdims=1>(w) z = Sub(w, m) q = Mul(z, z)
        a = ReduceMean<axes=[1,2,3], keepdims=1>(q) f = Add(a, eps) s = Sqrt(f) t = Div(z, s) l = Mul(t, gain)""",
}


def normalized(opset: int) -> onnx.ModelProto:
    """Two convolutions, one with a normalized, one with a standardized weight."""
    return build(
        f"""g (float[N,3,10,10] x) => (float[N,16,10,10] y) {{
            {BODIES["c"]} {BODIES["d"]}
            c = Conv<pads=[1,1,1,1]>(x, k)
            r = Relu(c)
            d = Conv<pads=[1,1,1,1]>(r, l, b)
            y = Relu(d)
        }}""",
        {
            "v": filters(0, 16, 3, 3, 3), "g": np.abs(normal(1, 16, 1, 1, 1)), "w": filters(2, 16, 16, 3, 3),
            "eps": np.float32(1e-5), "gain": np.float32(0.05), "b": normal(3, 16),
        },
        opset=opset,
    )  # fmt: skip


@pytest.mark.parametrize("opset", [11, 17])
def test_full_rank_is_the_original_and_what_served_the_weights_is_gone(opset: int) -> None:
    model = normalized(opset)
    plan = RankPlan((LayerPlan("c", "channel", 16), LayerPlan("d", "channel", 16)))
    result = convert(model, {"x": SAMPLES}, plan=plan, bench=False)
    assert result.model is not None
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv", "Relu"] * 2
    assert {tensor.name for tensor in result.model.graph.initializer}.isdisjoint(["v", "g", "w", "eps", "gain", "b"])
    fresh = {"x": normal(10, 4, 3, 10, 10)}
    assert relative(run(model, fresh)["y"], run(result.model, fresh)["y"]) < 1e-5
    assert result.report.parameters[0] == 16 * 27 + 16 * 144 + 16


def test_all_layers_count() -> None:
    result = convert(normalized(17), {"x": SAMPLES}, speedup=1.5, bench=False, refine="none")
    assert result.report.macs[0] == 100 * 16 * (27 + 144)
    assert result.report.speedup >= 1.5


@pytest.mark.parametrize("mode", ["training_mode=1", "training_mode=0"])
def test_weights_standardized_by_batch_normalization(mode: str) -> None:
    """As exporters write `timm.layers.ScaledStdConv2d`: one filter is one channel; some of them fold the statistics."""
    outputs = "s, m2, v2" if mode == "training_mode=1" else "s"
    weight = filters(0, 16, 3, 3, 3)
    model = build(
        f"""g (float[N,3,10,10] x) => (float[N,16,8,8] y) {{
            {outputs} = BatchNormalization<{mode}, epsilon=0.000001>(v, gain, zero, mean, variance)
            w = Reshape(s, shape)
            c = Conv(x, w, b)
            y = Relu(c)
        }}""",
        {
            "v": weight.reshape(1, 16, 27), "gain": np.abs(normal(1, 16)) / 5, "zero": np.zeros(16, np.float32),
            "mean": weight.mean((1, 2, 3)), "variance": weight.var((1, 2, 3)),
            "shape": np.array([16, 3, 3, 3]), "b": normal(3, 16),
        },
    )  # fmt: skip
    result = convert(model, {"x": SAMPLES}, plan=RankPlan((LayerPlan("c", "channel", 16),)), bench=False)
    assert result.model is not None
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv", "Relu"]
    fresh = {"x": normal(10, 4, 3, 10, 10)}
    assert relative(run(model, fresh)["y"], run(result.model, fresh)["y"]) < 1e-5


def flipped(count: str) -> onnx.ModelProto:
    """A weight with its rows in reverse order, by an index that is counted down, as Keras exports it through JAX."""
    return build(
        f"""g (float[N,3,10,10] x) => (float[N,16,A,10] y) {{
            up = Range(zero, {count}, one) last = Sub({count}, one) down = Sub(last, up)
            w = Gather<axis=2>(v, down)
            y = Conv<pads=[0,1,0,1]>(x, w)
        }}""",
        {
            "v": filters(0, 16, 3, 3, 3),
            **{name: np.int64(value) for name, value in {"zero": 0, "one": 1, "three": 3, "many": 2**40}.items()},
        },
    )


def test_weights_in_an_order_that_is_computed() -> None:
    model = flipped("three")
    result = convert(model, {"x": SAMPLES}, plan=RankPlan((LayerPlan("y", "channel", 16),)), bench=False)
    assert result.model is not None
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv"]
    assert relative(run(model, {"x": SAMPLES})["y"], run(result.model, {"x": SAMPLES})["y"]) < 1e-5


def test_a_range_too_long_to_hold_is_not_counted() -> None:
    assert GraphIndex(flipped("many")).constant("up") is None
