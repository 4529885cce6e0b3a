"""Segments, judged by running the whole converted network anew for every layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_lowrank.calibrate import Propagation, layer_positions
from onnx_lowrank.calibrate.propagate import recomputing_is_faster
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.graph.extract import ancestors
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.linalg.disk_arrays import SpilledRows
from onnx_lowrank.runtime.provider import Provider
from tests.helpers import CPU, Array, Feeds, applied, build, filters, find, normal, run, sampled

IMAGES = 5
X = normal(1, IMAGES, 3, 8, 8)
SAME = "<pads=[1,1,1,1]>"


def chain() -> tuple[onnx.ModelProto, Feeds]:
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,2] y) {{
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            c1 = Conv{SAME}(r0, w1)  r1 = Relu(c1)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r1)
            c2 = Conv{SAME}(p, w2)  r2 = Relu(c2)
            q = GlobalAveragePool(r2)  f = Flatten(q)  y = Gemm(f, v)
        }}""",
        {
            **{"w0": filters(0, 4, 3, 3, 3), "w1": filters(1, 5, 4, 3, 3), "w2": filters(2, 6, 5, 3, 3)},
            "v": normal(3, 6, 2),
        },
    )
    return model, {"x": X}


def residual() -> tuple[onnx.ModelProto, Feeds]:
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            c1 = Conv{SAME}(r0, w1)  r1 = Relu(c1)
            c2 = Conv{SAME}(r1, w2)  s = Add(c2, r0)  r2 = Relu(s)
            c3 = Conv{SAME}(r2, w3)  t = Add(c3, r0)  y = Relu(t)
        }}""",
        {"w0": filters(0, 4, 3, 3, 3), **{f"w{number}": filters(number, 4, 4, 3, 3) for number in (1, 2, 3)}},
    )
    return model, {"x": X}


def concatenation() -> tuple[onnx.ModelProto, Feeds]:
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,6,8,8] y) {{
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            c1 = Conv{SAME}(r0, w1)  r1 = Relu(c1)
            j = Concat<axis=1>(x, r0, r1)
            left, right = Split<axis=1>(j, parts)
            c2 = Conv{SAME}(left, w2)  r2 = Relu(c2)
            c3 = Conv{SAME}(right, w3)
            y = Concat<axis=1>(r2, c3)
        }}""",
        {
            **{"w0": filters(0, 4, 3, 3, 3), "w1": filters(1, 5, 4, 3, 3), "parts": np.array([6, 6])},
            **{"w2": filters(2, 3, 6, 3, 3), "w3": filters(3, 3, 6, 3, 3)},
        },
    )
    return model, {"x": X}


def two_inputs() -> tuple[onnx.ModelProto, Feeds]:
    model = build(
        f"""g (float[N,3,8,8] x, float[N,2,8,8] z) => (float[N,4,8,8] y) {{
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            c1 = Conv{SAME}(z, w1)  r1 = Relu(c1)
            s = Add(r0, r1)  j = Concat<axis=1>(s, z)
            y = Conv{SAME}(j, w2)
        }}""",
        {"w0": filters(0, 4, 3, 3, 3), "w1": filters(1, 4, 2, 3, 3), "w2": filters(2, 4, 6, 3, 3)},
    )
    return model, {"x": X, "z": normal(2, IMAGES, 2, 8, 8)}


def captured() -> tuple[onnx.ModelProto, Feeds]:
    """An If whose branches read `r0`, `r1` and an initializer from outside."""
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            m = ReduceMean<keepdims=0>(x)  flag = Greater(m, zero)
            c1 = Conv{SAME}(r0, w1)  r1 = Relu(c1)
            c2 = Conv{SAME}(r1, w2)  r2 = Relu(c2)
            o = If (flag) <
                then_branch = t () => (float[N,4,8,8] t_out) {{ a = Add(r0, r2)  t_out = Mul(a, scale) }},
                else_branch = e () => (float[N,4,8,8] e_out) {{ e_out = Sub(r1, r2) }}
            >
            y = Conv{SAME}(o, w3)
        }}""",
        {
            **{"w0": filters(0, 4, 3, 3, 3), **{f"w{n}": filters(n, 4, 4, 3, 3) for n in (1, 2, 3)}},
            **{"zero": np.float32(0), "scale": normal(8, 4, 1, 1)},
        },
    )
    return model, {"x": X}


def normalized_input_first() -> tuple[onnx.ModelProto, Feeds]:
    """Nodes before the first layer; NHWC input; constants in nodes shared by several segments."""
    model = build(
        f"""g (float[N,8,8,3] x) => (float[N,8,8,4] y) {{
            k = Constant<value=float[1] {{0.5}}>()
            h = Mul(x, k)  i = Transpose<perm=[0,3,1,2]>(h)
            c0 = Conv{SAME}(i, w0)  r0 = Relu(c0)  m0 = Mul(r0, k)
            c1 = Conv{SAME}(m0, w1)  r1 = Relu(c1)  m1 = Mul(r1, k)
            c2 = Conv{SAME}(m1, w2)
            y = Transpose<perm=[0,2,3,1]>(c2)
        }}""",
        {"w0": filters(0, 4, 3, 3, 3), "w1": filters(1, 4, 4, 3, 3), "w2": filters(2, 4, 4, 3, 3)},
    )
    return model, {"x": np.ascontiguousarray(X.transpose(0, 2, 3, 1))}


def odd_cuts() -> tuple[onnx.ModelProto, Feeds]:
    """What is kept is not only (N, ...): a shape, a number, and channels in front of the samples."""
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
            shape = Shape(x)  mean = ReduceMean<keepdims=0>(x)
            turned = Transpose<perm=[1,0,2,3]>(x)
            c0 = Conv{SAME}(x, w0)  r0 = Relu(c0)
            flat = Flatten(r0)  back = Reshape(flat, shape)  a = Mul(back, mean)
            c1 = Conv{SAME}(a, w1)  r1 = Relu(c1)
            again = Transpose<perm=[1,0,2,3]>(turned)  b = Add(r1, again)  d = Add(b, mean)
            y = Conv{SAME}(d, w2)
        }}""",
        {"w0": filters(0, 3, 3, 3, 3), "w1": filters(1, 3, 3, 3, 3), "w2": filters(2, 4, 3, 3, 3)},
    )
    return model, {"x": X}


NETWORKS = [odd_cuts, chain, residual, concatenation, two_inputs, captured, normalized_input_first]
Network = Callable[[], tuple[onnx.ModelProto, Feeds]]


def worse(layer: Layer) -> FactorChain:
    """A chain that does not quite do what the layer does."""
    generator = np.random.default_rng(layer.filters)
    mixing = np.eye(layer.filters) + 0.2 * generator.normal(size=(layer.filters, layer.filters))
    first = Convolution(layer.weight.astype(np.float64), None, layer.geometry)
    bias = layer.bias + 0.1 * generator.normal(size=layer.filters)
    axes = len(layer.kernel)
    second = Convolution(mixing.reshape(*mixing.shape, *[1] * axes), bias, pointwise(axes))
    return FactorChain((first, second), SolveErrors(0.0, 0.0))


def original_layer_on(layer: Layer, tensor: Array) -> Array:
    if layer.channels_last:
        rows = tensor.reshape(len(tensor), -1, layer.channels)
        return (rows @ layer.weight[:, :, 0].T + layer.bias).transpose(0, 2, 1)
    geometry = layer.geometry
    text = (
        f"g (float[N,c,h,w] x) => (float[N,d,f,g] y) {{ y = Conv<strides={list(geometry.strides)}, "
        f"pads={list(geometry.pads)}, dilations={list(geometry.dilations)}>(x, k, b) }}"
    )
    return run(build(text, {"k": layer.weight, "b": layer.bias}), {"x": tensor})["y"]


def split(feeds: Feeds, size: int) -> list[Feeds]:
    return [{name: value[first : first + size] for name, value in feeds.items()} for first in range(0, IMAGES, size)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("batch_size", "max_memory_bytes", "max_device_bytes"),
    [(2, 2**30, 0), (IMAGES, 2**30, 0), (2, 0, 0), (2, 5_000, 0), (2, 2**30, 2**30), (2, 2**30, 5_000), (2, 0, 5_000)],
)
def test_input_patches_are_those_of_a_full_run_of_the_converted_network(
    network: Network, batch_size: int, max_memory_bytes: int, max_device_bytes: int, provider: Provider
) -> None:
    """In memory, on the disk, where the network runs, or some here and some there."""
    if network in {captured, odd_cuts}:
        batch_size = IMAGES  # a mean over the batch decides
    model, feeds = network()
    layers, _ = find(model, feeds)
    positions = layer_positions(layers, IMAGES, 13, seed=4)
    propagation = Propagation(split(feeds, batch_size), positions, provider, max_memory_bytes, max_device_bytes)
    for number, layer in enumerate(layers):
        found = propagation.advance(model, layer, layers[number + 1 :])
        arrived = feeds.get(layer.input)
        if arrived is None:
            arrived = run(model, feeds, [layer.input])[layer.input]
        wanted = sampled(original_layer_on(layer, arrived), positions[layer.name])
        assert found.dtype == np.float32
        assert found.shape[1:] == layer.weight.shape[1:]
        rows = applied(layer, found[: len(found)].reshape(len(found), -1))
        np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=5e-6)
        replace_layer(model, layer, worse(layer))
    propagation.close()
    assert (propagation.cache.spilled_bytes > 0) == (max_memory_bytes < 2**30)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("every", [1, 2])
def test_every_node_runs_at_most_once(network: Network, every: int) -> None:
    """All in all the segments hold exactly the nodes before the last layer, each once, even if layers are left out."""
    model, feeds = network()
    layers = find(model, feeds)[0][::every]
    positions = layer_positions(layers, IMAGES, 2, seed=4)
    propagation = Propagation(split(feeds, IMAGES), positions, CPU, 2**30)
    for number, layer in enumerate(layers):
        propagation.advance(model, layer, layers[number + 1 :])
        replace_layer(model, layer, worse(layer))
    passed = {node.output[0] for layer in layers for node in ancestors(model, [layer.input], feeds.keys())}
    assert propagation.node_runs == len(passed) * IMAGES


@pytest.mark.parametrize("network", NETWORKS)
def test_a_segment_is_recomputing_is_faster_where_that_is_cheaper_than_the_disk(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut stays where it is; what arrives at the layers is the same to the bit."""
    model, feeds = network()
    layers, _ = find(model, feeds)
    positions = layer_positions(layers, IMAGES, 13, seed=4)

    def patches(max_memory_bytes: int, disk: float) -> tuple[list[Array], Propagation]:
        monkeypatch.setattr("onnx_lowrank.calibrate.propagate._DISK_BYTES_PER_SECOND", disk)
        converted = onnx.ModelProto()
        converted.CopyFrom(model)
        propagation, found = Propagation([feeds], positions, CPU, max_memory_bytes), []
        for number, layer in enumerate(layers):
            rows = propagation.advance(converted, layer, layers[number + 1 :])
            found.append(rows[: len(rows)])
            replace_layer(converted, layer, worse(layer))
        propagation.close()
        return found, propagation

    room = sum(value.nbytes for value in feeds.values())
    kept, all_once = patches(2**30, 1.0)
    again, recomputed = patches(room, 1.0)  # a byte a second
    spilled, from_disk = patches(room, 1e30)
    assert recomputed.cache.spilled_bytes == 0
    assert from_disk.node_runs == all_once.node_runs
    if network not in {odd_cuts, two_inputs}:  # where nothing that is kept is read again
        assert recomputed.node_runs > all_once.node_runs
        assert from_disk.cache.spilled_bytes > 0
    for one, two, three in zip(kept, again, spilled, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_running_again_against_the_disk() -> None:
    assert recomputing_is_faster(500_000_000, 0, 1.9)  # a second to write, one to read
    assert not recomputing_is_faster(500_000_000, 0, 2.1)
    assert not recomputing_is_faster(0, 0, 0.0)


def test_running_again_against_memory() -> None:
    assert recomputing_is_faster(0, 500_000_000, 0.9)
    assert not recomputing_is_faster(0, 500_000_000, 1.1)
    assert not recomputing_is_faster(500_000_000, -2_000_000_000, 2.1)
    assert recomputing_is_faster(500_000_000, 500_000_000, 2.9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("passes", "more"), [(0.1, False), (10.0, True)])
def test_no_more_is_recomputing_is_faster_to_save_memory_than_is_allowed(
    network: Network, passes: float, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_lowrank.calibrate.propagate._MEMORY_BYTES_PER_SECOND", 1e-3)
    monkeypatch.setattr("onnx_lowrank.calibrate.propagate._MAX_PASSES", passes)
    model, feeds = network()
    layers = find(model, feeds)[0]
    propagation = Propagation([feeds], layer_positions(layers, IMAGES, 2, seed=4), CPU, 2**30)
    passed = {node.output[0] for layer in layers for node in ancestors(model, [layer.input], feeds.keys())}
    for number, layer in enumerate(layers):
        propagation.advance(model, layer, layers[number + 1 :])
    # The two branches of that one are as large as what comes of them.
    assert (propagation.node_runs > len(passed) * IMAGES) == (more and network is not two_inputs)
    assert propagation.node_runs <= max(len(passed), passes * len(model.graph.node)) * IMAGES
    propagation.close()


def test_patches_stay_in_memory_within_the_bound_and_files_go_with_the_next_layer() -> None:
    model, feeds = chain()
    layers, _ = find(model, feeds)
    positions = layer_positions(layers, IMAGES, 13, seed=4)
    sizes = [positions[layer.name].size * layer.weight[0].nbytes for layer in layers]
    room = sum(value.nbytes for value in feeds.values()) + sizes[0]
    before = len(list(Path("/proc/self/fd").iterdir()))
    propagation = Propagation([feeds], positions, CPU, room)
    first = propagation.advance(model, layers[0], layers[1:])
    assert isinstance(first, np.ndarray)
    assert sizes[1] > sizes[0]
    second = propagation.advance(model, layers[1], layers[2:])
    assert isinstance(second, SpilledRows)
    third = propagation.advance(model, layers[2], ())
    with pytest.raises(ValueError, match="closed file"):
        second[:1]
    assert third[:1].shape == (1, 5, 3, 3)
    propagation.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_cuts_hold_what_the_way_ahead_reads_and_nothing_else() -> None:
    model, feeds = residual()
    layers, _ = find(model, feeds)
    propagation = Propagation([feeds], layer_positions(layers, IMAGES, 2, seed=4), CPU, 2**30)
    held = []
    for number, layer in enumerate(layers):
        propagation.advance(model, layer, layers[number + 1 :])
        held.append(set(propagation.cache.types))
        replace_layer(model, layer, worse(layer))
    # r0 is a residual of both sums, but the second sum lies behind the last layer and is never run.
    assert held == [{"x"}, {"r0"}, {"r0", "r1"}, {"r2"}]


def test_the_callers_batches_stay_as_they_are() -> None:
    model, feeds = chain()
    layers, _ = find(model, feeds)
    batches = [dict(feeds)]
    propagation = Propagation(batches, layer_positions(layers, IMAGES, 2, seed=4), CPU, 2**30)
    for number, layer in enumerate(layers):
        propagation.advance(model, layer, layers[number + 1 :])
    assert batches == [feeds]


def test_responses_that_become_infinite_are_reported() -> None:
    model, feeds = chain()
    layers, _ = find(model, feeds)
    propagation = Propagation([feeds], layer_positions(layers, IMAGES, 2, seed=4), CPU, 2**30)
    propagation.advance(model, layers[0], layers[1:])
    broken = worse(layers[0])
    huge = Convolution(broken.convolutions[1].weight * 1e38, broken.convolutions[1].bias, pointwise(2))
    replace_layer(model, layers[0], FactorChain((broken.convolutions[0], huge), broken.errors))
    with pytest.raises(
        CalibrationError, match="Conv 'c1': its input is NaN, infinite or beyond 1e.15 in the converted"
    ):
        propagation.advance(model, layers[1], layers[2:])
