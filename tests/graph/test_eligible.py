"""Which layers may be factorized: the user's word, and the rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.eligible import check_any_eligible, layers_that_follow, layers_with_enough_rows, wanted_layers
from onnx_lowrank.layers.channel_group import ChannelGroup
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.layer_set import LayerSet
from tests.example_layers import conv_layer

LAYERS = [conv_layer(4, 4, (3, 3), (8, 8), name=name) for name in ("stem.conv", "body.0.conv", "body.1.conv")]
SKIPPED = [SkippedLayer("head.fc", "Gemm", "fully connected layers are not factorized", 10, 10)]
ALL = LayerSet(LAYERS, SKIPPED)


def names(layers: Sequence[Layer | SkippedLayer]) -> list[str]:
    return [layer.name for layer in layers]


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ([], [], ["stem.conv", "body.0.conv", "body.1.conv"]),
        (["body"], [], ["body.0.conv", "body.1.conv"]),
        (["^stem", r"\.1\."], [], ["stem.conv", "body.1.conv"]),
        ([], ["stem|head"], ["body.0.conv", "body.1.conv"]),
        (["body"], ["0"], ["body.1.conv"]),
        (["body", "head"], ["0"], ["body.1.conv"]),
    ],
)
def test_include_and_exclude(include: list[str], exclude: list[str], chosen: list[str]) -> None:
    layers = wanted_layers(ALL, include, exclude)
    assert names(layers.eligible) == chosen
    assert sorted(names(layers.every)) == sorted(names(ALL.every))
    assert layers.skipped[0] == SKIPPED[0]
    assert (layers.macs, layers.parameters) == (ALL.macs, ALL.parameters)


def test_the_reason_is_the_users_word() -> None:
    skipped = wanted_layers(ALL, ["body"], ["0"]).skipped
    assert {layer.name: layer.reason for layer in skipped[1:]} == {
        "stem.conv": "not among the included layers",
        "body.0.conv": "excluded by '0'",
    }


def test_the_word_of_an_expression_that_matches_nothing() -> None:
    with pytest.raises(
        ModelError, match=r"`include` 'tail': matches none of the 4 layers \(stem\.conv, body\.0\.conv, "
    ):
        wanted_layers(ALL, ["body", "tail"], [])


def test_a_reason_of_several_layers_stands_once() -> None:
    with pytest.raises(ModelError) as error:
        check_any_eligible(wanted_layers(ALL, [], ["stem|body"]))
    assert str(error.value) == (
        f"no layer can be factorized ('{SKIPPED[0].name}': {SKIPPED[0].reason}; 'stem.conv', 'body.0.conv' and 1 "
        "other: excluded by 'stem|body'): see all reasons with `inspect`, check `include` and `exclude`"
    )
    check_any_eligible(ALL)


def test_layers_with_one_row_per_image_need_ten_rows_per_filter() -> None:
    once = conv_layer(4, 4, (3, 3), (1, 1), name="once")
    layers = LayerSet([*LAYERS, once], SKIPPED)
    assert layers_with_enough_rows(layers, 40).eligible == [*LAYERS, once]
    left = layers_with_enough_rows(layers, 39)
    assert left.eligible == LAYERS
    assert left.skipped[-1].reason == "39 rows of samples are too few for 4 filters: 10 each are wanted"


GROUP = ChannelGroup(4, ("stem.conv",), ("stem.depthwise",), ("gate.squeeze",), ("body.1.conv",))


def gated() -> LayerSet:
    """Layers of which one, `body.0.conv`, chooses its width; others follow it, one of these with a single position."""
    stem, chooser, follower = LAYERS
    squeeze = conv_layer(8, 4, (1, 1), (1, 1), name="gate.squeeze")
    return LayerSet([stem, replace(chooser, reads=(GROUP,)), follower, squeeze], SKIPPED)


def test_layers_with_few_rows_follow() -> None:
    layers = layers_that_follow(layers_with_enough_rows(gated(), 79))
    assert names(layers.eligible) == names(LAYERS)
    assert names(layers.followers) == ["gate.squeeze"]
    assert names(layers.sampled) == [*names(LAYERS), "gate.squeeze"]
    assert layers.skipped[-1].reason == "79 rows of samples are too few for 8 filters: 10 each are wanted"
    assert layers.eligible[1].reads == (GROUP,)
    assert layers_that_follow(layers_with_enough_rows(gated(), 80)).followers == []


def test_layers_that_are_not_included_follow() -> None:
    layers = layers_that_follow(wanted_layers(gated(), [r"body\.0"], []))
    assert names(layers.eligible) == ["body.0.conv"]
    assert names(layers.followers) == ["body.1.conv", "gate.squeeze"]


@pytest.mark.parametrize("name", ["stem.conv", "gate.squeeze", "body.1.conv"])
def test_what_excluded_layers_make_or_read_stays(name: str) -> None:
    layers = layers_that_follow(wanted_layers(gated(), [], [f"^{name}$"]))
    (chooser,) = (layer for layer in layers.eligible if layer.name == "body.0.conv")
    assert chooser.reads == f"'{name}' makes or reads them: excluded by '^{name}$'"
    assert layers.followers == []


def test_what_a_layer_reads_that_cannot_be_solved_anew_stays() -> None:
    layers = gated()
    layers = layers_that_follow(replace(layers, eligible=layers.eligible[:3]))
    assert layers.eligible[1].reads == "also read by 'gate.squeeze', which cannot be solved anew"


def test_what_many_or_large_layers_read_stays() -> None:
    layers = gated()
    readers = tuple(f"branch.{number}" for number in range(5))
    for count, reads in (
        (5, "also read by 'branch.0', 'branch.1' and 3 others: more than 4 take long to solve anew"),
        (4, (group := replace(GROUP, readers=readers[:4]),)),
    ):
        chooser = replace(layers.eligible[1], reads=(replace(GROUP, readers=readers[:count]),))
        branches = [conv_layer(4, 4, (1, 1), (8, 8), name=name) for name in readers]
        found = layers_that_follow(LayerSet([chooser, *branches, layers.eligible[3]], SKIPPED))
        assert found.eligible[0].reads == reads
    large = conv_layer(4, 145, (3, 3), (8, 8), name="branch.0")
    found = layers_that_follow(
        LayerSet([replace(chooser, reads=(group,)), large, *branches[1:], layers.eligible[3]], [])
    )
    assert found.eligible[0].reads == "also read by 'branch.0', which is too large to be solved anew"
