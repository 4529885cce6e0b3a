"""Layers that read fewer channels: exact where channels depend on each other, close elsewhere, never overfitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky

from onnx_lowrank.layers.activation import identity, relu
from onnx_lowrank.layers.channel_group import ChannelGroup
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LayerSamples, PatchProbe, TargetResponses
from onnx_lowrank.layers.width_losses import WidthLosses
from onnx_lowrank.solve.width import FULL_EFFORT, QUICK_EFFORT, WidthRegression, measure_width_losses, solve_width
from tests.example_layers import conv_layer

Floats = NDArray[np.float32]


def a_layer(channels: int, filters: int, kernel: tuple[int, int] = (1, 1)) -> Layer:
    layer = conv_layer(filters, channels, kernel, (9, 9))
    return replace(layer, activation=identity(), reads=(ChannelGroup(channels, ("maker",)),))


def samples(layer: Layer, patches: Floats, residual: Floats | None = None) -> LayerSamples:
    """Return patches with what the original layer makes of them."""
    return LayerSamples(TargetResponses(respond(layer, patches), residual), patches)


def respond(layer: Layer, patches: Floats) -> Floats:
    rows = patches.reshape(len(patches), -1) @ layer.weight.reshape(layer.filters, -1).T + layer.bias
    return np.asarray(rows, np.float32)


def mixed_patches(count: int, layer: Layer, rank: int, seed: int = 1, noise: float = 0.0) -> Floats:
    """Return patches whose channels are mixtures of a few."""
    generator = np.random.default_rng(seed)
    sources = generator.normal(size=(count, rank, *layer.kernel))
    mixing = np.random.default_rng(99).normal(size=(layer.channels, rank))
    patches = np.einsum("cr,nrhw->nchw", mixing, sources)
    return np.asarray(patches + noise * generator.normal(size=patches.shape), np.float32)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_channels_that_depend_on_others_are_made_good_for_exactly(kernel: tuple[int, int]) -> None:
    layer = a_layer(12, 5, kernel)
    patches = mixed_patches(2000, layer, rank=4)
    losses = measured(layer, patches)
    kept = losses.kept(4)
    chain = solve_width(layer, samples(layer, patches), kept)
    (convolution,) = chain.convolutions
    others = np.setdiff1d(np.arange(12), kept)
    assert np.abs(convolution.weight[:, others]).max() == 0
    unseen = mixed_patches(200, layer, rank=4, seed=5)
    solved = replace(layer, weight=convolution.weight.astype(np.float32), bias=convolution.bias.astype(np.float32))
    np.testing.assert_allclose(respond(solved, unseen), respond(layer, unseen), rtol=0, atol=2e-2)
    assert chain.errors.solved < 1e-3 < chain.errors.linear
    assert losses.error(np.array([4]))[0] < 1e-5


def test_errors_of_many_rows_are_measured_on_some_of_all_images() -> None:
    """The first half of the images answers to channels left out far more than the second."""
    layer, count = a_layer(12, 5), 9_000
    patches = mixed_patches(count, layer, rank=6, noise=0.2)
    patches[: count // 2, 8:] *= 5
    kept = np.arange(8)
    chain = solve_width(layer, samples(layer, patches), kept)
    convolution, wanted = chain.convolutions[0], respond(layer, patches)
    unsolved = replace(layer, weight=layer.weight * (np.arange(12) < 8)[:, None, None])
    solved = replace(layer, weight=convolution.weight.astype(np.float32), bias=convolution.bias.astype(np.float32))
    for found, each in ((chain.errors.linear, unsolved), (chain.errors.solved, solved)):
        error = np.linalg.norm(respond(each, patches) - wanted) / np.linalg.norm(wanted)
        assert found == pytest.approx(error, rel=0.05)


def test_a_ridge_that_is_too_small_for_float32_is_not_selected() -> None:
    generator = np.random.default_rng(8)
    inputs = np.repeat(generator.normal(size=(3000, 3)), 40, axis=1).astype(np.float32)
    weight, stay = generator.normal(size=(120, 4)), np.arange(0, 120, 2)
    targets = np.asarray(inputs @ weight, np.float32)
    with pytest.raises(LinAlgError):
        cholesky(np.cov(inputs[:, stay].T).astype(np.float32) + 1e-9 * np.eye(60, dtype=np.float32))
    found = WidthRegression(inputs, targets, weight, ridges=(1e-9, 1e-2)).select(stay)
    assert (found.ridge, found.second) == (1e-2, 1e-2)
    lost = inputs[:, stay] @ found.weight + found.bias - targets
    assert np.mean(lost**2) < 1e-6 * np.mean(targets**2)


def measured(layer: Layer, patches: Floats, residual: Floats | None = None) -> WidthLosses:
    targets = TargetResponses(respond(layer, patches), residual, PatchProbe(patches, np.arange(len(patches))))
    losses = measure_width_losses(layer, targets)
    assert losses is not None
    return losses


def test_few_noisy_rows_do_not_overfit() -> None:
    layer = a_layer(60, 8)
    patches = mixed_patches(120, layer, rank=40, noise=0.3)
    kept = measured(layer, patches).kept(45)
    noisy = samples(layer, patches)
    noise = np.random.default_rng(7).normal(size=noisy.targets.responses.shape).astype(np.float32)
    chain = solve_width(layer, LayerSamples(TargetResponses(noisy.targets.responses + 3 * noise), patches), kept)
    (convolution,) = chain.convolutions
    unseen = mixed_patches(2000, layer, rank=40, seed=6, noise=0.3)
    solved = replace(layer, weight=convolution.weight.astype(np.float32), bias=convolution.bias.astype(np.float32))
    error = float(np.mean((respond(solved, unseen) - respond(layer, unseen)) ** 2))
    rows = patches[:, kept].reshape(len(patches), -1)
    centred = rows - rows.mean(axis=0)
    targets = noisy.targets.responses + 3 * noise
    plain = np.linalg.lstsq(centred, targets - targets.mean(axis=0), rcond=None)[0]
    fitted = (unseen[:, kept].reshape(len(unseen), -1) - rows.mean(axis=0)) @ plain + targets.mean(axis=0)
    assert error < 0.6 * float(np.mean((fitted - respond(layer, unseen)) ** 2))


def test_all_channels_kept_leave_the_map_as_it_is() -> None:
    layer = a_layer(10, 6)
    patches = np.random.default_rng(3).normal(size=(500, 10, 1, 1)).astype(np.float32)
    chain = solve_width(layer, samples(layer, patches), np.arange(10))
    (convolution,) = chain.convolutions
    np.testing.assert_allclose(convolution.weight, layer.weight, atol=1e-4)
    np.testing.assert_allclose(convolution.bias, layer.bias, atol=1e-3)
    assert chain.errors.solved < 1e-4


def test_a_shift_of_what_the_prefix_delivers_goes_into_the_bias() -> None:
    layer = a_layer(8, 4)
    patches = np.random.default_rng(4).normal(size=(1000, 8, 1, 1)).astype(np.float32)
    targets = TargetResponses(respond(layer, patches))
    chain = solve_width(layer, LayerSamples(targets, patches + np.float32(2.5)), np.arange(8))
    (convolution,) = chain.convolutions
    wanted = layer.bias - 2.5 * layer.weight.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(convolution.bias, wanted, atol=1e-3)


def test_losses_are_those_after_the_activation_on_rows_that_were_not_solved_on() -> None:
    layer = replace(a_layer(16, 6), activation=relu())
    patches = mixed_patches(1500, layer, rank=16, noise=0.2)
    residual = np.random.default_rng(8).normal(size=(1500, 6)).astype(np.float32)
    losses = measured(layer, patches, residual)
    assert losses.widths.tolist() == [1, 2, 3, 4, 6, 8, 10, 12, 14, 15, 16]
    assert np.all(np.diff(losses.errors) <= 0)
    width = 10
    chain = solve_width(layer, samples(layer, patches[:1200], residual[:1200]), losses.kept(width))
    (convolution,) = chain.convolutions
    solved = replace(layer, weight=convolution.weight.astype(np.float32), bias=convolution.bias.astype(np.float32))
    wanted, got = (np.maximum(0, respond(each, patches[1200:]) + residual[1200:]) for each in (layer, solved))
    error = float(np.sum((wanted - got) ** 2) / np.sum((wanted - wanted.mean(axis=0)) ** 2))
    assert losses.error(np.array([width]))[0] == pytest.approx(error, rel=0.05)


def test_coarse_choices_lose_little() -> None:
    layer = replace(a_layer(48, 8), activation=relu())
    patches = mixed_patches(1500, layer, rank=30, noise=0.3)
    targets = TargetResponses(respond(layer, patches), None, PatchProbe(patches, np.arange(len(patches))))
    full, quick = (measure_width_losses(layer, targets, effort=effort) for effort in (FULL_EFFORT, QUICK_EFFORT))
    assert full is not None
    assert quick is not None
    assert quick.widths.tolist() == [6, 12, 24, 36, 42, 48]
    np.testing.assert_allclose(quick.error(quick.widths[1:-1]), full.error(quick.widths[1:-1]), rtol=0.1)
    errors = [
        solve_width(layer, samples(layer, patches), full.kept(24), each).errors for each in (FULL_EFFORT, QUICK_EFFORT)
    ]
    assert errors[1].solved < 1.05 * errors[0].solved


def test_too_few_rows_say_nothing() -> None:
    layer = a_layer(4, 3)
    patches = np.random.default_rng(0).normal(size=(9, 4, 1, 1)).astype(np.float32)
    targets = TargetResponses(respond(layer, patches), None, PatchProbe(patches, np.arange(9)))
    assert measure_width_losses(layer, targets) is None
    assert measure_width_losses(layer, replace(targets, probe=None)) is None
