from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_lowrank.layers.channel_group import ChannelGroup
from onnx_lowrank.layers.cost import chain_macs
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.width_losses import WidthLosses
from onnx_lowrank.ranks import layer_options
from onnx_lowrank.ranks.options import allowed_methods, rank_grid
from tests.example_layers import conv_layer


@pytest.mark.parametrize(
    ("most", "multiple", "expected"),
    [
        (64, 16, [1, 2, 4, 8, 16, 32, 48, 64]),
        (10, 8, [1, 2, 4, 8]),
        (5, 1, [1, 2, 3, 4, 5]),
        (3, 16, [1, 2]),
    ],
)
def test_rank_grid(most: int, multiple: int, expected: list[int]) -> None:
    assert rank_grid(most, multiple) == expected


def smooth(layer: Layer) -> RankLosses:
    """Errors that fall evenly with either rank."""
    most = min(layer.channels * layer.kernel[0], layer.filters * layer.kernel[1])
    channel, spatial = np.arange(1, layer.filters + 1), np.arange(1, most + 1)
    lost = 1 - np.outer(channel / layer.filters, spatial / most)
    input_ = np.arange(1, layer.channels + 1)
    by_input = 1 - np.outer(channel / layer.filters, input_ / layer.channels)
    return RankLosses(channel, spatial, lost, input=input_, input_errors=by_input)


def test_only_what_costs_less_than_the_layer_is_offered() -> None:
    layer = conv_layer(64, 3, (3, 3), (8, 8))
    options = layer_options(layer, smooth(layer), chain_macs, ("channel",), 1)
    assert options[0].plan.method == "kept"
    # r * (27 + 64) < 64 * 27 holds up to r = 18.
    assert [option.plan.channel for option in options[1:]] == list(range(1, 19))
    assert all(option.cost < layer.macs for option in options[1:])


@pytest.mark.parametrize(
    ("channels", "block", "step"), [(128, 16, 16), (120, 16, 8), (64, 8, 8), (40, 8, 8), (40, 4, 4), (24, 1, 1)]
)
def test_widths_are_whole_blocks_where_that_leaves_steps_of_an_eighth(channels: int, block: int, step: int) -> None:
    layer = replace(conv_layer(32, channels, (1, 1), (8, 8)), reads=(ChannelGroup(channels, ("maker",)),))
    widths = WidthLosses(np.arange(channels), np.array([1, channels]), np.array([1.0, 0.0]))
    losses = replace(smooth(layer), widths=widths)
    options = layer_options(layer, losses, chain_macs, ("width",), block)
    found = [option.plan.width for option in options if option.plan.width is not None]
    assert [width for width in found if width >= step] == list(range(step, channels, step))


def test_methods_that_are_not_allowed_are_not_offered() -> None:
    layer = conv_layer(16, 16, (3, 3), (8, 8))
    assert len(layer_options(layer, smooth(layer), chain_macs, (), 1)) == 1


def test_every_method_offers_its_own_chains() -> None:
    layer = conv_layer(16, 8, (3, 3), (8, 8))
    for method in ("spatial", "channel", "input"):
        options = layer_options(layer, smooth(layer), chain_macs, (method,), 4)
        assert {option.plan.method for option in options[1:]} == {method}
    for method in ("spatial-channel", "tucker"):
        options = layer_options(layer, smooth(layer), chain_macs, (method,), 4)
        assert method in {option.plan.method for option in options}


@pytest.mark.parametrize("size", [(8, 8), (3, 40)])
def test_a_three_way_chain_is_never_offered_where_two_of_its_factors_merged_cost_less(size: tuple[int, int]) -> None:
    layer = conv_layer(16, 8, (3, 5), size, strides=(1, 2))
    options = layer_options(layer, smooth(layer), chain_macs, ("spatial-channel",), 1)
    chains = [option for option in options if option.plan.method == "spatial-channel"]
    assert chains
    for option in chains:
        plan = option.plan
        assert option.cost <= chain_macs(layer, LayerPlan("conv", "channel", channel=plan.channel))
        assert option.cost <= chain_macs(layer, LayerPlan("conv", "spatial", spatial=plan.spatial))
    merged = {(option.plan.method, option.plan.channel, option.plan.spatial) for option in options}
    assert ("channel", 1, None) in merged  # one filter: nothing is gained by splitting it


@pytest.mark.parametrize("methods", [("spatial",), ("input",), ("tucker",), ("tucker", "spatial-channel")])
def test_pointwise_layers_are_only_split_by_channels(methods: tuple[str, ...]) -> None:
    layer = conv_layer(16, 16, (1, 1), (8, 8))
    options = layer_options(layer, smooth(layer), chain_macs, methods, 4)
    assert {option.plan.method for option in options} == {"kept", "channel"}


@pytest.mark.parametrize(
    ("axes", "methods", "allowed"),
    [
        (2, ("channel", "tucker"), ["channel", "tucker"]),
        (2, ("spatial", "input", "width"), ["spatial", "input"]),
        (1, ("spatial", "tucker"), ["tucker", "channel"]),
        (3, ("spatial-channel",), ["channel"]),
        (3, ("input", "tucker"), ["input", "tucker"]),
    ],
)
def test_kernels_of_one_axis_or_three_have_input_ranks_but_no_spatial_ones(
    axes: int, methods: tuple[str, ...], allowed: list[str]
) -> None:
    layer = conv_layer(16, 8, (3, 3), (8, 8))
    layer = replace(layer, weight=layer.weight.reshape(16, 8, *{1: (9,), 2: (3, 3), 3: (3, 1, 3)}[axes]))
    assert list(allowed_methods(layer, methods)) == allowed


@pytest.mark.parametrize("shape", [(16, 8), (8, 16), (4, 24)])
def test_a_tucker_chain_is_never_offered_where_two_of_its_factors_merged_cost_less(shape: tuple[int, int]) -> None:
    layer = conv_layer(*shape, (3, 3), (9, 8), strides=(1, 2))
    options = layer_options(layer, smooth(layer), chain_macs, ("tucker",), 1)
    chains = [option for option in options if option.plan.method == "tucker"]
    assert chains
    for option in chains:
        plan = option.plan
        assert option.cost <= chain_macs(layer, LayerPlan("conv", "channel", channel=plan.channel))
        assert option.cost <= chain_macs(layer, LayerPlan("conv", "input", input=plan.input))
        filters, channels = plan.channel or 0, plan.input or 0
        np.testing.assert_allclose(plan.energy, filters / shape[0] * channels / shape[1], rtol=1e-9)


def test_energy_is_what_the_error_leaves() -> None:
    layer = conv_layer(16, 8, (3, 3), (8, 8))
    options = layer_options(layer, smooth(layer), chain_macs, ("channel", "spatial", "spatial-channel"), 4)
    for option in options[1:]:
        channel, spatial = option.plan.channel or 16, option.plan.spatial or 24
        np.testing.assert_allclose(option.plan.energy, channel / 16 * spatial / 24, rtol=1e-9)
