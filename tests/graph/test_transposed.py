"""ConvTranspose as a convolution of its input with zeros in between: read, written, and counted."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_lowrank.graph import layer_model, replace_layer
from onnx_lowrank.graph.index import attribute
from onnx_lowrank.graph.transposed import reversed_weight
from onnx_lowrank.layers.cost import chain_macs, chain_parameters
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import METHODS, LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.solve import solve_layer
from tests.example_layers import transposed_geometries
from tests.helpers import Array, build, find, normal, relative, run

ANY_GEOMETRY = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.filter_too_much])


def transposed(
    attributes: str, c: int, d: int, kernel: tuple[int, ...], size: tuple[int, ...], groups: int = 1
) -> onnx.ModelProto:
    """A ConvTranspose from ``c`` to ``d`` channels, with a bias."""
    sizes, open_sizes = ",".join(map(str, size)), ",".join(f"o{axis}" for axis in range(len(size)))
    return build(
        f"""g (float[N,{c},{sizes}] x) => (float[N,{d},{open_sizes}] y)
            {{ y = ConvTranspose<{attributes}, group={groups}>(x, w, b) }}""",
        {"w": normal(0, c, d // groups, *kernel), "b": normal(2, d)},
    )


def only(model: onnx.ModelProto, x: Array) -> Layer:
    (layer,), skipped = find(model, {"x": x})
    assert (layer.op, skipped) == ("ConvTranspose", [])
    return layer


def as_convolution(layer: Layer, x: Array) -> Array:
    """What a layer says it computes, point by point: zeros put in between, then a convolution of step 1."""
    geometry, axes = layer.geometry, len(layer.kernel)
    assert geometry.output_padding is not None
    apart = np.zeros(
        (*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(layer.input_size, geometry.strides, strict=True)))
    )
    apart[(..., *(slice(None, None, stride) for stride in geometry.strides))] = x
    reach = [(k - 1) * d for k, d in zip(layer.kernel, geometry.dilations, strict=True)]
    # Pads wider than the kernel's reach cut, so that zeros are added first and cut off again.
    margin = [(each, each + more) for each, more in zip(reach, geometry.output_padding, strict=True)]
    padded = np.pad(apart, [(0, 0), (0, 0), *margin])
    whole = [padded.shape[axis + 2] - reach[axis] for axis in range(axes)]
    response = np.zeros((len(x), layer.filters, *whole))
    for part, channels, rows in layer.parts:
        for point in product(*map(range, layer.kernel)):
            shift = tuple(
                slice(at * step, at * step + size)
                for at, step, size in zip(point, geometry.dilations, whole, strict=True)
            )
            weight = part.weight[(slice(None), slice(None), *point)].astype(np.float64)
            response[:, rows] += np.einsum("dc,nc...->nd...", weight, padded[:, channels][(..., *shift)])
    pads = geometry.pads
    kept = tuple(slice(pads[axis], whole[axis] - pads[axes + axis]) for axis in range(axes))
    return response[(..., *kept)] + layer.bias.reshape(-1, *[1] * axes)


@ANY_GEOMETRY
@given(transposed_geometries(), st.sampled_from([1, 2]))
def test_a_layer_is_what_onnxruntime_computes(
    geometry: tuple[str, tuple[int, int], tuple[int, int]], groups: int
) -> None:
    attributes, kernel, size = geometry
    model, x = transposed(attributes, 4, 6, kernel, size, groups), normal(1, 2, 4, *size)
    layer = only(model, x)
    wanted = run(model, {"x": x})["y"]
    assert layer.weight.shape == (6, 4 // groups, *kernel)
    assert layer.positions == wanted.shape[2:]
    found = as_convolution(layer, x)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@ANY_GEOMETRY
@given(transposed_geometries(), st.sampled_from(METHODS[1:]), st.sampled_from([1, 2]))
def test_full_rank_reproduces_it(
    geometry: tuple[str, tuple[int, int], tuple[int, int]], method: str, groups: int
) -> None:
    attributes, kernel, size = geometry
    model, x = transposed(attributes, 4, 6, kernel, size, groups), normal(1, 2, 4, *size)
    layer = only(model, x)
    ranks = {kind: largest_ranks(layer)[kind] for kind in rank_kinds(method)}
    patches = normal(3, 40, layer.channels, *kernel)
    samples = LayerSamples(TargetResponses(normal(4, 40, layer.filters)), patches)
    with one_thread():
        factors = solve_layer(layer, samples, LayerPlan(layer.name, method, **ranks), "weights")
    before = run(model, {"x": x})["y"]
    replace_layer(model, layer, factors)
    onnx.checker.check_model(model, full_check=True)
    after = run(model, {"x": x})["y"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def counted(model: onnx.ModelProto, x: Array) -> int:
    """Multiply-adds of what a model runs: a ConvTranspose multiplies its input, a Conv makes its output."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = model.graph.node
    tensors = run(model, {"x": x}, [name for node in nodes for name in node.output]) | {"x": x}
    read_or_made = {"ConvTranspose": lambda node: node.input[0], "Conv": lambda node: node.output[0]}
    return sum(tensors[read_or_made[node.op_type](node)][0].size * prod(weights[node.input[1]][1:]) for node in nodes)


@ANY_GEOMETRY
@given(
    transposed_geometries(), st.sampled_from(METHODS), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 20)
)
def test_multiply_adds_are_those_of_what_runs(
    geometry: tuple[str, tuple[int, int], tuple[int, int]], method: str, groups: int, channel: int, spatial: int
) -> None:
    attributes, kernel, size = geometry
    model, x = transposed(attributes, 4, 6, kernel, size, groups), normal(1, 2, 4, *size)
    layer = only(model, x)
    wished, largest = {"channel": channel, "spatial": spatial, "input": spatial}, largest_ranks(layer)
    ranks = {kind: min(wished[kind], largest[kind]) for kind in rank_kinds(method)}
    plan = LayerPlan(layer.name, method, **ranks)
    before, factors = run(model, {"x": x})["y"], random_factors(layer, plan)
    replace_layer(model, layer, factors)
    assert chain_macs(layer, plan) == counted(model, x)
    assert chain_parameters(layer, plan) == sum(prod(tensor.dims) for tensor in model.graph.initializer)
    after = run(model, {"x": x})["y"]
    assert after.shape == before.shape
    # What is timed: the same chain alone, its activation pooled.
    (alone,) = run(layer_model(layer, factors, 2), {"input": x}).values()
    np.testing.assert_allclose(alone, np.maximum(after, 0).mean(axis=(2, 3), keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "ranks", "macs"),
    [
        ("kept", {}, 30 * 8 * 6 * 4),  # 30 positions of the input
        ("channel", {"channel": 3}, 30 * 8 * 3 * 4 + 120 * 3 * 6),  # 120 of the output
        ("spatial", {"spatial": 5}, 30 * 8 * 5 * 2 + 60 * 5 * 6 * 2),  # 60 in between
        ("spatial-channel", {"channel": 3, "spatial": 5}, 30 * 8 * 5 * 2 + 60 * 5 * 3 * 2 + 120 * 3 * 6),
        ("input", {"input": 5}, 30 * 8 * 5 + 30 * 5 * 6 * 4),
        ("tucker", {"channel": 3, "input": 5}, 30 * 8 * 5 + 30 * 5 * 3 * 4 + 120 * 3 * 6),
    ],
)
def test_multiply_adds_of_doubling_the_size(method: str, ranks: dict[str, int], macs: int) -> None:
    layer = only(transposed("strides=[2,2]", 8, 6, (2, 2), (5, 6)), normal(1, 2, 8, 5, 6))
    assert chain_macs(layer, LayerPlan(layer.name, method, **ranks)) == macs
    assert layer.macs == 30 * 8 * 6 * 4


@pytest.mark.parametrize("axes", [1, 3])
def test_one_axis_and_three(axes: int) -> None:
    kernel, size = (5, 4, 3)[:axes], (6, 3, 4)[:axes]
    attributes = f"strides={[3, 2, 1][:axes]}, output_padding={[2, 1, 0][:axes]}, pads={[1, 0, 2, 0, 1, 0][: 2 * axes]}"
    model, x = transposed(attributes, 4, 6, kernel, size, 2), normal(1, 2, 4, *size)
    layer = only(model, x)
    wanted = run(model, {"x": x})["y"]
    assert relative(wanted, as_convolution(layer, x)) < 1e-6
    patches = normal(3, 40, 4, *kernel)
    samples = LayerSamples(TargetResponses(normal(4, 40, 6)), patches)
    with one_thread():
        factors = solve_layer(layer, samples, LayerPlan(layer.name, "channel", 3), "weights")
    replace_layer(model, layer, factors)
    assert [node.op_type for node in model.graph.node] == ["ConvTranspose", "Conv"]
    assert relative(wanted, run(model, {"x": x})["y"]) < 1e-5


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_reversing_a_weight_twice_changes_nothing(groups: int, first: int, second: int, axes: int) -> None:
    weight = normal(0, groups * first, second, *(2, 3, 4)[:axes])
    once = reversed_weight(weight, groups)
    assert once.shape == (groups * second, first, *(2, 3, 4)[:axes])
    np.testing.assert_array_equal(reversed_weight(once, groups), weight)


def test_pads_of_a_chain_are_numbers_in_the_file() -> None:
    """``auto_pad`` of a ConvTranspose follows from kernel and stride alone: in pads it is the same at every size."""
    model = transposed('auto_pad="SAME_UPPER", strides=[2,3]', 4, 6, (5, 4), (6, 7))
    x = normal(1, 2, 4, 6, 7)
    layer = only(model, x)
    assert (layer.geometry.auto_pad, layer.geometry.pads, layer.positions) == ("NOTSET", (1, 0, 2, 1), (12, 21))
    replace_layer(model, layer, random_factors(layer, LayerPlan(layer.name, "channel", 2)))
    first = model.graph.node[0]
    assert list(attribute(first, "pads")) == [1, 0, 2, 1]
    assert attribute(first, "auto_pad") is None
    larger = normal(1, 1, 4, 9, 2)
    for dim, length in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (9, 2), strict=True):
        dim.dim_value = length
    assert run(model, {"x": larger})["y"].shape == (1, 6, 18, 6)
