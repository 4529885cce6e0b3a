"""Measured and interpolated errors of pairs of ranks against plain numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import Activation, hard_swish, identity, relu
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.responses import PatchProbe, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.spatial_basis import SHRINK
from onnx_lowrank.solve.rank_losses import measure_rank_losses
from tests.example_layers import conv_layer

Array = NDArray[Any]

FILTERS, CHANNELS, KERNEL = 10, 4, (3, 2)
SPATIAL = 12  # min(4 * 3, 10 * 2)


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


def patches_of(seed: int, count: int) -> Array:
    """Columns with second moments far from a multiple of the identity, and a mean."""
    generator = np.random.default_rng(seed)
    size = CHANNELS * KERNEL[0]
    mixing = generator.normal(size=(size, size)) * np.geomspace(1, 0.1, size)
    columns = generator.normal(size=(count, KERNEL[1], size)) @ mixing.T + 0.3 * generator.normal(size=size)
    return columns.reshape(count, KERNEL[1], CHANNELS, KERNEL[0]).transpose(0, 2, 3, 1).astype(np.float32)


def probed(activation: Activation, *, residual: bool, count: int = 600) -> tuple[Layer, TargetResponses]:
    """A layer, and rows of which every third has its patch; the others are larger, so that they would be noticed.

    Directions and mean come from all rows, errors from those with a patch.
    """
    layer = replace(conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8)), activation=activation)
    generator = np.random.default_rng(1)
    rows = np.arange(1, count * 3, 3)
    patches = patches_of(0, count)
    responses = 50 * generator.normal(size=(count * 3, FILTERS))
    responses[rows] = np.einsum("dchw,nchw->nd", layer.weight.astype(np.float64), patches) + layer.bias
    branch = (5 * generator.normal(size=responses.shape)).astype(np.float32) if residual else None
    return layer, TargetResponses(responses.astype(np.float32), branch, PatchProbe(patches, rows))


def directions_of(responses: Array) -> Array:
    return scipy.linalg.svd(responses - responses.mean(axis=0), full_matrices=False)[2].T


def lost(  # all in float64
    layer: Layer, approximation: Array, responses: Array, offset: Array | float, ranks: Array, every: Array
) -> Array:
    """Relative squared errors after the activation, with so many leading directions of every response there is."""
    directions, errors, mean = directions_of(every), [], every.mean(axis=0)
    moved = approximation - approximation.mean(axis=0) + responses.mean(axis=0)
    wanted = layer.activation(responses + offset)
    for rank in ranks:
        kept = directions[:, :rank] @ directions[:, :rank].T
        projected = (moved - mean) @ kept + mean
        errors.append(np.square(layer.activation(projected + offset) - wanted).sum())
    return np.array(errors) / np.square(wanted - wanted.mean(axis=0)).sum()


def truncated(layer: Layer, patches: Array, rank: int) -> Array:
    """Responses without bias of the kernel cut to that spatial rank, weighed by the columns, by sqrtm and svd."""
    filters, channels, height, width = layer.weight.shape
    size = channels * height
    columns = patches.astype(np.float64).transpose(0, 3, 1, 2).reshape(-1, size)
    moments = columns.T @ columns / len(columns)
    moments += SHRINK * np.trace(moments) / size * np.eye(size)
    root = scipy.linalg.sqrtm(moments).real
    matrix = layer.weight.astype(np.float64).transpose(1, 2, 0, 3).reshape(size, filters * width)
    left, values, right = scipy.linalg.svd(root @ matrix, full_matrices=False)
    cut = scipy.linalg.solve(root, (left[:, :rank] * values[:rank]) @ right[:rank])
    kernel = cut.reshape(channels, height, filters, width)
    return np.asarray(np.einsum("chdw,nchw->nd", kernel, patches))


def falling(errors: Array) -> Array:
    """The least error of any pair of ranks that are not higher, 1 at most."""
    least = np.ones_like(errors)
    for a in range(errors.shape[0]):
        for b in range(errors.shape[1]):
            least[a, b] = min(1.0, errors[: a + 1, : b + 1].min())
    return least


@pytest.mark.parametrize("activation", [relu(), hard_swish(), identity()], ids=lambda a: a.name)
@pytest.mark.parametrize("residual", [False, True])
def test_measured_errors_of_both_ranks(activation: Activation, residual: bool) -> None:
    layer, targets = probed(activation, residual=residual)
    assert targets.probe is not None
    found = measure_rank_losses(layer, targets, 600)
    assert found.channel.tolist() == [1, 2, 4, 5, 6, 8, 9, 10]
    assert found.spatial.tolist() == [1, 2, 3, 4, 6, 8, 9, 10, 12]
    responses = targets.responses[targets.probe.rows].astype(np.float64)
    offset = 0.0 if targets.residual is None else targets.residual[targets.probe.rows].astype(np.float64)
    approximations = [truncated(layer, targets.probe.patches, rank) for rank in found.spatial]
    every = targets.responses.astype(np.float64)
    columns = [lost(layer, each, responses, offset, found.channel, every) for each in approximations]
    wanted = np.stack(columns, axis=1)
    np.testing.assert_allclose(found.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert wanted[0, 0] > 0.3
    # What was measured is what is answered; at full ranks that is nothing.
    grid = np.meshgrid(found.channel, found.spatial, indexing="ij")
    np.testing.assert_allclose(found.error(*grid)[:-1, :-1], found.errors[:-1, :-1], rtol=1e-9)
    assert found.error(np.array([FILTERS]), np.array([SPATIAL])).tolist() == [0.0]


def mixed(layer: Layer, patches: Array, rank: int) -> Array:
    """Responses without bias that read ``rank`` mixtures of the channels, weighed by the points, by sqrtm and svd."""
    filters, channels = layer.weight.shape[:2]
    points = np.moveaxis(patches.astype(np.float64), 1, -1).reshape(-1, channels)
    moments = points.T @ points / len(points)
    moments += SHRINK * np.trace(moments) / channels * np.eye(channels)
    root = scipy.linalg.sqrtm(moments).real
    matrix = np.moveaxis(layer.weight.astype(np.float64), 1, 0).reshape(channels, -1)
    left, values, right = scipy.linalg.svd(root @ matrix, full_matrices=False)
    cut = scipy.linalg.solve(root, (left[:, :rank] * values[:rank]) @ right[:rank])
    kernel = cut.reshape(channels, filters, *layer.kernel)
    return np.asarray(np.einsum("cd...,nc...->nd...", kernel, patches).reshape(len(patches), filters, -1).sum(axis=2))


@pytest.mark.parametrize("kernel", [(3, 2), (6,), (1, 2, 3)])
def test_measured_errors_of_input_ranks(kernel: tuple[int, ...]) -> None:
    layer, targets = probed(relu(), residual=True)
    assert targets.probe is not None
    alone = measure_rank_losses(layer, targets, 600)
    assert alone.input is None
    with pytest.raises(ValueError, match="no input ranks were measured"):
        alone.input_error(np.array([1]), np.array([1]))
    probe = PatchProbe(targets.probe.patches.reshape(-1, CHANNELS, *kernel), targets.probe.rows)
    layer = replace(layer, weight=layer.weight.reshape(FILTERS, CHANNELS, *kernel))
    found = measure_rank_losses(layer, replace(targets, probe=probe), 600, mixes_inputs=True)
    assert found.input is not None
    assert found.input.tolist() == [1, 2, 3, 4]
    if kernel == KERNEL:  # what there was before is the same
        np.testing.assert_array_equal(found.errors, alone.errors)
    responses = targets.responses[probe.rows].astype(np.float64)
    assert targets.residual is not None
    offset, every = targets.residual[probe.rows].astype(np.float64), targets.responses.astype(np.float64)
    approximations = [mixed(layer, probe.patches, rank) for rank in found.input]
    columns = [lost(layer, each, responses, offset, found.channel, every) for each in approximations]
    wanted = falling(np.stack(columns, axis=1))
    np.testing.assert_allclose(found.input_errors, wanted, rtol=2e-4, atol=1e-10)
    assert found.input_error(np.array([4]), np.array([2]))[0] == pytest.approx(wanted[2, 1], rel=1e-3)
    plans = [
        LayerPlan("conv", "channel", 4),
        LayerPlan("conv", "input", input=2),
        LayerPlan("conv", "tucker", 4, input=2),
        LayerPlan("conv", "tucker", FILTERS, input=CHANNELS),
    ]
    channel, input_, both, full = found.of_plans(layer, plans).tolist()
    assert channel == pytest.approx(found.errors[2, -1], rel=1e-3)
    assert input_ == pytest.approx(wanted[-1, 1], rel=1e-3)
    assert both == pytest.approx(wanted[2, 1], rel=1e-3)
    assert full == 0


@pytest.mark.parametrize("activation", [relu(), identity()], ids=lambda a: a.name)
@pytest.mark.parametrize("residual", [False, True])
def test_without_patches_only_the_channel_rank_is_measured(activation: Activation, residual: bool) -> None:
    layer = replace(conv_layer(16, 3, (3, 3), (8, 8)), activation=activation)
    generator = np.random.default_rng(0)
    responses = generator.normal(size=(700, 16)) @ (generator.normal(size=(16, 16)) * np.geomspace(2, 0.1, 16)) + 0.5
    branch = generator.normal(size=responses.shape).astype(np.float32) if residual else None
    targets = TargetResponses(responses.astype(np.float32), branch)
    found = measure_rank_losses(layer, targets, 5000)
    assert found.channel.tolist() == [1, 2, 3, 4, 6, 8, 10, 12, 14, 16]
    assert found.spatial.tolist() == [9]
    exact, offset = targets.responses.astype(np.float64), 0.0 if branch is None else branch.astype(np.float64)
    wanted = lost(layer, exact, exact, offset, found.channel, exact)[:, None]
    np.testing.assert_allclose(found.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert found.error(np.array([16]), np.array([9])).tolist() == [0.0]
    if activation.name == "identity" and not residual:  # then it is the energy that the spectrum leaves
        squares = scipy.linalg.svdvals(exact - exact.mean(axis=0)) ** 2
        np.testing.assert_allclose(
            found.errors[:-1, 0], 1 - np.cumsum(squares)[found.channel[:-1] - 1] / squares.sum(), rtol=2e-4
        )


def test_the_residual_decides_what_the_activation_lets_through() -> None:
    """With a residual that opens a ReLU everywhere nothing is hidden, with one that shuts it nothing is lost."""
    layer, targets = probed(relu(), residual=False)
    straight = measure_rank_losses(replace(layer, activation=identity()), targets, 100)
    moved = replace(targets, residual=np.full_like(targets.responses, 1000))
    np.testing.assert_allclose(
        measure_rank_losses(layer, moved, 100).errors[:-1, :-1], straight.errors[:-1, :-1], rtol=1e-3
    )
    shut = replace(targets, residual=np.full_like(targets.responses, -1000))
    np.testing.assert_array_equal(measure_rank_losses(layer, shut, 100).errors, 0.0)


def test_rows_are_spread_evenly() -> None:
    layer = conv_layer(6, 3, (3, 3), (8, 8))
    responses = np.random.default_rng(0).normal(size=(901, 6)).astype(np.float32)
    few = measure_rank_losses(layer, TargetResponses(responses), 31)
    exact, some = responses.astype(np.float64), responses[::30].astype(np.float64)
    wanted = lost(layer, some, some, 0.0, few.channel, exact)[:, None]
    np.testing.assert_allclose(few.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert (few.errors[1:-1] != measure_rank_losses(layer, TargetResponses(responses), 5000).errors[1:-1]).all()


@pytest.mark.parametrize("activation", [relu(), identity()], ids=lambda a: a.name)
def test_interpolated_error_falls_with_either_rank(activation: Activation) -> None:
    layer, targets = probed(activation, residual=False)
    found = measure_rank_losses(layer, targets, 100)
    channel, spatial = np.arange(FILTERS + 1), np.arange(SPATIAL + 1)
    errors = found.error(channel[:, None], spatial[None, :])
    assert errors.shape == (FILTERS + 1, SPATIAL + 1)
    assert (np.diff(errors, axis=0) <= 1e-12).all()
    assert (np.diff(errors, axis=1) <= 1e-12).all()
    np.testing.assert_array_equal(errors[0], 1.0)
    np.testing.assert_array_equal(errors[:, 0], 1.0)
    assert errors[-1, -1] == 0.0
    # Real gain from one end to the other, along each of them.
    assert errors[-1, 6] < 0.5 * errors[-1, 2]
    assert errors[6, -1] < 0.5 * errors[2, -1]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), channel=st.integers(0, 9), spatial=st.integers(0, 7))
def test_between_measured_ranks_the_logarithm_is_bilinear(seed: int, channel: int, spatial: int) -> None:
    measured = np.random.default_rng(seed).uniform(0.01, 0.9, size=(3, 2))
    table = RankLosses(np.array([2, 5, 9]), np.array([3, 7]), measured)
    known = {(0, 0): 1.0, (0, 3): 1.0, (0, 7): 1.0, (2, 0): 1.0, (5, 0): 1.0, (9, 0): 1.0}
    known |= {(a, b): measured[i, j] for i, a in enumerate((2, 5, 9)) for j, b in enumerate((3, 7))}

    def around(value: int, grid: tuple[int, ...]) -> tuple[int, int, float]:
        above = next(each for each in grid[1:] if value <= each)
        below = grid[grid.index(above) - 1]
        return below, above, (value - below) / (above - below)

    a, b, s = around(channel, (0, 2, 5, 9))
    c, d, t = around(spatial, (0, 3, 7))
    logarithm = sum(
        weight * np.log(known[place])
        for weight, place in (
            ((1 - s) * (1 - t), (a, c)),
            (s * (1 - t), (b, c)),
            ((1 - s) * t, (a, d)),
            (s * t, (b, d)),
        )
    )
    found = table.error(np.array([channel]), np.array([spatial]))
    np.testing.assert_allclose(found, [np.exp(logarithm)], rtol=1e-10)


def test_errors_below_the_floor_are_none() -> None:
    table = RankLosses(np.array([1, 2, 3]), np.array([4]), np.array([[0.5], [1e-12], [0.0]]))
    np.testing.assert_allclose(table.error(np.array([1, 2, 3]), np.array(4)), [0.5, 0.0, 0.0], rtol=1e-12)


def test_worse_than_the_mean_counts_as_the_mean() -> None:
    layer = conv_layer(16, 3, (3, 3), (8, 8))
    even = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    found = measure_rank_losses(layer, TargetResponses(even), 5000)
    exact = even.astype(np.float64)
    raw = lost(layer, exact, exact, 0.0, found.channel, exact)
    assert raw[0] > 1.2  # a ReLU makes zeros of a mean of zero, though its own mean is not
    np.testing.assert_allclose(found.errors[:, 0], np.minimum(raw, 1.0), rtol=2e-4, atol=1e-10)


@pytest.mark.parametrize("with_patches", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_responses_that_never_vary_lose_nothing(with_patches: bool, residual: bool) -> None:
    layer = conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8))
    responses = np.full((64, FILTERS), 7, np.float32)
    probe = PatchProbe(np.zeros((64, CHANNELS, *KERNEL), np.float32), np.arange(64)) if with_patches else None
    branch = np.ones_like(responses) if residual else None
    found = measure_rank_losses(layer, TargetResponses(responses, branch, probe), 50)
    np.testing.assert_array_equal(found.errors, 0.0)
    assert found.error(np.array([1]), np.array([SPATIAL])).tolist() == [0.0]


def test_what_a_relu_shuts_off_for_good_loses_nothing_where_it_stays_off() -> None:
    layer, targets = probed(relu(), residual=False)
    found = measure_rank_losses(layer, replace(targets, responses=targets.responses - 1e3), 100)
    np.testing.assert_array_equal(found.errors, 0.0)


def test_fewer_rows_than_filters() -> None:
    layer = conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8))
    responses = np.random.default_rng(0).normal(size=(4, FILTERS)).astype(np.float32)
    found = measure_rank_losses(layer, TargetResponses(responses), 100)
    # Four rows lie in three directions about their mean.
    np.testing.assert_allclose(found.errors[found.channel >= 3], 0.0, atol=1e-10)
    assert (found.errors[found.channel < 3] > 0.01).all()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("with_patches", [False, True])
def test_on_a_device_nothing_comes_back_but_what_is_found(with_patches: bool, residual: bool) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from onnx_lowrank.solve.device import to_device
    from tests.solve.simulated_device import DEVICE, simulated_device

    layer, targets = probed(relu(), residual=residual)
    if not with_patches:
        targets = targets.first()
    wanted = measure_rank_losses(layer, targets, 500)
    with simulated_device() as traffic:
        found = measure_rank_losses(layer, to_device(targets, DEVICE), 500)
    assert traffic.fetched == [(FILTERS,)]  # eigenvalues
    np.testing.assert_allclose(found.errors, wanted.errors, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.energies, wanted.energies, rtol=1e-5)
