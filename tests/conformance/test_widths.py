"""Networks converted by leaving channels out, and residual blocks whose last layer makes good for the shortcut."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_lowrank import convert, inspect
from onnx_lowrank.errors import BudgetError, RankError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.pipeline import open_conversion
from onnx_lowrank.settings import Settings
from tests.helpers import Array, build, filters, normal, relative, run

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


def gated() -> onnx.ModelProto:
    """MobileNetV3's block with a squeeze-and-excitation gate, twice, the second time of dense layers."""
    body = "s = Conv<pads=[1,1,1,1]>(x, w)  r = HardSwish(s)\n"
    weights, source = {"w": filters(0, 12, 3, 3, 3)}, "r"
    squeeze = {
        1: "q1 = GlobalAveragePool(rb1)  s1 = Conv(q1, ws1, bs1)  h1 = Relu(s1)  t1 = Conv(h1, wt1, bt1)",
        2: "q2 = ReduceMean<axes=[2,3], keepdims=0>(rb2)  s2 = Gemm<transB=1>(q2, ws2, bs2)  h2 = Relu(s2)"
        "  v2 = Gemm<transB=1>(h2, wt2, bt2)  t2 = Reshape(v2, gate)",
    }
    for block in (1, 2):
        ones = () if block == 2 else (1, 1)
        body += f"""e{block} = Conv({source}, we{block})  ra{block} = HardSwish(e{block})
            d{block} = Conv<group=48, pads=[1,1,1,1]>(ra{block}, wd{block})  rb{block} = HardSwish(d{block})
            {squeeze[block]}  g{block} = HardSigmoid(t{block})  m{block} = Mul(rb{block}, g{block})
            p{block} = Conv(m{block}, wp{block}, b{block})\n"""
        weights |= {
            f"we{block}": filters(block, 48, 12, 1, 1),
            f"wd{block}": normal(10 + block, 48, 1, 3, 3),
            f"ws{block}": normal(40 + block, 12, 48, *ones) / 7,
            f"bs{block}": normal(50 + block, 12),
            f"wt{block}": normal(60 + block, 48, 12, *ones) / 2,
            f"bt{block}": normal(70 + block, 48),
            f"wp{block}": filters(20 + block, 12, 48, 1, 1),
            f"b{block}": normal(30 + block, 12),
        }
        source = f"p{block}"
    body += "y = Add(p2, p1)"
    weights["gate"] = np.array([-1, 48, 1, 1])
    return build(f"g (float[N,3,12,12] x) => (float[N,12,12,12] y) {{ {body} }}", weights)


def staged() -> onnx.ModelProto:
    """YOLO's stages: two layers beside each other that are joined, and halves of one that go different ways."""
    layers = {"s": (12, 3, 3), "a": (16, 12, 1), "b": (16, 12, 1), "c": (16, 16, 3), "k": (24, 32, 1)}
    layers |= {"l": (32, 24, 1), "u": (16, 16, 3), "o": (12, 48, 1)}

    def convolution(name: str, source: str) -> str:
        pads = ", ".join("1" * 4 if layers[name][2] == 3 else "0" * 4)
        made = f"{name} = Conv<pads=[{pads}]>({source}, w{name}, b{name})"
        return f"{made}  g{name} = Sigmoid({name})  r{name} = Mul({name}, g{name})"

    lines = [
        *(convolution("s", "x"), convolution("a", "rs"), convolution("b", "rs"), convolution("c", "ra")),
        *("j = Concat<axis=1>(rc, rb)", convolution("k", "j"), convolution("l", "rk")),
        *("h, i = Split<axis=1>(rl)", convolution("u", "i"), "n = Concat<axis=1>(h, i, ru)"),
        "y = Conv(n, wo, bo)",
    ]
    weights = {f"w{name}": filters(number, d, c, k, k) for number, (name, (d, c, k)) in enumerate(layers.items())} | {
        f"b{name}": normal(90 + number, d) for number, (name, (d, _, _)) in enumerate(layers.items())
    }
    return build(f"g (float[N,3,12,12] x) => (float[N,12,12,12] y) {{ {' '.join(lines)} }}", weights)


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


def test_depthwise_layers_are_solved_for_the_inputs_that_they_get() -> None:
    """What feeds the first one is what it was, but for channels that are gone; what feeds the second is not."""
    model = inverted_residuals()
    result = convert(model, {"x": DATA}, plan=plan_of(24), **HOW)
    assert result.model is not None
    before, after = weights_of(model), weights_of(result.model)

    def as_it_was(layer: str) -> list[bool]:
        return [bool((before[layer] == kernel).all(axis=(1, 2, 3)).any()) for kernel in after[layer]]

    assert as_it_was("d1") == [True] * 24
    assert as_it_was("d2") == [False] * 24


def test_patches_are_kept_of_layers_only_whose_ranks_or_widths_are_chosen() -> None:
    """Those of depthwise ones are of no use, and keeping them is what takes most of a pass."""
    _, layers, calibration = open_conversion(inverted_residuals(), {"x": DATA}, None, Settings(**HOW))
    assert [layer.name for layer in layers.carriers] == ["d1", "d2"]
    assert calibration.probes.keys() == {"s", "e1", "p1", "p2"}
    assert calibration.positions.keys() >= {"e1", "d1", "p1", "e2", "d2", "p2"}


def test_an_excluded_depthwise_layer_stays() -> None:
    model = inverted_residuals()
    plan = RankPlan((LayerPlan("p1", "width", width=24),))
    result = convert(model, {"x": DATA}, plan=plan, exclude=("d2",), **HOW)
    assert result.model is not None
    before, after = ({each.name: each for each in network.graph.initializer} for network in (model, result.model))
    assert before["wd2"] == after["wd2"]


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
        (
            LayerPlan("e2", "width", width=6),
            r"'e2': the channels that it reads cannot be left out \(a shortcut shares its channels\), got method",
        ),
        (LayerPlan("p1", "width", width=49), "'p1': width must be 1..48 .* got 49: change it in the plan"),
        (LayerPlan("p1", "width", width=0), "'p1': width must be 1..48 .* got 0: change it in the plan"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(entry: LayerPlan, message: str) -> None:
    with pytest.raises(RankError, match=message):
        convert(inverted_residuals(), {"x": DATA}, plan=RankPlan((entry,)), **HOW)


NETWORKS = {"gates": gated, "stages": staged}


@pytest.mark.parametrize("network", NETWORKS)
def test_further_readers_and_parts(network: str) -> None:
    model = NETWORKS[network]()
    result = convert(model, {"x": DATA}, method="width", speedup=1.3, **HOW)
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert names(result.model) == names(model)
    assert sum(layer.width is not None for layer in result.report.layers) > 1
    assert result.report.speedup >= 1.3
    error = relative(run(model, {"x": UNSEEN})["y"], run(result.model, {"x": UNSEEN})["y"])
    assert error < {"gates": 0.2, "stages": 0.2}[network]


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The weights of layers by their outputs."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.output[0]: stored[node.input[1]] for node in model.graph.node if node.op_type in {"Conv", "Gemm"}}


def test_the_layer_before_a_gate_makes_good_for_pooled_channels() -> None:
    """Channels in pairs, of which one is the other but for its scale: half of them are enough, for the gate too."""
    model = gated()
    for tensor in model.graph.initializer:
        if tensor.name in {"we1", "wd1", "wt1", "bt1"}:
            weight = numpy_helper.to_array(tensor).copy()
            weight[24:] = weight[:24]
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    plan = RankPlan((LayerPlan("p1", "width", width=24),))
    result = convert(model, {"x": DATA}, plan=plan, **HOW)
    assert result.model is not None
    assert weights_of(result.model)["s1"].shape == (12, 24, 1, 1)
    assert weights_of(result.model)["t1"].shape == (24, 12, 1, 1)
    assert relative(run(model, {"x": UNSEEN})["y"], run(result.model, {"x": UNSEEN})["y"]) < 1e-3
    scores, found = (run(each, {"x": UNSEEN}, ["s1"])["s1"] for each in (model, result.model))
    assert relative(scores, found) < 0.02  # of half of the terms of its sums it would be off by about .7


def test_a_reader_may_be_factorized_too() -> None:
    """Of two readers of the same channels one is made two layers, with nothing in the slices that are gone."""
    model = staged()
    plan = RankPlan((LayerPlan("u", "width", width=8), LayerPlan("y", "channel", 8)))
    result = convert(model, {"x": DATA}, plan=plan, **HOW)
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    found = weights_of(result.model)
    assert found["u"].shape == (16, 8, 3, 3)
    assert found["l"].shape == (24, 24, 1, 1)
    assert sorted(weight.shape for weight in found.values())[0] == (8, 40, 1, 1)
    wanted = convert(model, {"x": DATA}, plan=RankPlan((LayerPlan("y", "channel", 8),)), **HOW)
    assert wanted.model is not None
    errors = [
        relative(run(model, {"x": UNSEEN})["y"], run(each.model, {"x": UNSEEN})["y"]) for each in (result, wanted)
    ]
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_full_width_of_all_changes_nothing(network: str) -> None:
    model = NETWORKS[network]()
    rows = [row for row in inspect(model).rows if isinstance(row, Layer) and row.narrowable]
    assert rows
    plan = RankPlan(tuple(LayerPlan(row.name, "width", width=row.channels) for row in rows))
    result = convert(model, {"x": DATA}, plan=plan, **HOW)
    assert result.model is not None
    assert result.model.graph == model.graph


def test_channels_that_excluded_layers_make_or_read_stay() -> None:
    with pytest.raises(RankError, match=r"\('s1' makes or reads them: excluded by 's1'\), got method 'width'"):
        convert(gated(), {"x": DATA}, plan=RankPlan((LayerPlan("p1", "width", width=24),)), exclude=("s1",), **HOW)


@pytest.mark.parametrize(
    ("method", "found"),
    [
        (("width", "channel"), {"width", "channel"}),
        (("channel", "width", "width"), {"width", "channel"}),
        (("width",), {"width"}),
        (("spatial", "channel"), {"spatial", "channel"}),
    ],
)
def test_several_methods(method: tuple[Any, ...], found: set[str]) -> None:
    """With a first layer of low rank and a second one of channels that depend on each other both forms pay."""
    mixing = np.abs(normal(5, 48, 6))
    weights = {
        "wa": np.einsum("dr,rchw->dchw", normal(1, 32, 4), filters(2, 4, 3, 3, 3)),
        "wb": np.einsum("dr,rc->dc", mixing, normal(3, 6, 32) / 6)[..., None, None],
        "wc": filters(4, 12, 48, 1, 1),
    }
    weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
    body = "a = Conv<pads=[1,1,1,1]>(x, wa)  b = Conv(a, wb)  y = Conv(b, wc)"
    model = build(f"g (float[N,3,12,12] x) => (float[N,12,12,12] y) {{ {body} }}", weights)
    result = convert(model, {"x": DATA}, method=method, speedup=1.6, **HOW)
    used = {layer.method for layer in result.report.layers} - {"kept"}
    assert used
    assert used <= found
    if "width" in method and len(set(method)) == 1:
        assert used == {"width"}


def test_a_transposed_convolution_makes_good_for_channels() -> None:
    """Of channels in pairs, of which one is the other but for its scale, half are enough; so are four and their sum."""
    weights = {"wa": filters(0, 6, 3, 3, 3), "wt": filters(1, 12, 5, 3, 3), "wb": filters(2, 4, 5, 1, 1)}
    weights["wa"] = np.concatenate([weights["wa"], 2 * weights["wa"]])
    weights["wt"][:, 4] = weights["wt"][:, :4].sum(axis=1)
    body = """a = Conv<pads=[1,1,1,1]>(x, wa)  r = Relu(a)
        t = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(r, wt)  y = Conv(t, wb)"""
    model = build(f"g (float[N,3,12,12] x) => (float[N,4,24,24] y) {{ {body} }}", weights)
    plan = RankPlan((LayerPlan("t", "width", width=6), LayerPlan("y", "width", width=4)))
    result = convert(model, {"x": DATA}, plan=plan, **HOW)
    assert result.model is not None
    assert names(result.model) == names(model)
    shapes = [list(tensor.dims) for tensor in result.model.graph.initializer if len(tensor.dims) == 4]
    assert sorted(shapes) == sorted([[6, 3, 3, 3], [6, 4, 3, 3], [4, 4, 1, 1]])
    assert relative(run(model, {"x": UNSEEN})["y"], run(result.model, {"x": UNSEEN})["y"]) < 2e-3


def test_what_can_lose_channels_is_not_said_to_stay() -> None:
    """Depthwise layers get fewer channels with their neighbours, so they bound no speedup."""
    with pytest.raises(BudgetError) as raised:
        convert(inverted_residuals(), DATA, speedup=1000, **HOW)
    largest, whole, stay = map(float, re.findall(r"[\d.]+(?:e[+]\d+)?(?= \(|.macs,|.are)", str(raised.value)))
    assert stay == 0  # no matter that depthwise layers are no eligible ones
    assert whole / largest < 144 * 2 * 48 * 9  # than depthwise layers take now
