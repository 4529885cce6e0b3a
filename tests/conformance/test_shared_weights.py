"""Layers that share a weight: parameters are those that the file holds, and none are stored twice to save them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.helpers import build, filters, normal, relative, run

OWN, SHARED = 32 * 32 * 9 + 32, 32 * 32 * 9  # a weight with a bias, a weight


def head(extra: str = "y2 = Identity(e)") -> onnx.ModelProto:
    """A stem, and one convolution that is applied at three levels, by different ways to the same initializer."""
    return build(
        f"""g (float[N,32,16,16] x) => (float[N,a,b,c] y0, float[N,d,e,f] y1, float[N,g,h,i] y2) {{
            s = Conv<pads=[1,1,1,1]>(x, v, b0)
            r = Relu(s)
            y0 = Conv<pads=[1,1,1,1]>(r, w)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            k = Identity(w)
            y1 = Conv<pads=[1,1,1,1]>(p, k)
            q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)
            e = Conv<pads=[1,1,1,1]>(q, w)
            {extra}
        }}""",
        {"v": filters(0, 32, 32, 3, 3), "b0": normal(1, 32), "w": filters(2, 32, 32, 3, 3)},
    )


DATA = {"x": normal(3, 24, 32, 16, 16)}


def held(model: onnx.ModelProto | None) -> int:
    assert model is not None
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


@pytest.mark.parametrize(
    "methods", [("kept", "channel", "channel", "channel"), ("channel", "channel", "kept", "channel"), ("kept",) * 4]
)
def test_parameters_are_those_of_the_file(methods: tuple[str, ...]) -> None:
    names = ("s", "y0", "y1", "e")
    plan = RankPlan(
        tuple(LayerPlan(name, how, None if how == "kept" else 8) for name, how in zip(names, methods, strict=True))
    )
    result = convert(head(), DATA, plan=plan, bench=False, refine="none")
    # A chain ends in a bias, also where the layer had none.
    assert result.report.parameters == (OWN + SHARED, held(result.model))
    assert inspect(head(), input_shapes={"x": (1, 32, 16, 16)}).parameters == OWN + SHARED


def test_a_weight_that_something_else_reads_stays_in_the_file() -> None:
    model = head("u = ReduceMean<keepdims=0>(e) y2 = Mul(w, u)")
    plan = RankPlan((LayerPlan("s"), *(LayerPlan(name, "channel", 8) for name in ("y0", "y1", "e"))))
    result = convert(model, DATA, plan=plan, bench=False, refine="none")
    assert result.report.parameters == (OWN + SHARED, held(result.model))


def test_layers_that_share_a_weight_stay_where_parameters_are_to_be_saved() -> None:
    result = convert(head(), DATA, speedup=1.3, cost="params", bench=False, refine="none")
    assert {layer.name: layer.reason for layer in result.report.layers if layer.method == "kept"} == {
        "y0": "shares its weight with 'y1', 'e': factors would be stored 3 times",
        "y1": "shares its weight with 'y0', 'e': factors would be stored 3 times",
        "e": "shares its weight with 'y0', 'y1': factors would be stored 3 times",
    }
    before, after = result.report.parameters
    assert (before, after) == (OWN + SHARED, held(result.model))
    assert before / after >= 1.3
    with pytest.raises(BudgetError, match=rf"params, of which {SHARED} are in layers that stay"):
        convert(head(), DATA, speedup=2, cost="params", bench=False)


def test_layers_that_share_a_weight_are_converted_for_multiply_adds() -> None:
    result = convert(head(), DATA, speedup=2, bench=False, refine="none")
    assert all(layer.method != "kept" for layer in result.report.layers if layer.name in {"y0", "s"})
    assert result.report.parameters[1] == held(result.model)
    full = RankPlan(tuple(LayerPlan(name, "channel", 32) for name in ("s", "y0", "y1", "e")))
    exact = convert(head(), DATA, plan=full, bench=False).model
    assert exact is not None
    fresh = {"x": normal(4, 2, 32, 16, 16)}
    before, after = run(head(), fresh), run(exact, fresh)
    assert max(relative(before[name], after[name]) for name in before) < 1e-5
