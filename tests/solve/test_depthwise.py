"""Depthwise convolutions solved anew: exact where filters can make good for it, close to the best elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import least_squares

from onnx_lowrank.layers.activation import Activation, hard_swish, identity, relu
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.solve import solve_layer
from tests.example_layers import conv_layer

Floats = NDArray[np.float32]
CHANNELS = 5


def a_layer(activation: Activation, channels: int = CHANNELS) -> Layer:
    layer = conv_layer(channels, 1, (3, 3), (9, 9))
    return replace(layer, groups=channels, activation=activation)


def respond(layer: Layer, patches: Floats) -> Floats:
    rows = np.einsum("ncij,cij->nc", patches.astype(np.float64), layer.weight[:, 0]) + layer.bias
    return np.asarray(rows, np.float32)


def drawn(count: int, seed: int, channels: int = CHANNELS) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, channels, 3, 3)).astype(np.float32)


def solved(layer: Layer, patches: Floats, responses: Floats, residual: Floats | None = None) -> Layer:
    """Return the layer with its weights solved for these patches."""
    samples = LayerSamples(TargetResponses(responses, residual), patches)
    chain = solve_layer(layer, samples, LayerPlan(layer.name, resolved=True))
    (convolution,) = chain.convolutions
    assert convolution.groups == layer.groups
    assert convolution.weight.shape == layer.weight.shape
    assert convolution.bias is not None
    return replace(layer, weight=convolution.weight.astype(np.float32), bias=convolution.bias.astype(np.float32))


def lost(layer: Layer, patches: Floats, wanted: Floats, residual: Floats | float = 0.0) -> Floats:
    """Return the squared error of each channel behind the activation."""
    difference = layer.activation(respond(layer, patches) + residual) - wanted
    return np.sum(difference**2, axis=0)


def test_steps_behind_the_activation_make_good_for_least_squares_that_gain_nothing() -> None:
    """Inputs of responses that the activation cuts off are far from what they were: least squares go by them all."""
    layer, patches = a_layer(relu()), drawn(4000, 1)
    responses, given = respond(layer, patches), (0.6 * patches).astype(np.float32)
    generator = np.random.default_rng(5)
    for channel in range(CHANNELS):
        cut_off = responses[:, channel] < 0
        noise = np.abs(generator.normal(size=given[cut_off, channel].shape))
        given[cut_off, channel] -= 3 * noise * np.sign(layer.weight[channel, 0])
    wanted = layer.activation(responses)
    before, after = (np.sum(lost(each, given, wanted)) for each in (layer, solved(layer, given, responses)))
    assert after < 0.01 * before


@pytest.mark.parametrize("activation", [identity(), relu(), hard_swish()], ids=lambda each: each.name)
def test_filters_undo_what_scales_and_shifts_their_channels(activation: Activation) -> None:
    layer, patches = a_layer(activation), drawn(3000, 1)
    scale, shift = np.linspace(0.5, 2, CHANNELS)[:, None, None], np.linspace(-1, 1, CHANNELS)[:, None, None]
    found = solved(layer, np.asarray(patches * scale + shift, np.float32), respond(layer, patches))
    np.testing.assert_allclose(found.weight[:, 0], layer.weight[:, 0] / scale, rtol=0, atol=0.02)
    unseen = drawn(500, 2)
    delivered = respond(found, np.asarray(unseen * scale + shift, np.float32))
    np.testing.assert_allclose(delivered, respond(layer, unseen), rtol=0, atol=0.1)


@pytest.mark.parametrize(("with_residual", "most"), [(False, 1.02), (True, 1.05)])
def test_nearly_the_least_error_behind_the_activation(*, with_residual: bool, most: float) -> None:
    """SciPy minimizes the same error, one channel at a time; without the residual it would be a quarter larger."""
    layer, patches = a_layer(relu()), drawn(3000, 3)
    # Mostly cut off with it: what is solved without it, or before the activation, is far from the least error.
    drawn_residual = (np.random.default_rng(8).normal(size=(3000, CHANNELS)) - 3).astype(np.float32)
    residual = drawn_residual if with_residual else None
    added = 0.0 if residual is None else residual
    noisy = np.asarray(patches + 1.5 * drawn(3000, 4), np.float32)
    found = solved(layer, noisy, respond(layer, patches), residual)
    wanted = layer.activation(respond(layer, patches) + added)
    ours = lost(found, noisy, wanted, added)
    for channel in range(CHANNELS):
        taps = np.concatenate([noisy[:, channel].reshape(3000, -1), np.ones((3000, 1))], axis=1)
        offset = 0.0 if residual is None else residual[:, channel]

        def difference(x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.maximum(taps @ x + offset, 0) - wanted[:, channel]  # noqa: B023

        start = np.append(layer.weight[channel].ravel(), layer.bias[channel])
        least = 2 * least_squares(difference, start).cost
        assert least <= ours[channel] < most * least


def test_steps_behind_the_activation_do_better_than_least_squares_before_it() -> None:
    layer, patches = a_layer(relu()), drawn(3000, 5)
    layer = replace(layer, bias=layer.bias - 4)  # mostly cut off
    noisy = np.asarray(patches + drawn(3000, 6), np.float32)
    linear = solved(replace(layer, activation=identity()), noisy, respond(layer, patches))
    found = solved(layer, noisy, respond(layer, patches))
    unseen, noise = drawn(3000, 7), drawn(3000, 8)
    wanted = relu()(respond(layer, unseen))
    errors = [
        float(np.sum(lost(replace(each, activation=relu()), np.asarray(unseen + noise, np.float32), wanted)))
        for each in (found, linear)
    ]
    assert errors[0] < 0.95 * errors[1]


def test_a_few_rows_of_noise_change_next_to_nothing() -> None:
    layer, patches = a_layer(relu(), 40), drawn(40, 9, 40)
    noise = np.random.default_rng(10).normal(size=(40, 40)).astype(np.float32)
    found = solved(layer, patches, respond(layer, patches) + noise)
    unseen = drawn(2000, 11, 40)
    wanted = relu()(respond(layer, unseen))
    assert np.sum(lost(found, unseen, wanted)) < 0.05 * np.sum(wanted**2)


def test_silent_channels_and_too_few_rows_keep_finite_weights() -> None:
    layer, patches = a_layer(relu()), drawn(300, 12)
    patches[:, 2] = 0
    found = solved(layer, patches, respond(layer, drawn(300, 13)))
    assert np.isfinite(found.weight).all()
    same = solved(layer, patches[:5], respond(layer, patches[:5]))
    np.testing.assert_array_equal(same.weight, layer.weight)
    np.testing.assert_array_equal(same.bias, layer.bias)
