"""Grouped convolutions: every group is factorized by itself, as if it were a convolution of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import LayerPlan, RankPlan, convert, inspect
from onnx_lowrank.errors import BudgetError, ModelError, RankError
from onnx_lowrank.graph.eligible import MIN_GROUP_CHANNELS
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import FACTORIZATIONS, largest_ranks, rank_kinds
from tests.helpers import build, filters, normal, relative, run
from tests.networks import images

Array = NDArray[Any]
GROUPS, WIDTH = 2, 32
CHANNELS = GROUPS * WIDTH
IMAGES = images(40, size=9)


def weights() -> dict[str, Array]:
    return {
        "w1": filters(0, CHANNELS, 3, 3, 3),
        "w2": filters(1, CHANNELS, WIDTH, 3, 3),
        "b2": normal(2, CHANNELS),
        "slopes": np.abs(normal(3, CHANNELS, 1, 1)),
        "w3": filters(4, 2 * CHANNELS, WIDTH, 3, 1),
        "f": normal(5, 2 * CHANNELS, 5),
    }


def grouped() -> onnx.ModelProto:
    """Slopes by channel, a stride, uneven pads, a kernel of one column."""
    graph = f"""g (float[N, 3, 9, 9] x) => (float[N, 5] y) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 1], group = {GROUPS}> (r1, w2, b2)
        r2 = PRelu (c2, slopes)
        c3 = Conv <pads = [2, 0, 0, 0], group = {GROUPS}> (r2, w3)
        r3 = Relu (c3)
        p = GlobalAveragePool (r3)
        q = Flatten (p)
        y = Gemm (q, f)
    }}"""
    return build(graph, weights())


def split() -> onnx.ModelProto:
    """The same network with the groups of its second convolution written out."""
    graph = """g (float[N, 3, 9, 9] x) => (float[N, 5] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        i1, i2 = Split <axis = 1> (r1)
        g1 = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (i1, w21, b21)
        g2 = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (i2, w22, b22)
        o1 = PRelu (g1, slopes1)
        o2 = PRelu (g2, slopes2)
        r2 = Concat <axis = 1> (o1, o2)
        c3 = Conv <pads = [2, 0, 0, 0], group = 2> (r2, w3)
        r3 = Relu (c3)
        p = GlobalAveragePool (r3)
        q = Flatten (p)
        y = Gemm (q, f)
    }"""
    whole = weights()
    parts = {
        f"{name}{number + 1}": whole[name][number * WIDTH : (number + 1) * WIDTH]
        for name in ("w2", "b2", "slopes")
        for number in range(GROUPS)
    }
    return build(graph, {**{name: whole[name] for name in ("w1", "w3", "f")}, **parts}, opset=13)


def plan(model: onnx.ModelProto, method: str, share: float) -> RankPlan:
    """Every convolution that can be split by ``method`` at a share of its largest ranks."""
    layers = [row for row in inspect(model).rows if isinstance(row, Layer) and row.op == "Conv"]
    kinds = rank_kinds(method)
    ranks = [{kind: max(1, int(share * most)) for kind, most in largest_ranks(layer).items()} for layer in layers]
    return RankPlan(
        tuple(
            LayerPlan(layer.name, method, **{kind: each[kind] for kind in kinds})
            for layer, each in zip(layers, ranks, strict=True)
        )
    )


@pytest.mark.parametrize("method", FACTORIZATIONS)
def test_full_rank_changes_nothing(method: str) -> None:
    model = grouped()
    result = convert(model, {"x": IMAGES}, plan=plan(model, method, 1.0), solver="linear", refine="none", bench=False)
    assert result.model is not None
    chains = [node for node in result.model.graph.node if "c2/lowrank" in node.name]
    assert len(chains) == 2 + (len(rank_kinds(method)) == 2)
    assert all(attribute.i == GROUPS for node in chains for attribute in node.attribute if attribute.name == "group")
    assert relative(run(model, {"x": IMAGES})["y"], run(result.model, {"x": IMAGES})["y"]) < 1e-5


@pytest.mark.parametrize("method", FACTORIZATIONS)
def test_a_group_is_solved_as_if_it_stood_alone(method: str) -> None:
    """Every position is sampled, so that both networks see the same rows."""
    ranks = {"channel": 7, "spatial": 11, "input": 9}
    chosen = {kind: ranks[kind] for kind in rank_kinds(method)}
    outputs, errors = [], []
    for model, names in ((grouped(), ["c2"]), (split(), ["g1", "g2"])):
        entries = RankPlan(tuple(LayerPlan(name, method, **chosen) for name in names))
        result = convert(model, {"x": IMAGES}, plan=entries, positions=45, samples=30, bench=False)
        assert result.model is not None
        outputs.append(run(result.model, {"x": IMAGES}, ["r2"])["r2"])
        errors.append([layer.errors.solved for layer in result.report.layers if layer.errors])
    assert relative(outputs[1], outputs[0]) < 1e-4
    assert relative(outputs[0], run(grouped(), {"x": IMAGES}, ["r2"])["r2"]) > 1e-2
    # The report has one error for all groups: between those of its parts.
    ((whole,), parts) = errors
    assert min(parts) <= whole <= max(parts)


def test_ranks_are_chosen_within_the_budget() -> None:
    model = grouped()
    result = convert(model, {"x": IMAGES}, speedup=2, bench=False)
    assert result.model is not None
    assert result.report.speedup >= 2
    chosen = {layer.name: layer.method for layer in result.report.layers}
    assert "kept" not in {chosen["c2"], chosen["c3"]}
    assert inspect(result.model).macs == result.report.macs[1]


def test_narrow_groups_stay_unless_a_plan_says_otherwise() -> None:
    width = MIN_GROUP_CHANNELS // 2
    graph = "g (float[N,32,9,9] x) => (float[N,32,7,7] y) { c = Conv<group=2>(x, w)  y = Relu(c) }"
    model, data = build(graph, {"w": filters(0, 32, width, 3, 3)}), images(20, size=9, channels=32)
    (row,) = inspect(model).rows
    assert isinstance(row, SkippedLayer)
    assert row.reason == "2 groups of 16 channels: they pay from 32 channels on"
    with pytest.raises(ModelError, match=r"no layer can be factorized \('c': 2 groups of 16 channels"):
        convert(model, {"x": data}, speedup=2)
    entry = RankPlan((LayerPlan("c", "channel", channel=8),))
    result = convert(model, {"x": data}, plan=entry, bench=False)
    assert [layer.method for layer in result.report.layers] == ["channel"]


def test_a_rank_is_that_of_one_group() -> None:
    entry = RankPlan((LayerPlan("c2", "channel", channel=WIDTH + 1),))
    wanted = r"Conv 'c2': channel rank must be 1..32 \(64 filters in 2 groups\), got 33: change it in the plan"
    with pytest.raises(RankError, match=wanted):
        convert(grouped(), {"x": IMAGES}, plan=entry)


def test_the_largest_speedup_is_that_of_rank_one_in_every_group() -> None:
    graph = "g (float[N,64,9,9] x) => (float[N,64,7,7] y) { y = Conv<group=2>(x, w) }"
    model, data = build(graph, {"w": filters(0, 64, 32, 3, 3)}), images(20, size=9, channels=64)
    with pytest.raises(BudgetError, match="speedup 100 cannot be reached, the largest that can is 28.80"):
        convert(model, {"x": data}, speedup=100, method="channel", rank_multiple=1)
