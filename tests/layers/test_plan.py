from __future__ import annotations

import json
from dataclasses import replace

import pytest

from onnx_lowrank.errors import RankError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.example_layers import conv_layer

LAYERS = [conv_layer(64, 3, (3, 3), (8, 8), name="features.0"), conv_layer(64, 64, (3, 3), (8, 8), name="features.3")]


def test_json_round_trip() -> None:
    plan = RankPlan(
        (
            LayerPlan("a"),
            LayerPlan("b", "channel", 8),
            LayerPlan("c", "spatial", None, 4),
            LayerPlan("d", "spatial-channel", 8, 6),
            LayerPlan("e", "input", input=5),
            LayerPlan("f", "tucker", 8, input=5),
        )
    )
    assert RankPlan.from_json(plan.to_json()) == plan
    entry = json.loads(plan.to_json())["layers"][-1]
    assert entry == {"name": "f", "method": "tucker", "ranks": {"input": 5, "channel": 8}}


def test_layers_left_out_are_kept() -> None:
    plan = RankPlan((LayerPlan("features.3", "channel", 8),)).matched(LAYERS)
    assert [entry.method for entry in plan] == ["kept", "channel"]


def test_factorized_layers_come_with_their_plans_in_order() -> None:
    plan = RankPlan((LayerPlan("features.0"), LayerPlan("features.3", "channel", 8)))
    assert plan.factorized(LAYERS) == [(LAYERS[1], plan.layers[1])]
    both = RankPlan((LayerPlan("features.0", "spatial", None, 2), LayerPlan("features.3", "channel", 8)))
    assert both.factorized(LAYERS) == list(zip(LAYERS, both, strict=True))


@pytest.mark.parametrize("layers", [LAYERS[:1], LAYERS[::-1], [*LAYERS, LAYERS[0]], []])
def test_a_plan_is_paired_with_its_own_layers_only(layers: list[Layer]) -> None:
    plan = RankPlan((LayerPlan("features.0"), LayerPlan("features.3", "channel", 8)))
    with pytest.raises(ValueError, match=r"the plan is for the layers \['features\.0', 'features\.3'\] in this order"):
        plan.factorized(layers)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": [{"name": "a"}]}', '{"layers": 3}', "not json"])
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(RankError, match=r"my\.json: not a rank plan .*: write one with `RankPlan.to_json`"):
        RankPlan.from_json(text, "my.json")


def test_unknown_method() -> None:
    with pytest.raises(RankError, match="method 'magic' of 'a' is not one of kept, channel"):
        RankPlan.from_json('{"layers": [{"name": "a", "method": "magic"}]}')


def test_unknown_layer() -> None:
    with pytest.raises(RankError, match=r"plan: no layer 'nowhere' .* features\.0, features\.3"):
        RankPlan((LayerPlan("nowhere", "channel", 8),)).matched(LAYERS)


def test_layer_named_twice() -> None:
    with pytest.raises(RankError, match="named twice"):
        RankPlan((LayerPlan("features.3"), LayerPlan("features.3"))).matched(LAYERS)


@pytest.mark.parametrize("rank", [0, 80, -1, True, 2.5, "8", None])
def test_rank_out_of_range(rank: int) -> None:
    with pytest.raises(
        RankError, match=rf"Conv 'features\.3': channel rank must be 1\.\.64 \(64 filters\), got {rank}: change it"
    ):
        RankPlan((LayerPlan("features.3", "channel", rank),)).matched(LAYERS)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"input": 65}, r"input rank must be 1\.\.64 \(64 filters\), got 65: change it in the plan"),
        ({"input": 0}, r"input rank must be 1\.\.64 \(64 filters\), got 0"),
        ({"input": None}, r"input rank must be 1\.\.64 \(64 filters\), got None"),
    ],
)
@pytest.mark.parametrize("method", ["input", "tucker"])
def test_input_rank_out_of_range(method: str, ranks: dict[str, int], message: str) -> None:
    channel = {"channel": 8} if method == "tucker" else {}
    with pytest.raises(RankError, match=rf"Conv 'features\.3': {message}"):
        RankPlan((LayerPlan("features.3", method, **channel, **ranks),)).matched(LAYERS)


@pytest.mark.parametrize("method", ["input", "tucker"])
@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 1, 1)])
def test_a_kernel_of_one_point_has_no_input_rank(method: str, kernel: tuple[int, ...]) -> None:
    layer = conv_layer(64, 32, (1, 1), (8, 8), name="head")
    layer = replace(layer, weight=layer.weight.reshape(64, 32, *kernel))
    with pytest.raises(
        RankError,
        match=rf"Conv 'head': a kernel of one point has no other convolution between two of 1 x 1, got method "
        rf"'{method}': use 'channel' or 'kept' in the plan",
    ):
        RankPlan((LayerPlan("head", method, 8, input=8),)).matched([layer])


def test_a_plan_without_its_input_rank() -> None:
    text = '{"layers": [{"name": "a", "method": "tucker", "ranks": {"channel": 8}}]}'
    with pytest.raises(RankError, match=r"p\.json: not a rank plan \(KeyError: 'input'\), wanted"):
        RankPlan.from_json(text, "p.json")
