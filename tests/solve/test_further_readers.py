"""Layers that follow another one's choice of channels: they count in it, and may be factorized all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import identity
from onnx_lowrank.layers.channel_group import ChannelGroup, Run
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, PatchProbe, TargetResponses
from onnx_lowrank.solve.further_readers import further_weights, kept_by
from onnx_lowrank.solve.layer import solve_layer
from onnx_lowrank.solve.width import measure_width_losses
from tests.example_layers import conv_layer

Floats = NDArray[Any]


def chooser(channels: int, filters: int, **group: Any) -> Layer:
    layer = conv_layer(filters, channels, (1, 1), (9, 9), name="chooser")
    groups = (ChannelGroup(channels, ("maker",), readers=("follower",), **group),)
    return replace(layer, activation=identity(), reads=groups)


def targets(layer: Layer, patches: Floats) -> TargetResponses:
    rows = patches.reshape(len(patches), -1) @ layer.weight.reshape(layer.filters, -1).T + layer.bias
    return TargetResponses(rows.astype(np.float32), None, PatchProbe(patches, np.arange(len(patches))))


def test_channels_that_another_reader_needs_go_last() -> None:
    """One reader weighs the first half of the channels with next to nothing, the other one the second half."""
    first, second = chooser(8, 4), replace(conv_layer(5, 8, (1, 1), (9, 9), name="follower"), activation=identity())
    first.weight[:, :4] *= 1e-3
    second.weight[:, 4:] *= 1e-3
    second.weight[:, :4] *= 5
    patches = np.random.default_rng(0).normal(size=(3000, 8, 1, 1)).astype(np.float32)
    alone = measure_width_losses(first, targets(first, patches))
    both = measure_width_losses(first, targets(first, patches), [(second, targets(second, patches))])
    assert alone is not None
    assert both is not None
    assert sorted(alone.order[:4]) == [0, 1, 2, 3]
    assert alone.error(np.array([4]))[0] < 1e-4
    assert both.error(np.array([4]))[0] > 0.3
    taken = sorted(both.order[:4])
    assert {int(channel) < 4 for channel in taken} == {False, True}


def test_what_a_follower_keeps_of_its_own_input() -> None:
    layer = chooser(6, 4, read={"follower": Run(3, 10)})
    other = conv_layer(5, 10, (3, 3), (9, 9), name="follower")
    assert kept_by(layer, np.array([0, 2, 5]), other).tolist() == [0, 1, 2, 3, 5, 8, 9]
    weights = further_weights(layer, other)
    assert weights.shape == (6, 9 * 5)
    assert np.sum(weights**2) == pytest.approx(float(np.sum(other.weight[:, 3:9] ** 2)), rel=1e-6)
    np.testing.assert_allclose(np.sum(weights**2, axis=1), np.sum(other.weight[:, 3:9] ** 2, axis=(0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "plan",
    [
        LayerPlan("follower", "channel", channel=4),
        LayerPlan("follower", "spatial", spatial=9),  # more than three channels of three rows each
        LayerPlan("follower", "spatial-channel", channel=4, spatial=12),
        LayerPlan("follower", "input", input=2),
        LayerPlan("follower", "tucker", channel=4, input=5),  # more than the two channels that are left
    ],
)
def test_a_follower_is_factorized_on_the_channels_that_are_left(plan: LayerPlan) -> None:
    layer = replace(conv_layer(4, 6, (3, 3), (9, 9), name="follower"), activation=identity())
    kept = np.array([1, 4])
    patches = np.random.default_rng(1).normal(size=(800, 6, 3, 3)).astype(np.float32)
    patches[:, [0, 2, 3, 5]] = patches[:, [1, 4, 1, 4]] * np.array([2, 1, -1, 0.5], np.float32)[:, None, None]
    chain = solve_layer(layer, LayerSamples(targets(layer, patches), patches), plan, "linear", kept=kept)
    first, *others = chain.convolutions
    assert first.weight.shape[1] == 6
    assert not first.weight[:, [0, 2, 3, 5]].any()
    assert chain.errors.solved < 1e-3
    if plan.spatial is not None:
        assert first.weight.shape == (plan.spatial, 6, 3, 1)
        assert others[0].weight.shape[1] == plan.spatial
    if plan.input is not None:
        assert first.weight.shape == (plan.input, 6, 1, 1)
        assert others[0].weight.shape[1:] == (plan.input, 3, 3)
