"""Measured and interpolated errors of pairs of ranks against plain numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    """A layer, and rows of which every third has its patch; the others are larger, so that they would be noticed."""
    layer = replace(conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8)), activation=activation)
    generator = np.random.default_rng(1)
    rows = np.arange(1, count * 3, 3)
    patches = patches_of(0, count)
    responses = 3 * generator.normal(size=(count * 3, FILTERS))
    responses[rows] = np.einsum("dchw,nchw->nd", layer.weight.astype(np.float64), patches) + layer.bias
    branch = (5 * generator.normal(size=responses.shape)).astype(np.float32) if residual else None
    return layer, TargetResponses(responses.astype(np.float32), branch, PatchProbe(patches, rows))


def directions_of(responses: Array) -> Array:
    return scipy.linalg.svd(responses - responses.mean(axis=0), full_matrices=False)[2].T


@dataclass(frozen=True)
class Sides:
    """Rows in float64: those that directions, filters and mean come from, and those that errors are measured on.

    The last fifth of all rows is held out; where rows have patches, errors are measured on those of it that have one.
    """

    known: Array
    known_patches: Array
    held_out: Array
    patches: Array
    offset: Array | float
    every: Array  # with what is added to it

    @staticmethod
    def of(targets: TargetResponses) -> Sides:
        responses, cut = targets.responses.astype(np.float64), len(targets.responses) * 4 // 5
        offset = np.zeros_like(responses) if targets.residual is None else targets.residual.astype(np.float64)
        rows, patches = np.arange(len(responses)), np.zeros((len(responses), 0))
        if targets.probe is not None:
            rows, patches = targets.probe.rows, targets.probe.patches.astype(np.float64)
        judged = rows >= cut
        return Sides(
            responses[:cut],
            patches[~judged],
            responses[rows[judged]],
            patches[judged],
            offset[rows[judged]],
            responses + offset,
        )


def lost(layer: Layer, approximation: Array, sides: Sides, ranks: Array) -> Array:
    """Relative squared errors after the activation, with so many leading directions of the known responses."""
    directions, errors, mean = directions_of(sides.known), [], sides.known.mean(axis=0)
    moved = approximation - approximation.mean(axis=0) + sides.held_out.mean(axis=0)
    wanted, every = layer.activation(sides.held_out + sides.offset), layer.activation(sides.every)
    for rank in ranks:
        kept = directions[:, :rank] @ directions[:, :rank].T
        projected = (moved - mean) @ kept + mean
        errors.append(np.square(layer.activation(projected + sides.offset) - wanted).sum(axis=1).mean())
    return np.array(errors) / np.square(every - every.mean(axis=0)).sum(axis=1).mean()


def truncated(layer: Layer, sides: Sides, rank: int) -> Array:
    """Responses without bias of the kernel cut to that spatial rank, weighed by the columns, by sqrtm and svd."""
    filters, channels, height, width = layer.weight.shape
    size = channels * height
    columns = sides.known_patches.transpose(0, 3, 1, 2).reshape(-1, size)
    moments = columns.T @ columns / len(columns)
    moments += SHRINK * np.trace(moments) / size * np.eye(size)
    root = scipy.linalg.sqrtm(moments).real
    matrix = layer.weight.astype(np.float64).transpose(1, 2, 0, 3).reshape(size, filters * width)
    left, values, right = scipy.linalg.svd(root @ matrix, full_matrices=False)
    cut = scipy.linalg.solve(root, (left[:, :rank] * values[:rank]) @ right[:rank])
    kernel = cut.reshape(channels, height, filters, width)
    return np.asarray(np.einsum("chdw,nchw->nd", kernel, sides.patches))


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
    found = measure_rank_losses(layer, targets, 20, 5000)
    assert found.channel.tolist() == [1, 2, 4, 5, 6, 8, 9, 10]
    assert found.spatial.tolist() == [1, 2, 3, 4, 6, 8, 9, 10, 12]
    sides = Sides.of(targets)
    assert len(sides.patches) == 120
    approximations = [truncated(layer, sides, rank) for rank in found.spatial]
    wanted = np.stack([lost(layer, each, sides, found.channel) for each in approximations], axis=1)
    np.testing.assert_allclose(found.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert wanted[0, 0] > 0.3
    # What was measured is what is answered; at full ranks that is nothing.
    grid = np.meshgrid(found.channel, found.spatial, indexing="ij")
    np.testing.assert_allclose(found.error(*grid)[:-1, :-1], found.errors[:-1, :-1], rtol=1e-9)
    assert found.error(np.array([FILTERS]), np.array([SPATIAL])).tolist() == [0.0]


def mixed(layer: Layer, sides: Sides, rank: int) -> Array:
    """Responses without bias that read ``rank`` mixtures of the channels, weighed by the points, by sqrtm and svd."""
    filters, channels = layer.weight.shape[:2]
    points = np.moveaxis(sides.known_patches, 1, -1).reshape(-1, channels)
    moments = points.T @ points / len(points)
    moments += SHRINK * np.trace(moments) / channels * np.eye(channels)
    root = scipy.linalg.sqrtm(moments).real
    matrix = np.moveaxis(layer.weight.astype(np.float64), 1, 0).reshape(channels, -1)
    left, values, right = scipy.linalg.svd(root @ matrix, full_matrices=False)
    cut = scipy.linalg.solve(root, (left[:, :rank] * values[:rank]) @ right[:rank])
    kernel = cut.reshape(channels, filters, *layer.kernel)
    points = np.einsum("cd...,nc...->nd...", kernel, sides.patches)
    return np.asarray(points.reshape(len(sides.patches), filters, -1).sum(axis=2))


@pytest.mark.parametrize("kernel", [(3, 2), (6,), (1, 2, 3)])
def test_measured_errors_of_input_ranks(kernel: tuple[int, ...]) -> None:
    layer, targets = probed(relu(), residual=True)
    assert targets.probe is not None
    alone = measure_rank_losses(layer, targets, 20, 5000)
    assert alone.input is None
    with pytest.raises(ValueError, match="no input ranks were measured"):
        alone.input_error(np.array([1]), np.array([1]))
    probe = PatchProbe(targets.probe.patches.reshape(-1, CHANNELS, *kernel), targets.probe.rows)
    layer = replace(layer, weight=layer.weight.reshape(FILTERS, CHANNELS, *kernel))
    targets = replace(targets, probe=probe)
    found = measure_rank_losses(layer, targets, 20, 5000, mixes_inputs=True)
    assert found.input is not None
    assert found.input.tolist() == [1, 2, 3, 4]
    if kernel == KERNEL:  # what there was before is the same
        np.testing.assert_array_equal(found.errors, alone.errors)
    sides = Sides.of(targets)
    approximations = [mixed(layer, sides, rank) for rank in found.input]
    wanted = falling(np.stack([lost(layer, each, sides, found.channel) for each in approximations], axis=1))
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
    found = measure_rank_losses(layer, targets, 20, 5000)
    assert found.channel.tolist() == [1, 2, 3, 4, 6, 8, 10, 12, 14, 16]
    assert found.spatial.tolist() == [9]
    sides = Sides.of(targets)
    wanted = lost(layer, sides.held_out, sides, found.channel)[:, None]
    np.testing.assert_allclose(found.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert found.error(np.array([16]), np.array([9])).tolist() == [0.0]


def test_where_nothing_is_held_out_an_identity_loses_the_energy_that_the_spectrum_leaves() -> None:
    layer = replace(conv_layer(16, 3, (3, 3), (8, 8)), activation=identity())
    generator = np.random.default_rng(0)
    responses = generator.normal(size=(700, 16)) @ (generator.normal(size=(16, 16)) * np.geomspace(2, 0.1, 16)) + 0.5
    found = measure_rank_losses(layer, TargetResponses(responses.astype(np.float32)), 19, 5000)
    squares = scipy.linalg.svdvals(responses - responses.mean(axis=0)) ** 2
    left = 1 - np.cumsum(squares)[found.channel[:-1] - 1] / squares.sum()
    np.testing.assert_allclose(found.errors[:-1, 0], left, rtol=2e-4)


@pytest.mark.parametrize("images", [19, 20])
def test_energies_are_those_of_all_rows(images: int) -> None:
    """The images that errors are measured on differ from the others, and count as much."""
    layer, generator = replace(conv_layer(16, 3, (3, 3), (8, 8)), activation=relu()), np.random.default_rng(1)
    responses = generator.normal(3, 1, size=(40 * images, 16)) * np.geomspace(2, 0.1, 16)
    responses[-len(responses) // 4 :] = responses[-len(responses) // 4 :, ::-1] - 5
    found = measure_rank_losses(layer, TargetResponses(responses.astype(np.float32)), images)
    squares = scipy.linalg.svdvals(responses - responses.mean(axis=0)) ** 2
    np.testing.assert_allclose(found.energies, [0, *np.cumsum(squares) / squares.sum()], rtol=1e-4, atol=1e-6)


def test_the_residual_decides_what_the_activation_lets_through() -> None:
    """With a residual that opens a ReLU everywhere nothing is hidden, with one that shuts it nothing is lost."""
    layer, targets = probed(relu(), residual=False)
    straight = measure_rank_losses(replace(layer, activation=identity()), targets, 20, 100)
    moved = replace(targets, residual=np.full_like(targets.responses, 1000))
    np.testing.assert_allclose(
        measure_rank_losses(layer, moved, 20, 100).errors[:-1, :-1], straight.errors[:-1, :-1], rtol=1e-3
    )
    shut = replace(targets, residual=np.full_like(targets.responses, -1000))
    np.testing.assert_array_equal(measure_rank_losses(layer, shut, 20, 100).errors, 0.0)


def test_rows_are_spread_evenly() -> None:
    layer = conv_layer(6, 3, (3, 3), (8, 8))
    responses = np.random.default_rng(0).normal(size=(905, 6)).astype(np.float32)
    few = measure_rank_losses(layer, TargetResponses(responses), 905, 5)
    sides = Sides.of(TargetResponses(responses))
    some = replace(sides, held_out=sides.held_out[::45], offset=0.0, every=sides.every[::226])
    assert (len(some.held_out), len(some.every)) == (5, 5)
    wanted = lost(layer, some.held_out, some, few.channel)[:, None]
    np.testing.assert_allclose(few.errors, falling(wanted), rtol=2e-4, atol=1e-10)
    assert (few.errors[1:-1] != measure_rank_losses(layer, TargetResponses(responses), 905, 5000).errors[1:-1]).all()


def test_what_fits_the_rows_that_it_comes_from_alone_counts_as_lost() -> None:
    """Responses of all known rows lie in two directions, those of the held-out rows in two others."""
    layer = replace(conv_layer(6, 3, (3, 3), (8, 8)), activation=identity())
    responses = np.zeros((500, 6), np.float32)
    generator = np.random.default_rng(0)
    responses[:400, :2] = generator.normal(size=(400, 2))
    responses[400:, 2:4] = generator.normal(size=(100, 2))
    found = measure_rank_losses(layer, TargetResponses(responses), 20)
    every = np.square(responses - responses.mean(axis=0)).sum(axis=1).mean()
    wanted = np.square(responses[400:]).sum(axis=1).mean() / every
    assert wanted > 0.7
    assert found.errors[found.channel == 2] == pytest.approx(wanted, rel=1e-5)
    few = measure_rank_losses(layer, TargetResponses(responses), 19)  # of few images all are known
    np.testing.assert_allclose(few.errors[few.channel >= 4], 0.0, atol=1e-10)
    assert few.errors[few.channel == 2].item() < 0.6
    mixed_up = responses[generator.permutation(500)]
    found = measure_rank_losses(layer, TargetResponses(mixed_up), 20)
    assert 0.1 < found.errors[found.channel == 2].item() < 0.6
    np.testing.assert_allclose(found.errors[found.channel >= 4], 0.0, atol=1e-10)


@pytest.mark.parametrize("activation", [relu(), identity()], ids=lambda a: a.name)
def test_interpolated_error_falls_with_either_rank(activation: Activation) -> None:
    layer, targets = probed(activation, residual=False)
    found = measure_rank_losses(layer, targets, 20, 100)
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
    found = measure_rank_losses(layer, TargetResponses(even), 20, 5000)
    sides = Sides.of(TargetResponses(even))
    raw = lost(layer, sides.held_out, sides, found.channel)
    assert raw[0] > 1.2  # a ReLU makes zeros of a mean of zero, though its own mean is not
    np.testing.assert_allclose(found.errors[:, 0], np.minimum(raw, 1.0), rtol=2e-4, atol=1e-10)


@pytest.mark.parametrize("with_patches", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_responses_that_never_vary_lose_nothing(with_patches: bool, residual: bool) -> None:
    layer = conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8))
    responses = np.full((64, FILTERS), 7, np.float32)
    probe = PatchProbe(np.zeros((64, CHANNELS, *KERNEL), np.float32), np.arange(64)) if with_patches else None
    branch = np.ones_like(responses) if residual else None
    found = measure_rank_losses(layer, TargetResponses(responses, branch, probe), 64, 50)
    np.testing.assert_array_equal(found.errors, 0.0)
    assert found.error(np.array([1]), np.array([SPATIAL])).tolist() == [0.0]


def test_what_a_relu_shuts_off_for_good_loses_nothing_where_it_stays_off() -> None:
    layer, targets = probed(relu(), residual=False)
    found = measure_rank_losses(layer, replace(targets, responses=targets.responses - 1e3), 20, 100)
    np.testing.assert_array_equal(found.errors, 0.0)


def test_fewer_rows_than_filters() -> None:
    layer = conv_layer(FILTERS, CHANNELS, KERNEL, (8, 8))
    responses = np.random.default_rng(0).normal(size=(4, FILTERS)).astype(np.float32)
    found = measure_rank_losses(layer, TargetResponses(responses), 4, 100)
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
    wanted = measure_rank_losses(layer, targets, 20, 500)
    with simulated_device() as traffic:
        found = measure_rank_losses(layer, to_device(targets, DEVICE), 20, 500)
    assert traffic.fetched == [(FILTERS,)]  # eigenvalues
    np.testing.assert_allclose(found.errors, wanted.errors, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.energies, wanted.energies, rtol=1e-5)
