"""Interpolated milliseconds, against functions that are known everywhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil, inf
from operator import add, ge
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.layers.cost import chain_macs
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import METHODS, LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.ranks import ChainLatency
from tests.example_layers import conv_layer

EVERY = METHODS[1:]
KEPT = 1000.0


def plans_within(layer: Layer, latency: ChainLatency) -> list[LayerPlan]:
    """All plans whose ranks lie within those that are wanted, method by method."""
    most: dict[str, tuple[int, ...]] = {}
    for plan in latency.to_measure():
        so_far = most.get(plan.method, (0, 0, 0))
        most[plan.method] = tuple(map(max, so_far, ranks_of(plan)))
    del most["kept"]
    return [
        LayerPlan(layer.name, method, c or None, s or None, input=i or None)
        for method, ranks in most.items()
        for c, s, i in product(*(range(1, rank + 1) if rank else [0] for rank in ranks))
    ]


def ranks_of(plan: LayerPlan) -> tuple[int, int, int]:
    """Channel, spatial and input rank, 0 where there is none."""
    return plan.channel or 0, plan.spatial or 0, plan.input or 0


def learned(
    layer: Layer, milliseconds: Callable[[LayerPlan], float], methods: Any = EVERY, block: int = 4
) -> ChainLatency:
    latency = ChainLatency(layer, methods, block)
    latency.learn(milliseconds)
    return latency


layers = st.builds(
    conv_layer,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(1, 3), (3, 1), (3, 3), (3, 5), (5, 5)]),
    st.just((8, 9)),
)


# What is measured


@settings(deadline=None, max_examples=60)
@given(layers, st.sampled_from([1, 4, 8, 16]))
def test_ranks_that_are_measured_are_valid_and_never_twice_the_same(layer: Layer, block: int) -> None:
    wanted = list(ChainLatency(layer, EVERY, block).to_measure())
    assert wanted[0] == LayerPlan("conv")
    assert len(set(wanted)) == len(wanted)
    largest = largest_ranks(layer)
    for plan in wanted[1:]:
        for kind in ("channel", "spatial", "input"):
            rank = getattr(plan, kind)
            assert (rank is not None) == (kind in rank_kinds(plan.method))
            assert rank is None or rank == largest[kind] or (rank % block == 0 and 1 <= rank < largest[kind])
    assert len(wanted) <= 1 + 5 + 2 * (5 + 25)


@settings(deadline=None, max_examples=40)
@given(layers, st.sampled_from([1, 4, 16]))
def test_all_whole_blocks_that_save_multiply_adds_are_inside_of_what_is_measured(layer: Layer, block: int) -> None:
    latency = learned(layer, lambda plan: KEPT if plan.method == "kept" else 1.0, block=block)
    largest = largest_ranks(layer)
    channels, spatials, inputs = (
        {min(rank, largest[kind]) for rank in range(block, largest[kind] + block, block)}
        for kind in ("channel", "spatial", "input")
    )
    plans = [
        *(LayerPlan("conv", "channel", channel) for channel in channels),
        *(LayerPlan("conv", "spatial", spatial=spatial) for spatial in spatials),
        *(LayerPlan("conv", "spatial-channel", channel, spatial) for channel in channels for spatial in spatials),
        *(LayerPlan("conv", "input", input=rank) for rank in inputs),
        *(LayerPlan("conv", "tucker", channel, input=rank) for channel in channels for rank in inputs),
    ]
    saving = [plan for plan in plans if chain_macs(layer, plan) < layer.macs]
    assert [latency(layer, plan) for plan in saving] == pytest.approx([1.0] * len(saving))


@pytest.mark.parametrize(
    ("methods", "measured"),
    [
        (("channel",), {"channel"}),
        (("spatial",), {"spatial"}),
        (("channel", "spatial"), {"channel", "spatial"}),
        # A three-way chain may give way to a two-way one.
        (("spatial-channel",), {"channel", "spatial", "spatial-channel"}),
        (("tucker",), {"channel", "input", "tucker"}),
        (("input",), {"input"}),
        (EVERY, set(EVERY)),
        ((), set()),
    ],
)
def test_only_methods_that_may_be_taken_are_measured(methods: tuple[str, ...], measured: set[str]) -> None:
    layer = conv_layer(32, 32, (3, 3), (8, 8))
    assert {plan.method for plan in ChainLatency(layer, methods, 8).to_measure()} == {"kept", *measured}


def test_three_way_chains_are_measured_unless_they_save_little() -> None:
    """Up to three quarters of the layer's multiply-adds; of few blocks all, since lines are drawn through those."""
    layer = conv_layer(128, 128, (3, 3), (8, 9))
    measured = [plan for plan in ChainLatency(layer, EVERY, 4).to_measure() if plan.method == "spatial-channel"]
    shares = [chain_macs(layer, plan) / layer.macs for plan in measured]
    few = [max(plan.spatial or 0, plan.channel or 0) <= 8 for plan in measured]
    assert sum(few) == 4
    assert max(share for share, is_few in zip(shares, few, strict=True) if not is_few) <= 0.75
    assert max(shares) > 0.4


def test_few_blocks_are_measured_more_densely_than_many() -> None:
    layer = conv_layer(512, 512, (3, 3), (8, 8))
    ranks = [plan.channel for plan in ChainLatency(layer, ("channel",), 8).to_measure()][1:]
    # r (4608 + 512) < 512 * 4608 holds up to r = 460, in blocks of 8 up to 57.
    assert ranks == [8, 16, 32, 128, 456]


# What lies between


@settings(deadline=None, max_examples=60)
@given(
    layers,
    st.sampled_from([1, 4, 8]),
    st.tuples(*[st.floats(0, 10)] * 4),
    st.sampled_from(EVERY),
)
def test_exact_for_all_that_is_bilinear_in_blocks(
    layer: Layer, block: int, coefficients: tuple[float, ...], method: str
) -> None:
    a, b, c, d = coefficients

    def milliseconds(plan: LayerPlan) -> float:
        if plan.method == "kept":
            return KEPT
        channel, spatial, input_ = (ceil(rank / block) for rank in ranks_of(plan))
        spatial += input_  # a method has one of both
        return a + b * spatial + c * channel + d * spatial * channel

    latency = learned(layer, milliseconds, (method,), block)
    assert latency(layer, LayerPlan("conv")) == KEPT
    for plan in plans_within(layer, latency)[:300]:
        assert latency(layer, plan) == pytest.approx(milliseconds(plan), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(layers, st.sampled_from([1, 4, 8]), st.integers(0, 1000))
def test_whatever_was_measured_more_ranks_never_take_less(layer: Layer, block: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise: dict[LayerPlan, float] = {}
    latency = ChainLatency(layer, EVERY, block)
    latency.learn(lambda plan: noise.setdefault(plan, float(generator.uniform(1, 9))))
    found = {(p.method, *ranks_of(p)): latency(layer, p) for p in plans_within(layer, latency)}
    for (method, *ranks), ms in found.items():
        for step in ((0, 1, 0), (1, 0, 0), (0, 0, 1)):
            assert ms <= found.get((method, *map(add, ranks, step)), inf) + 1e-12
    for plan, ms in noise.items():
        assert latency(layer, plan) <= ms + 1e-12
        # What is said of a pair was measured with it, or with more ranks.
        least = [
            other_ms
            for other, other_ms in noise.items()
            if other.method == plan.method and all(map(ge, ranks_of(other), ranks_of(plan)))
        ]
        assert latency(layer, plan) == pytest.approx(min(least))


def test_time_goes_up_by_whole_blocks() -> None:
    layer = conv_layer(64, 64, (3, 3), (8, 8))
    latency = learned(layer, lambda plan: float(plan.channel or 0), ("channel",), 8)
    for rank in range(1, 41):
        assert latency(layer, LayerPlan("conv", "channel", rank)) == pytest.approx(8 * ceil(rank / 8))


def test_infinite_outside_of_what_was_measured() -> None:
    layer = conv_layer(64, 3, (3, 3), (8, 8))  # rank 18 of 64 saves multiply-adds, 19 does not
    latency = learned(layer, lambda _: 1.0, ("channel",), 8)
    assert [latency(layer, LayerPlan("conv", "channel", rank)) for rank in (1, 16, 17, 64)] == [1, 1, inf, inf]
    latency = learned(layer, lambda _: 1.0, EVERY, 8)
    assert latency(layer, LayerPlan("conv", "spatial", spatial=10**6)) == inf
    assert latency(layer, LayerPlan("conv", "spatial-channel", 64, 1)) == inf
    assert latency(layer, LayerPlan("conv", "spatial-channel", 1, 10**6)) == inf
    assert latency(layer, LayerPlan("conv", "tucker", 64, input=1)) == inf
    assert latency(layer, LayerPlan("conv", "input", input=10**6)) == inf


@pytest.mark.parametrize("block", [8, 16])
def test_layers_smaller_than_a_block(block: int) -> None:
    layer = conv_layer(5, 2, (3, 3), (8, 8))
    latency = learned(layer, lambda plan: KEPT if plan.method == "kept" else 2.0, EVERY, block)
    assert [plan.channel for plan in ChainLatency(layer, ("channel",), block).to_measure()] == [None, 5]
    assert latency(layer, LayerPlan("conv", "spatial-channel", 1, 1)) == 2.0
    assert latency(layer, LayerPlan("conv", "channel", 5)) == 2.0
