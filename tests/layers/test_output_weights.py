"""Units of responses in which errors count by what the outputs feel of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_lowrank.layers.activation import clip, hard_swish, identity, relu
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.output_weights import ALIKE, OutputWeights
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.solve import solve_layer
from tests.example_layers import conv_layer
from tests.helpers import Array, normal

D, C, N = 8, 6, 4000
SQUARES = np.array([1e3, 1.0, 1.0, 1e3, 1.0, 1.0, 1e-2, 1e-2])
HALVES = np.stack([SQUARES, SQUARES])


def layer() -> Layer:
    return replace(conv_layer(D, C, (1, 1), (5, 5)), weight=normal(1, D, C, 1, 1), bias=normal(2, D))


def rows(of: Layer) -> LayerSamples:
    patches = normal(3, N, C, 1, 1)
    return LayerSamples(TargetResponses(patches[:, :, 0, 0] @ of.weight[:, :, 0, 0].T + of.bias), patches)


def response(chain: FactorChain, patches: Array) -> Array:
    made = patches.reshape(len(patches), -1).astype(np.float64)
    for each in chain.convolutions:
        made = made @ each.weight[:, :, 0, 0].T + (0 if each.bias is None else each.bias)
    return made


def solved(of: Layer, weights: OutputWeights, plan: LayerPlan) -> tuple[Array, Array]:
    """What a solved layer delivers behind its activation, and what the original does."""
    both = rows(of)
    given = LayerSamples(weights.targets(of, both.targets), both.patches)
    chain = weights.chain(of, solve_layer(weights.layer(of), given, plan))
    return of.activation(response(chain, both.patches)), of.activation(both.targets.responses)


def weighed(errors: Array) -> float:
    return float(np.sum(SQUARES * np.square(errors)))


@pytest.mark.parametrize("activation", [identity(), relu(), clip(0.0, 6.0), hard_swish()])
def test_errors_are_smaller_in_the_channels_that_count(activation: object) -> None:
    of, plan = replace(layer(), activation=activation), LayerPlan("conv", "channel", channel=3)
    plain, wanted = solved(of, ALIKE, plan)
    by_outputs, _ = solved(of, OutputWeights.of_squares({of.name: HALVES}), plan)
    assert weighed(by_outputs - wanted) < 0.5 * weighed(plain - wanted)
    assert np.sum((plain - wanted) ** 2) < np.sum((by_outputs - wanted) ** 2)  # all alike, it is the other way round


@pytest.mark.parametrize("activation", [relu(), clip(0.0, 6.0), hard_swish()])
def test_full_rank_reproduces_the_original(activation: object) -> None:
    of = replace(layer(), activation=activation)
    found, wanted = solved(of, OutputWeights.of_squares({of.name: HALVES}), LayerPlan("conv", "channel", channel=D))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_layer_without_weights_is_left_alone() -> None:
    of = layer()
    weights, targets = OutputWeights.of_squares({"another": HALVES}), rows(of).targets
    chain = solve_layer(of, rows(of), LayerPlan("conv", "channel", channel=2))
    assert weights.layer(of) is of
    assert weights.targets(of, targets) is targets
    assert weights.chain(of, chain) is chain


def test_residual_and_probe_go_along() -> None:
    of, weights = layer(), OutputWeights.of_squares({"conv": HALVES})
    given = TargetResponses(normal(4, N, D), normal(5, N, D))
    scaled = weights.targets(replace(of, name="conv"), given)
    scale = weights.scales["conv"]
    np.testing.assert_allclose(scaled.responses, given.responses * scale, rtol=1e-6)
    assert scaled.residual is not None
    assert given.residual is not None
    np.testing.assert_allclose(scaled.residual, given.residual * scale, rtol=1e-6)


def units(*halves: list[float]) -> Array:
    return OutputWeights.of_squares({"a": np.array(halves)}).scales["a"]


def test_units_are_roots_of_what_is_felt_within_bounds() -> None:
    moderate = units([1.0, 4.0, 9.0], [2.0, 8.0, 18.0])  # the halves may differ in their unit
    np.testing.assert_allclose(moderate / moderate[0], [1.0, 2.0, 3.0], rtol=1e-2)
    assert np.prod(moderate) == pytest.approx(1.0)
    extreme = units([1e-9, 1e-9, 1e9], [1e-9, 1e-9, 1e9])
    assert extreme.min() >= 1 / 8
    assert extreme.max() <= 8


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_noise_is_shrunk_as_the_best_estimate_would(spread: float) -> None:
    """Against the conditional mean of logarithms given two noisy halves, which is linear for normal ones."""
    true, noise = spread * normal(0, 20_000).astype(np.float64), normal(1, 2, 20_000).astype(np.float64)
    halves = np.exp(0.1 * (true + noise))
    known = spread**2 / (spread**2 + 0.5)
    expected = np.exp(0.5 * 0.1 * known * (true + noise.mean(axis=0)))
    np.testing.assert_allclose(OutputWeights.of_squares({"a": halves}).scales["a"], expected, rtol=0.02)


def test_weights_that_say_nothing_are_left_out() -> None:
    felt = {
        "dead": np.zeros((2, 3)),
        "broken": np.array([[1.0, np.nan, 1.0], [1.0, 1.0, 1.0]]),
        "even": np.ones((2, 3)),
        "noise": np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]),
        "good": np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
    }
    assert set(OutputWeights.of_squares(felt).scales) == {"good"}
