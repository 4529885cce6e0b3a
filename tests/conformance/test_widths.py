"""Networks converted by leaving channels out, and residual blocks whose last layer makes good for the shortcut."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert
from onnx_lowrank.errors import RankError
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.responses import TargetResponses
from tests.helpers import build, filters, normal, relative, run

HOW: dict[str, Any] = {"bench": False, "threads": 1, "provider": "cpu", "seed": 0}
DATA, UNSEEN = normal(40, 60, 3, 12, 12), normal(41, 40, 3, 12, 12)


def inverted_residuals() -> onnx.ModelProto:
    """Two blocks of 1 x 1, depthwise, 1 x 1, the second with a shortcut."""
    body = "s = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(s)\n"
    weights = {"w": filters(0, 12, 3, 3, 3)}
    source = "r"
    for block in (1, 2):
        body += f"""e{block} = Conv({source}, we{block})  ra{block} = Clip(e{block}, zero, six)
            d{block} = Conv<group=48, pads=[1,1,1,1]>(ra{block}, wd{block})  rb{block} = Clip(d{block}, zero, six)
            p{block} = Conv(rb{block}, wp{block}, b{block})\n"""
        weights |= {
            f"we{block}": filters(block, 48, 12, 1, 1),
            f"wd{block}": normal(10 + block, 48, 1, 3, 3),
            f"wp{block}": filters(20 + block, 12, 48, 1, 1),
            f"b{block}": normal(30 + block, 12),
        }
        source = f"p{block}"
    body += "y = Add(p2, p1)"
    bounds = {"zero": np.float32(0), "six": np.float32(6)}
    return build(f"g (float[N,3,12,12] x) => (float[N,12,12,12] y) {{ {body} }}", weights | bounds)


def names(model: onnx.ModelProto) -> list[tuple[str, list[str]]]:
    return [(node.op_type, list(node.output)) for node in model.graph.node]


def plan_of(width: int) -> RankPlan:
    return RankPlan((LayerPlan("p1", "width", width=width), LayerPlan("p2", "width", width=width)))


def test_a_network_keeps_its_nodes_and_has_fewer_channels() -> None:
    model = inverted_residuals()
    result = convert(model, {"x": DATA}, method="width", speedup=1.4, **HOW)
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert names(result.model) == names(model)
    widths = {layer.name: layer.width for layer in result.report.layers if layer.width}
    assert widths
    dims = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    by_output = {node.output[0]: node for node in result.model.graph.node}
    for name, width in widths.items():
        block = name[-1]
        assert dims[by_output[f"e{block}"].input[1]] == [width, 12, 1, 1]
        assert dims[by_output[f"d{block}"].input[1]] == [width, 1, 3, 3]
        assert dims[by_output[name].input[1]] == [12, width, 1, 1]
    assert result.report.speedup >= 1.4
    saved = result.to_dict()["layers"]
    assert {entry["name"]: entry["width"] for entry in saved if entry["width"]} == widths
    assert relative(run(model, {"x": UNSEEN})["y"], run(result.model, {"x": UNSEEN})["y"]) < 0.2


def test_the_last_layer_of_a_branch_makes_good_for_the_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shortcut of rank 2 the branch, which reads the same input, can give back all that is lost."""
    body = "s = Conv(x, ws)  c = Conv(x, wc)  y = Add(c, s)"
    weights = {"ws": normal(1, 8, 6, 1, 1), "wc": normal(2, 8, 6, 1, 1)}
    model = build(f"g (float[N,6,9,9] x) => (float[N,8,9,9] y) {{ {body} }}", weights)
    plan = RankPlan((LayerPlan("s", "channel", 2), LayerPlan("c", "channel", 6)))
    data, unseen = normal(3, 40, 6, 9, 9), {"x": normal(4, 10, 6, 9, 9)}

    def error() -> float:
        result = convert(model, {"x": data}, plan=plan, **HOW)
        assert result.model is not None
        return relative(run(model, unseen)["y"], run(result.model, unseen)["y"])

    assert error() < 1e-2
    monkeypatch.setattr(TargetResponses, "delivered", lambda targets, _: targets)
    assert error() > 0.2


def test_the_full_width_changes_nothing() -> None:
    model = inverted_residuals()
    result = convert(model, {"x": DATA}, plan=plan_of(48), **HOW)
    assert result.model is not None
    assert result.model.graph == model.graph
    assert {layer.reason for layer in result.report.layers if layer.name in {"p1", "p2"}} == {
        "all of its channels stay"
    }


def test_a_plan_is_written_and_read() -> None:
    plan = plan_of(24)
    assert '"width": 24' in plan.to_json()
    assert RankPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (LayerPlan("e2", "width", width=6), "'e2': the channels that it reads cannot be left out, got method 'width'"),
        (LayerPlan("p1", "width", width=49), "'p1': width must be 1..48 .* got 49: change it in the plan"),
        (LayerPlan("p1", "width", width=0), "'p1': width must be 1..48 .* got 0: change it in the plan"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(entry: LayerPlan, message: str) -> None:
    with pytest.raises(RankError, match=message):
        convert(inverted_residuals(), {"x": DATA}, plan=RankPlan((entry,)), **HOW)
