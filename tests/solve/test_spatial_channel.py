"""Spatial and spatial-channel chains, judged by onnxruntime and by plain numpy on patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.ndimage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.calibrate.taps import leading_pads
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers.activation import Activation, hard_swish, identity, relu, silu
from onnx_lowrank.layers.factors import FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Geometry, Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.refine import Refined, RefinementEffort, refine
from onnx_lowrank.solve.spatial_channel import solve_spatial
from tests.example_layers import conv_geometries, conv_layer
from tests.helpers import build, filters, find, normal, relative, run

Array = NDArray[Any]

SPATIAL, CHANNEL = 4, 4
FILTERS, CHANNELS = 12, 6


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


def on_patches(factors: FactorChain, patches: Array) -> Array:
    """The chain's response to patches, one factor after the other, float64."""
    first, second, *last = factors.convolutions
    response = np.einsum("kch,nchw->nkw", first.weight[..., 0], patches.astype(np.float64), optimize=True)
    response = np.einsum("qkw,nkw->nq", second.weight[:, :, 0], response, optimize=True)
    for each in last:
        response = response @ each.weight[:, :, 0, 0].T
    bias = factors.convolutions[-1].bias
    assert bias is not None
    return np.asarray(response + bias)


def activated_error(layer: Layer, factors: FactorChain, responses: LayerSamples) -> float:
    """``||r(Y + S) - r(Y' + S)|| / ||r(Y + S)||`` on these rows."""
    branch = responses.targets.residual
    offset = 0.0 if branch is None else branch.astype(np.float64)
    wanted = layer.activation(responses.targets.responses.astype(np.float64) + offset)
    return relative(wanted, layer.activation(on_patches(factors, responses.patches) + offset))


# What onnxruntime makes of a chain


def windows(layer: Layer, x: Array) -> Array:
    """All input patches, image by image and position by position, cut out of the padded input."""
    geometry = layer.geometry
    padded = np.pad(x, [(0, 0), (0, 0), *((before, 30) for before in leading_pads(layer))])
    reach = [(size - 1) * step + 1 for size, step in zip(layer.kernel, geometry.dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    view = view[
        :, :, :: geometry.strides[0], :: geometry.strides[1], :: geometry.dilations[0], :: geometry.dilations[1]
    ]
    view = view[:, :, : layer.positions[0], : layer.positions[1]]
    return np.ascontiguousarray(view.transpose(0, 2, 3, 1, 4, 5)).reshape(-1, layer.channels, *layer.kernel)


def rows_of(response: Array) -> Array:
    """A response (N, d, height, width) as rows, in the order of `windows`."""
    return response.transpose(0, 2, 3, 1).reshape(-1, response.shape[1])


def one_conv(attributes: str, weight: Array, bias: Array, size: tuple[int, int]) -> onnx.ModelProto:
    return build(
        f"""g (float[N,{weight.shape[1]},{size[0]},{size[1]}] x) => (float[N,{len(weight)},h,v] y) {{
            c = Conv<{attributes}>(x, w, b)
            y = Relu(c)
        }}""",
        {"w": weight, "b": bias},
    )


def sampled(model: onnx.ModelProto, x: Array) -> tuple[Layer, LayerSamples]:
    """The model's layer, and all its rows as onnxruntime computes them."""
    (layer,), _ = find(model, {"x": x})
    response = rows_of(run(model, {"x": x}, ["c"])["c"])
    patches = windows(layer, x)
    assert (
        relative(response, patches.reshape(len(patches), -1) @ layer.weight.reshape(layer.filters, -1).T + layer.bias)
        < 1e-5
    )
    return layer, LayerSamples(TargetResponses(response), patches)


def converted(model: onnx.ModelProto, layer: Layer, factors: FactorChain, x: Array) -> Array:
    """Rows of the response of the model with the chain in the layer's place, as onnxruntime computes them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    replace_layer(copy, layer, factors)
    onnx.checker.check_model(copy, full_check=True)
    return rows_of(run(copy, {"x": x}, ["c"])["c"])


@pytest.mark.parametrize("method", ["spatial", "spatial-channel"])
@pytest.mark.parametrize("solver", ["auto", "paper", "weights"])
@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[2,2], pads=[1,1,1,1]",
        "dilations=[2,1]",
        "dilations=[2,2], pads=[2,2,2,2], strides=[1,2]",
        "pads=[0,2,1,0], strides=[2,1]",
        'auto_pad="SAME_UPPER", strides=[2,3]',
        'auto_pad="SAME_LOWER", strides=[3,2]',
        'auto_pad="VALID", strides=[1,2]',
    ],
)
def test_full_rank_is_the_layer_in_onnxruntime(method: str, solver: str, attributes: str) -> None:
    model = one_conv(attributes, filters(0, 5, 3, 3, 2), normal(2, 5), (10, 9))
    x = normal(1, 3, 3, 10, 9)
    layer, responses = sampled(model, x)
    ranks = largest_ranks(layer)
    plan = LayerPlan(layer.name, method, channel=ranks["channel"], spatial=ranks["spatial"])
    factors = solve_layer(layer, responses, plan, solver)
    assert len(factors.convolutions) == (2 if method == "spatial" else 3)
    assert relative(responses.targets.responses, converted(model, layer, factors, x)) < 5e-6
    assert factors.errors.solved < 5e-6


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    attributes, kernel, size = data.draw(conv_geometries())
    model = one_conv(attributes, filters(0, 4, 3, *kernel), normal(3, 4), size)
    x = normal(1, 3, 3, *size)
    layer, responses = sampled(model, x)
    most = largest_ranks(layer)
    channel = data.draw(st.none() | st.integers(1, most["channel"]))
    full = solve_spatial(layer, responses, most["spatial"], None if channel is None else most["channel"])
    assert relative(responses.targets.responses, converted(model, layer, full, x)) < 1e-5
    # Of any rank, the graph computes what the factors say.
    factors = solve_spatial(layer, responses, data.draw(st.integers(1, most["spatial"])), channel)
    found = converted(model, layer, factors, x)
    np.testing.assert_allclose(found, on_patches(factors, responses.patches), rtol=1e-4, atol=1e-5)
    assert [each.weight.shape[2:] for each in factors.convolutions][:2] == [(kernel[0], 1), (1, kernel[1])]


@pytest.mark.parametrize("solver", ["auto", "linear"])
@pytest.mark.parametrize("count", [4, 25, 300])
def test_full_rank_is_exact_on_any_data(count: int, solver: str) -> None:
    """Also with fewer rows than numbers in a patch, and with inputs that say nothing of some of them."""
    layer = conv_layer(7, 3, (2, 4), (8, 8))
    patches = normal(0, count, 3, 2, 4)
    patches[:, 1] = 0
    targets = np.einsum("dchw,nchw->nd", layer.weight, patches) + layer.bias
    for spatial, channel in ((6, None), (6, 7)):
        factors = solve_spatial(layer, LayerSamples(TargetResponses(targets), patches), spatial, channel, solver=solver)
        unseen = normal(9, 50, 3, 2, 4)
        wanted = np.einsum("dchw,nchw->nd", layer.weight.astype(np.float64), unseen) + layer.bias
        assert relative(wanted, on_patches(factors, unseen)) < 1e-5


# Form


@pytest.mark.parametrize("refinement", ["none", "fast"])
@pytest.mark.parametrize("solver", ["auto", "linear", "nonlinear", "paper", "weights"])
def test_shapes_geometry_and_bias(solver: str, refinement: str) -> None:
    layer = replace(conv_layer(7, 3, (3, 5), (8, 8)), geometry=Geometry((2, 3), (4, 5), (6, 7, 8, 9)))
    patches = normal(0, 200, 3, 3, 5)
    targets = np.einsum("dchw,nchw->nd", layer.weight, patches) + layer.bias
    responses = LayerSamples(TargetResponses(targets), patches)
    vertical = Geometry((2, 1), (4, 1), (6, 0, 8, 0))
    horizontal = Geometry((1, 3), (1, 5), (0, 7, 0, 9))
    pointwise = Geometry((1, 1), (1, 1), (0, 0, 0, 0))
    for channel, shapes, geometries in (
        (None, [(4, 3, 3, 1), (7, 4, 1, 5)], [vertical, horizontal]),
        (5, [(4, 3, 3, 1), (5, 4, 1, 5), (7, 5, 1, 1)], [vertical, horizontal, pointwise]),
    ):
        chain = solve_spatial(layer, responses, 4, channel, solver=solver, refinement=refinement).convolutions
        assert [each.weight.shape for each in chain] == shapes
        assert [each.geometry for each in chain] == geometries
        assert [each.bias is None for each in chain] == [True] * (len(chain) - 1) + [False]
        assert chain[-1].bias is not None
        assert chain[-1].bias.shape == (7,)
        assert {each.weight.dtype for each in chain} == {np.dtype(np.float64)}
        same = replace(layer, geometry=Geometry((2, 3), (1, 1), (0, 0, 0, 0), "SAME_LOWER"))
        chain = solve_spatial(same, responses, 4, channel, solver=solver, refinement=refinement).convolutions
        wanted = [Geometry(steps, (1, 1), (0, 0, 0, 0), "SAME_LOWER") for steps in ((2, 1), (1, 3))]
        assert [each.geometry for each in chain] == wanted + [pointwise] * (channel is not None)


def test_weights_chain_keeps_the_bias_and_is_the_svd_of_the_kernel() -> None:
    layer = conv_layer(7, 3, (3, 2), (8, 8))
    silent = LayerSamples(TargetResponses(normal(0, 20, 7)), np.zeros((20, 3, 3, 2), np.float32))
    for channel in (None, 5):
        factors = solve_spatial(layer, silent, 4, channel, solver="weights")
        np.testing.assert_allclose(on_patches(factors, silent.patches[:1])[0], layer.bias, rtol=1e-6)
    factors = solve_spatial(layer, silent, 4, None, solver="weights")
    matrix = layer.weight.astype(np.float64).transpose(1, 2, 0, 3).reshape(9, 14)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    cut = (left[:, :4] * values[:4] @ right[:4]).reshape(3, 3, 7, 2)
    patches = normal(1, 30, 3, 3, 2)
    wanted = np.einsum("chdw,nchw->nd", cut, patches) + layer.bias
    np.testing.assert_allclose(on_patches(factors, patches), wanted, rtol=1e-6, atol=1e-6)


# Accuracy


def correlated(seed: int, count: int) -> Array:
    """Patches of images that are smooth, more so along one axis, with channels that say much the same."""
    generator = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(generator.normal(size=(20, CHANNELS, 18, 18)), (0, 0, 1.5, 0.7))
    mixing = np.random.default_rng(99).normal(size=(CHANNELS, CHANNELS)) * np.geomspace(2, 0.1, CHANNELS)
    images = np.maximum(np.einsum("dc,nchw->ndhw", mixing, smooth / smooth.std()), 0)
    view = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    rows = view.reshape(-1, CHANNELS, 3, 3)
    return rows[generator.choice(len(rows), count, replace=False)].astype(np.float32)


def problem(
    activation: Activation, *, seed: int = 0, count: int = 2000, residual: bool = False
) -> tuple[Layer, LayerSamples]:
    """A layer, and its rows on correlated inputs that arrive slightly wrong."""
    layer = replace(conv_layer(FILTERS, CHANNELS, (3, 3), (8, 8)), activation=activation)
    patches = correlated(seed, count)
    generator = np.random.default_rng(seed + 1)
    targets = np.einsum("dchw,nchw->nd", layer.weight, patches, optimize=True) + layer.bias
    branch = (2 * generator.normal(size=targets.shape)).astype(np.float32) if residual else None
    arrived = patches + 0.05 * patches.std() * generator.normal(size=patches.shape).astype(np.float32)
    return layer, LayerSamples(TargetResponses(targets, branch), arrived)


@pytest.mark.parametrize("residual", [False, True])
def test_data_beats_the_paper_beats_the_weights_on_unseen_rows(residual: bool) -> None:
    layer, responses = problem(relu(), residual=residual)
    _, unseen = problem(relu(), seed=50, residual=residual)
    for channel in (CHANNEL, None):
        errors = {
            solver: activated_error(layer, solve_spatial(layer, responses, SPATIAL, channel, solver=solver), unseen)
            for solver in ("auto", "paper", "weights")
        }
        if channel is None:  # there is no 1 x 1 that the paper could solve
            assert errors["paper"] == errors["weights"]
        else:
            assert errors["paper"] < 0.8 * errors["weights"]
        assert errors["auto"] < 0.96 * errors["paper"]


def test_each_step_lowers_the_error_on_unseen_rows() -> None:
    layer, responses = problem(relu())
    _, unseen = problem(relu(), seed=50)

    def error(solver: str, refinement: str) -> float:
        factors = solve_spatial(layer, responses, SPATIAL, CHANNEL, solver=solver, refinement=refinement)
        return activated_error(layer, factors, unseen)

    linear, nonlinear, refined = error("linear", "none"), error("auto", "none"), error("auto", "full")
    assert nonlinear < 0.98 * linear
    assert refined < 0.995 * nonlinear


@pytest.mark.parametrize("channel", [None, CHANNEL])
def test_more_refinement_lowers_the_error_on_the_rows_it_solves_on(channel: int | None) -> None:
    layer, responses = problem(relu())
    none, fast, full = (
        solve_spatial(layer, responses, SPATIAL, channel, refinement=name).errors.solved
        for name in ("none", "fast", "full")
    )
    assert fast < 0.975 * none
    assert full < 0.9998 * fast  # eight iterations get nearly there


def test_refinement_moves_the_vertical_filters_too() -> None:
    layer, responses = problem(relu())
    none, full = (
        solve_spatial(layer, responses, SPATIAL, CHANNEL, refinement=name).convolutions[0].weight.reshape(SPATIAL, -1)
        for name in ("none", "full")
    )
    inside = np.linalg.lstsq(none.T, full.T, rcond=None)[0]
    assert relative(full, (none.T @ inside).T) > 0.05


def test_vertical_filters_serve_the_directions_that_the_channel_rank_keeps() -> None:
    """Large filters on the upper row cancel out on inputs that are even along the width; only the lower row is seen."""
    weight = np.zeros((4, 1, 2, 2), np.float32)
    weight[:3, 0, 0] = 3, -3
    weight[3, 0, 1] = 1, 1
    layer = replace(conv_layer(4, 1, (2, 2), (8, 8)), weight=weight, bias=np.full(4, 0.5, np.float32))
    patches = np.repeat(normal(0, 200, 1, 2, 1), 2, axis=3)
    targets = np.einsum("dchw,nchw->nd", weight, patches) + layer.bias
    factors = solve_spatial(
        layer, LayerSamples(TargetResponses(targets), patches), 1, 1, solver="linear", refinement="none"
    )
    assert factors.errors.solved < 0.01


def test_only_auto_refines() -> None:
    layer, responses = problem(relu(), count=600)
    for solver in ("linear", "nonlinear", "paper", "weights"):
        none, full = (
            solve_spatial(layer, responses, SPATIAL, CHANNEL, solver=solver, refinement=name)
            for name in ("none", "full")
        )
        np.testing.assert_allclose(none.errors.solved, full.errors.solved, rtol=1e-4)
        patches = responses.patches[:50]
        np.testing.assert_allclose(on_patches(none, patches), on_patches(full, patches), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channel", [None, CHANNEL])
def test_linear_solution_is_that_of_all_rows(channel: int | None) -> None:
    """Its offset makes the mean right, of the rows that were held out at first as of the others."""
    layer, responses = problem(relu(), count=200)
    responses.targets.responses[160:] += 3
    factors = solve_spatial(layer, responses, SPATIAL, channel, solver="linear")
    mean = on_patches(factors, responses.patches).mean(axis=0)
    np.testing.assert_allclose(mean, responses.targets.responses.mean(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [100, 2000])
def test_all_rows_are_solved_on(count: int) -> None:
    layer, responses = problem(relu(), count=count)
    linear = solve_spatial(layer, responses, SPATIAL, CHANNEL, solver="linear").errors.linear
    refined = solve_spatial(layer, responses, SPATIAL, CHANNEL).errors
    assert refined.solved < refined.linear == pytest.approx(linear, rel=1e-6)


# Numbers for the report


@pytest.mark.parametrize("channel", [None, CHANNEL])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [relu(), silu(), hard_swish(), identity()], ids=lambda a: a.name)
def test_errors_are_those_of_the_convolutions(activation: Activation, residual: bool, channel: int | None) -> None:
    layer, responses = problem(activation, count=400, residual=residual)
    linear = solve_spatial(layer, responses, SPATIAL, channel, solver="linear", refinement="none").errors
    weights = solve_spatial(layer, responses, SPATIAL, channel, solver="weights").errors
    for solver, refinement in (
        ("auto", "fast"),
        ("auto", "none"),
        ("nonlinear", "none"),
        ("linear", "none"),
        ("paper", "none"),
        ("weights", "none"),
    ):
        factors = solve_spatial(layer, responses, SPATIAL, channel, solver=solver, refinement=refinement)
        errors = factors.errors
        np.testing.assert_allclose(errors.solved, activated_error(layer, factors, responses), rtol=2e-5)
        assert errors.solved <= errors.linear * (1 + 1e-6)
        if solver in ("auto", "nonlinear"):
            # Refinement may end on four fifths of the rows; then its linear solution is theirs.
            rtol = 1e-6 if refinement == "none" else 5e-3
            np.testing.assert_allclose(errors.linear, linear.solved, rtol=rtol)
        if (solver, refinement) == ("auto", "fast"):
            assert errors.solved < 0.999 * linear.solved
    assert linear.solved == linear.linear
    assert linear.solved < 0.8 * weights.solved


# Few rows


def misleading(count: int) -> tuple[Layer, LayerSamples]:
    """Filters that lose nothing without data, and inputs that are all wrong but for the held-out fifth."""
    generator = np.random.default_rng(3)
    horizontal = np.einsum("de,kew->kdw", generator.normal(size=(8, 4)), generator.normal(size=(3, 4, 3)))
    weight = np.einsum("kch,kdw->dchw", generator.normal(size=(3, 3, 3)), horizontal)
    layer = replace(conv_layer(8, 3, (3, 3), (8, 8)), weight=weight.astype(np.float32))
    patches = generator.normal(size=(count, 3, 3, 3))
    targets = np.einsum("dchw,nchw->nd", weight, patches) + layer.bias
    cut = count - count // 5
    patches[:cut] = 4 * generator.normal(size=patches[:cut].shape)
    return layer, LayerSamples(TargetResponses(targets.astype(np.float32)), patches.astype(np.float32))


@pytest.mark.parametrize("channel", [None, 8])
def test_at_full_rank_the_samples_are_not_to_blame(channel: int | None, caplog: pytest.LogCaptureFixture) -> None:
    layer, responses = misleading(12)
    factors = solve_spatial(layer, responses, 9, channel)
    assert factors.reason is not None
    assert factors.reason.startswith(
        "full rank: the layer's own weights did better on held-out rows: relative error 0."
    )
    assert caplog.text == ""


@pytest.mark.parametrize("channel", [None, 4])
@pytest.mark.parametrize("count", [5, 12])
def test_few_rows_that_mislead_fall_back_to_the_weights(
    count: int, channel: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    layer, responses = misleading(count)
    factors = solve_spatial(layer, responses, 3, channel)
    assert "too few samples" in caplog.text
    assert factors.reason is not None
    assert factors.reason.startswith("too few rows: 5" if count == 5 else "data-free won on held-out rows")
    assert factors.errors.linear == factors.errors.solved
    np.testing.assert_allclose(factors.errors.solved, activated_error(layer, factors, responses), rtol=1e-5)
    wanted = np.einsum("dchw,nchw->nd", layer.weight.astype(np.float64), responses.patches) + layer.bias
    assert relative(wanted, on_patches(factors, responses.patches)) < 1e-6
    data_free = solve_spatial(layer, responses, 3, channel, solver="weights")
    for found, known in zip(factors.convolutions, data_free.convolutions, strict=True):
        np.testing.assert_array_equal(found.weight, known.weight)
    paper = solve_spatial(layer, responses, 3, channel, solver="paper")
    assert relative(wanted, on_patches(paper, responses.patches)) < 1e-6
    if count == 12:  # who asks for a solver by name gets it
        named = solve_spatial(layer, responses, 3, channel, solver="linear")
        assert named.errors.solved < 0.9 * factors.errors.solved


@pytest.mark.parametrize("channel", [None, CHANNEL])
def test_few_rows_are_not_refined_where_that_does_worse_on_those_held_out(
    channel: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, responses = problem(relu(), count=60)
    unrefined = solve_spatial(layer, responses, SPATIAL, channel, refinement="none")

    def spoilt(chain: FactorMap, *_: Any, **__: Any) -> Refined:
        return Refined(replace(chain, offset=chain.offset + 100), SolveErrors(0.0, 0.0))

    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel.refine", spoilt)
    found = solve_spatial(layer, responses, SPATIAL, channel)
    np.testing.assert_allclose(
        on_patches(found, responses.patches), on_patches(unrefined, responses.patches), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("extra", "size"), [(1, SPATIAL + 1), (100, int(1.5 * SPATIAL))])
def test_filters_are_mixed_from_half_as_many_more_up_to_a_limit(
    extra: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, responses = problem(relu())
    shapes = []

    def watched(chain: FactorMap, *arguments: Any, **options: Any) -> Refined:
        shapes.append(chain.T.shape)
        return refine(chain, *arguments, **options)

    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel.refine", watched)
    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel._MAX_EXTRA_BASIS", extra)
    solve_spatial(layer, responses, SPATIAL, None)
    assert set(shapes) == {(SPATIAL, size)}


@pytest.mark.parametrize(
    ("refinement", "largest", "min_gain"),
    [("fast", 1_000, 5e-3), ("fast", 100, 2e-2), ("full", 100, 1e-4)],
)
def test_the_last_iterations_are_left_out_where_they_cost_most(
    refinement: str, largest: int, min_gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, responses = problem(relu())
    least = []

    def watched(chain: FactorMap, features: Any, rows: Any, effort: RefinementEffort, **options: Any) -> Refined:
        assert 100 < chain.map.size < 1_000
        least.append(effort.min_gain)
        return refine(chain, features, rows, effort, **options)

    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel.refine", watched)
    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel._LARGE_MAP", largest)
    solve_spatial(layer, responses, SPATIAL, None, refinement=refinement)
    assert set(least) == {min_gain}


def test_refinement_is_pulled_toward_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, responses = problem(relu(), count=60)
    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel._MIN_ROWS_PER_INPUT", 0)  # always refined
    wanted = np.einsum("dchw,nchw->nd", layer.weight, correlated(50, 500)) + layer.bias

    def error() -> float:
        return relative(wanted, on_patches(solve_spatial(layer, responses, SPATIAL, None), correlated(50, 500)))

    pulled = error()
    monkeypatch.setattr("onnx_lowrank.solve.spatial_channel._REFINEMENT_RIDGE_SHARE", 0.0)
    assert pulled < 0.99 * error()


def test_inputs_that_are_dead_give_finite_factors() -> None:
    layer, responses = problem(relu(), count=300)
    dead = LayerSamples(responses.targets, np.zeros_like(responses.patches))
    for channel in (None, CHANNEL):
        for solver in ("auto", "paper", "linear", "nonlinear", "weights"):
            factors = solve_spatial(layer, dead, SPATIAL, channel, solver=solver)
            assert all(np.isfinite(each.weight).all() for each in factors.convolutions)
            assert np.isfinite(factors.errors.solved)
