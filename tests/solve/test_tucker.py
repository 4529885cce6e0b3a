"""Input-side and Tucker-2 chains, judged by onnxruntime on one convolution of the kernel that they multiply out to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.linalg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers.activation import Activation, hard_swish, identity, relu, silu
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Geometry, Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.disk_arrays import ScratchFile, SpilledRows
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.solve.kernel_row import from_a_row, in_a_row, samples_in_a_row
from onnx_lowrank.solve.tucker import solve_tucker
from tests.conftest import examples
from tests.example_layers import conv_geometries, conv_layer
from tests.helpers import build, filters, find, normal, relative, run
from tests.solve.test_spatial_channel import converted, one_conv, problem, sampled

Array = NDArray[Any]

INPUT, CHANNEL = 3, 4


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


def multiplied_out(factors: FactorChain) -> Array:
    """The kernel of the one convolution that a chain without groups amounts to."""
    first, middle, *last = factors.convolutions
    mixing = first.weight.reshape(first.weight.shape[:2])
    kernel = np.einsum("qm...,mc->qc...", middle.weight, mixing)
    for each in last:
        kernel = np.einsum("dq,qc...->dc...", each.weight.reshape(each.weight.shape[:2]), kernel)
    return kernel


def on_patches(factors: FactorChain, patches: Array) -> Array:
    """The chain's response to patches, float64."""
    kernel, bias = multiplied_out(factors), factors.convolutions[-1].bias
    assert bias is not None
    return np.asarray(patches.reshape(len(patches), -1).astype(np.float64) @ kernel.reshape(len(kernel), -1).T + bias)


def activated_error(layer: Layer, factors: FactorChain, responses: LayerSamples) -> float:
    """``||r(Y + S) - r(Y' + S)|| / ||r(Y + S)||`` on these rows."""
    branch = responses.targets.residual
    offset = 0.0 if branch is None else branch.astype(np.float64)
    wanted = layer.activation(responses.targets.responses.astype(np.float64) + offset)
    return relative(wanted, layer.activation(on_patches(factors, np.asarray(responses.patches)) + offset))


# What onnxruntime makes of a chain


@settings(deadline=None, max_examples=examples(25), suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    """At full rank it is the layer; at any rank the convolution of its kernel multiplied out, at borders too."""
    attributes, kernel, size = data.draw(conv_geometries())
    model = one_conv(attributes, filters(0, 4, 3, *kernel), normal(3, 4), size)
    x = normal(1, 3, 3, *size)
    layer, responses = sampled(model, x)
    most = largest_ranks(layer)
    channel = data.draw(st.none() | st.integers(1, most["channel"]))
    full = solve_tucker(layer, responses, most["input"], None if channel is None else most["channel"])
    assert relative(responses.targets.responses, converted(model, layer, full, x)) < 1e-5
    factors = solve_tucker(layer, responses, data.draw(st.integers(1, most["input"])), channel)
    assert [each.weight.shape[2:] for each in factors.convolutions][:2] == [(1, 1), kernel]
    bias = factors.convolutions[-1].bias
    assert bias is not None
    alike = one_conv(attributes, multiplied_out(factors).astype(np.float32), bias.astype(np.float32), size)
    wanted = run(alike, {"x": x}, ["c"])["c"].transpose(0, 2, 3, 1).reshape(-1, 4)
    np.testing.assert_allclose(converted(model, layer, factors, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["input", "tucker"])
@pytest.mark.parametrize("solver", ["auto", "paper", "weights"])
@pytest.mark.parametrize(
    ("kernel", "size", "attributes"),
    [
        ((5,), (17,), "pads=[4,1], dilations=[2], strides=[2]"),
        ((3, 2), (9, 10), 'auto_pad="SAME_LOWER", strides=[1,2]'),
        ((1, 4), (9, 10), "pads=[0,3,0,0]"),
        ((2, 3, 2), (5, 6, 7), "pads=[1,1,0,0,1,1], strides=[2,1,1]"),
    ],
)
def test_full_rank_is_the_layer_for_any_number_of_axes(
    kernel: tuple[int, ...], size: tuple[int, ...], attributes: str, solver: str, method: str
) -> None:
    axes, numbers = ",".join("abc"[: len(size)]), ",".join(map(str, size))
    weight, x = normal(0, 6, 4, *kernel) / np.float32(4), normal(1, 20, 4, *size)
    model = build(
        f"g (float[N,4,{numbers}] x) => (float[N,6,{axes}] y) {{ y = Conv<{attributes}>(x, w, b) }}",
        {"w": weight, "b": normal(2, 6)},
    )
    (layer,), _ = find(model, {"x": x})
    patches = normal(3, 300, 4, *kernel)
    targets = patches.reshape(300, -1) @ weight.reshape(6, -1).T + layer.bias
    ranks = {"input": 4} | ({"channel": 6} if method == "tucker" else {})
    plan = LayerPlan(layer.name, method, **ranks)
    factors = solve_layer(layer, LayerSamples(TargetResponses(targets), patches), plan, solver)
    found = onnx.ModelProto()
    found.CopyFrom(model)
    assert relative(run(model, {"x": x})["y"], replaced(found, layer, factors, x)) < 1e-5


def replaced(model: onnx.ModelProto, layer: Layer, factors: FactorChain, x: Array) -> Array:
    replace_layer(model, layer, factors)
    onnx.checker.check_model(model, full_check=True)
    return run(model, {"x": x})["y"]


# Form


@pytest.mark.parametrize("refinement", ["none", "fast"])
@pytest.mark.parametrize("solver", ["auto", "linear", "nonlinear", "paper", "weights"])
def test_shapes_geometry_and_bias(solver: str, refinement: str) -> None:
    geometry = Geometry((2, 3), (4, 5), (6, 7, 8, 9))
    layer = replace(conv_layer(7, 6, (3, 5), (8, 8)), geometry=geometry)
    patches = normal(0, 200, 6, 3, 5)
    targets = np.einsum("dchw,nchw->nd", layer.weight, patches) + layer.bias
    responses = LayerSamples(TargetResponses(targets), patches)
    single = Geometry((1, 1), (1, 1), (0, 0, 0, 0))
    for channel, shapes, geometries in (
        (None, [(4, 6, 1, 1), (7, 4, 3, 5)], [single, geometry]),
        (5, [(4, 6, 1, 1), (5, 4, 3, 5), (7, 5, 1, 1)], [single, geometry, single]),
    ):
        chain = solve_tucker(layer, responses, 4, channel, solver=solver, refinement=refinement).convolutions
        assert [each.weight.shape for each in chain] == shapes
        assert [each.geometry for each in chain] == geometries
        # Zeros around the image would be no zeros any more behind a bias.
        assert [each.bias is None for each in chain] == [True] * (len(chain) - 1) + [False]
        assert {each.weight.dtype for each in chain} == {np.dtype(np.float64)}


def test_the_weights_alone_give_the_svd_of_what_reads_a_channel() -> None:
    layer = conv_layer(7, 6, (3, 2), (8, 8))
    silent = LayerSamples(TargetResponses(normal(0, 20, 7)), np.zeros((20, 6, 3, 2), np.float32))
    factors = solve_tucker(layer, silent, 4, None, solver="weights")
    matrix = layer.weight.astype(np.float64).transpose(1, 0, 2, 3).reshape(6, -1)
    left, values, right = scipy.linalg.svd(matrix, full_matrices=False)
    cut = (left[:, :4] * values[:4] @ right[:4]).reshape(6, 7, 3, 2).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(multiplied_out(factors), cut, atol=1e-6)
    np.testing.assert_allclose(factors.convolutions[-1].bias, layer.bias, rtol=1e-6)


@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    count=st.integers(0, 3),
    channels=st.integers(1, 4),
)
def test_points_in_a_row_and_back(kernel: tuple[int, ...], count: int, channels: int) -> None:
    array = np.arange(count * channels * int(np.prod(kernel))).reshape(count, channels, *kernel)
    row = in_a_row(array)
    assert row.shape == (count, channels, 1, int(np.prod(kernel)))
    np.testing.assert_array_equal(from_a_row(row, kernel), array)
    # Every point of the row is one point of the kernel, with all of its channels.
    points = {tuple(point) for point in np.moveaxis(row, 1, -1).reshape(-1, channels).tolist()}
    assert points == {tuple(point) for point in np.moveaxis(array, 1, -1).reshape(-1, channels).tolist()}


def test_patches_on_the_disk_are_read_in_a_row() -> None:
    patches, file = normal(0, 30, 5, 3, 2), ScratchFile()
    file.append(patches)
    spilled = SpilledRows(file, patches.shape, patches.dtype, slice(1, 4))
    read = samples_in_a_row(LayerSamples(TargetResponses(normal(1, 30, 2)), spilled)).patches
    assert read.shape == (30, 3, 1, 6)
    assert len(read) == 30
    np.testing.assert_array_equal(read[7:19], in_a_row(patches[7:19, 1:4]))
    file.close()


# Accuracy


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channel", [None, CHANNEL])
def test_data_beat_the_weights_on_unseen_rows(channel: int | None, residual: bool) -> None:
    layer, responses = problem(relu(), residual=residual)
    _, unseen = problem(relu(), seed=50, residual=residual)
    errors = {
        solver: activated_error(layer, solve_tucker(layer, responses, INPUT, channel, solver=solver), unseen)
        for solver in ("auto", "weights")
    }
    assert errors["auto"] < 0.8 * errors["weights"]


def test_each_step_lowers_the_error_on_unseen_rows() -> None:
    layer, responses = problem(relu())
    _, unseen = problem(relu(), seed=50)

    def error(solver: str, refinement: str) -> float:
        factors = solve_tucker(layer, responses, INPUT, CHANNEL, solver=solver, refinement=refinement)
        return activated_error(layer, factors, unseen)

    linear, nonlinear, refined = error("linear", "none"), error("auto", "none"), error("auto", "full")
    assert nonlinear < linear
    assert refined < 0.995 * nonlinear


@pytest.mark.parametrize("channel", [None, CHANNEL])
@pytest.mark.parametrize("activation", [relu(), silu(), hard_swish(), identity()], ids=lambda a: a.name)
def test_errors_are_those_of_the_convolutions(activation: Activation, channel: int | None) -> None:
    layer, responses = problem(activation, count=400, residual=True)
    for solver, refinement in (("auto", "fast"), ("auto", "none"), ("linear", "none"), ("weights", "none")):
        factors = solve_tucker(layer, responses, INPUT, channel, solver=solver, refinement=refinement)
        np.testing.assert_allclose(factors.errors.solved, activated_error(layer, factors, responses), rtol=2e-5)
        assert factors.errors.solved <= factors.errors.linear * (1 + 1e-6)


@pytest.mark.parametrize("count", [5, 12])
def test_few_rows_that_mislead_fall_back_to_the_weights(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Filters that lose nothing without data, and inputs that are all wrong but for the held-out fifth."""
    generator = np.random.default_rng(3)
    weight = np.einsum("dmhw,mc->dchw", generator.normal(size=(8, 3, 3, 3)), generator.normal(size=(3, 5)))
    layer = replace(conv_layer(8, 5, (3, 3), (8, 8)), weight=weight.astype(np.float32))
    patches = generator.normal(size=(count, 5, 3, 3))
    targets = np.einsum("dchw,nchw->nd", weight, patches) + layer.bias
    cut = count - count // 5
    patches[:cut] = 4 * generator.normal(size=patches[:cut].shape)
    responses = LayerSamples(TargetResponses(targets.astype(np.float32)), patches.astype(np.float32))
    factors = solve_tucker(layer, responses, 3, None)
    assert "too few samples" in caplog.text
    assert factors.reason is not None
    assert factors.reason.startswith("too few rows: 5" if count == 5 else "data-free won on held-out rows")
    np.testing.assert_allclose(multiplied_out(factors), weight, atol=1e-5)
