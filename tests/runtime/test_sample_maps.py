"""Networks that have several maps of a sample on the first axis, against the same samples one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

import onnx_lowrank as olr
from onnx_lowrank.calibrate import collect_targets, layer_positions
from onnx_lowrank.calibrate.data.samples import iterate_batches
from onnx_lowrank.calibrate.propagate import Propagation
from onnx_lowrank.commands.inspect import inspect
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.pipeline import open_conversion
from onnx_lowrank.settings import Settings
from tests.helpers import CPU, Array, build, filters, normal, relative, run

SAMPLES, WIDTH = 10, 16
SETTINGS = Settings(provider="cpu", threads=1, samples=7, batch_size=3, positions=9, bench=False)
Case = tuple[onnx.ModelProto, dict[str, Array], int, int | None]


def views() -> Case:
    """Three views of a sample on the second axis, folded into the first: the maps of a sample lie together."""
    model = build(
        """g (float[N,3,4,8,8] x) => (float[N,30] y) {
            f = Reshape(x, fold)
            c = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            v = Reshape(p, back)
            y = MatMul(v, m)
        }""",
        {
            **{"fold": np.int64([-1, 4, 8, 8]), "w": filters(0, WIDTH, 4, 3, 3)},
            **{"back": np.int64([-1, 3 * WIDTH]), "m": normal(1, 3 * WIDTH, 30)},
        },
    )
    return model, {"x": normal(2, SAMPLES, 3, 4, 8, 8) * np.float32([1, 5, 25]).reshape(3, 1, 1, 1)}, 3, None


def pairs() -> Case:
    """Two inputs that share a trunk, one behind the other: the maps of a sample are half a batch apart."""
    model = build(
        f"""g (float[N,4,8,8] left, float[N,4,8,8] right) => (float[N,{WIDTH},8,8] y, float[N,{WIDTH},8,8] z) {{
            both = Concat<axis=0>(left, right)
            c = Conv<pads=[1,1,1,1]>(both, w)
            r = Relu(c)
            y, z = Split<axis=0>(r)
        }}""",
        {"w": filters(0, WIDTH, 4, 3, 3)},
        opset=11,
    )
    feeds = {"left": normal(2, SAMPLES, 4, 8, 8), "right": 9 * normal(3, SAMPLES, 4, 8, 8)}
    return model, feeds, 2, 64


def tiles() -> Case:
    """Rows of tiles before the samples, columns of tiles behind: two maps lie together, twice, half a batch apart."""
    model = build(
        f"""g (float[N,4,12,8] x) => (float[T,{WIDTH},6,4] y) {{
            parts = Reshape(x, split)
            moved = Transpose<perm=[2,0,4,1,3,5]>(parts)
            f = Reshape(moved, fold)
            y = Conv<pads=[1,1,1,1]>(f, w)
        }}""",
        {
            **{"split": np.int64([-1, 4, 2, 6, 2, 4]), "fold": np.int64([-1, 4, 6, 4])},
            "w": filters(0, WIDTH, 4, 3, 3),
        },
    )
    return model, {"x": normal(2, SAMPLES, 4, 12, 8)}, 4, 2 * 24


def frames() -> Case:
    """Frames before the samples, 1-D convolution, then a fully connected layer on rows of both."""
    model = build(
        f"""g (float[N,3,5,9] x) => (float[M,7,{WIDTH}] y) {{
            t = Transpose<perm=[1,0,3,2]>(x)
            f = Reshape(t, fold)
            c = Conv(f, w)
            r = Relu(c)
            h = Transpose<perm=[0,2,1]>(r)
            y = MatMul(h, m)
        }}""",
        {"fold": np.int64([-1, 9, 5]), "w": filters(0, 20, 9, 3, 1)[..., 0], "m": normal(1, 20, WIDTH)},
        opset=20,
    )
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    return model, {"x": normal(2, SAMPLES, 3, 5, 9)}, 3, 3


CASES = [views, pairs, tiles, frames]


def rows_alone(model: onnx.ModelProto, feeds: dict[str, Array], layer: Layer, sample: int) -> Array:
    """The response of a sample that runs by itself, one row for every position of its maps: (rows, d)."""
    response = run(model, {name: values[[sample]] for name, values in feeds.items()}, [layer.response])[layer.response]
    channels = response if layer.channels_last else np.moveaxis(response, 1, -1)
    return channels.reshape(-1, layer.filters)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_the_sample_whatever_the_batches(case: Callable[[], Case]) -> None:
    model, feeds, maps, run_length = case()
    network, layers, calibration = open_conversion(model, feeds, None, SETTINGS)
    first = layers.eligible[0]
    assert (first.maps, first.run) == (maps, run_length)
    indices = calibration.split.calibration
    assert (calibration.split.batch_size, len(indices)) == (3, 7)  # batches of 3, 3 and 1
    every = layers.eligible
    positions = layer_positions(every, len(indices), 9, seed=1)
    batches = list(iterate_batches(calibration.samples, indices, 3))
    targets = collect_targets(network.model, every, positions, batches, CPU)
    propagation = Propagation(batches, positions, CPU, 10**9)
    for number, layer in enumerate(every):
        alone = [rows_alone(model, feeds, layer, sample) for sample in indices]
        assert all(len(rows) == layer.rows for rows in alone)
        wanted = np.concatenate([rows[drawn] for rows, drawn in zip(alone, positions[layer.name], strict=True)])
        np.testing.assert_allclose(targets[layer.name].responses, wanted, atol=1e-4)
        patches = np.asarray(propagation.advance(network.model, layer, every[number + 1 :]))
        product = patches.reshape(len(patches), -1) @ layer.weight.reshape(layer.filters, -1).T
        np.testing.assert_allclose(product, wanted, atol=1e-4)
    propagation.close()


@pytest.mark.parametrize("case", CASES)
def test_positions_are_drawn_from_all_maps(case: Callable[[], Case]) -> None:
    model, feeds, maps, _ = case()
    _, layers, calibration = open_conversion(model, feeds, None, replace(SETTINGS, positions=40))
    layer = layers.eligible[0]
    drawn = calibration.positions[layer.name]
    size = layer.rows // maps
    assert set((drawn // size).ravel()) == set(range(maps))


@pytest.mark.parametrize("case", CASES)
def test_multiply_adds_are_those_of_a_sample(case: Callable[[], Case]) -> None:
    model, feeds, _, _ = case()
    _, layers, _ = open_conversion(model, feeds, None, SETTINGS)
    layer = layers.eligible[0]
    assert layer.macs == len(rows_alone(model, feeds, layer, 0)) * layer.weight.size
    assert {row.name: row.macs for row in inspect(model).rows} == {row.name: row.macs for row in layers.every}


@pytest.mark.parametrize("case", CASES)
def test_full_rank_reproduces_the_original(case: Callable[[], Case]) -> None:
    model, feeds, _, _ = case()
    _, layers, _ = open_conversion(model, feeds, None, SETTINGS)
    layer = layers.eligible[0]
    plan = RankPlan((LayerPlan(layer.name, "channel", channel=layer.filters),))
    converted = olr.convert(model, feeds, replace(SETTINGS, plan=plan, include=(layer.name,))).model
    fresh = {name: normal(9, *values.shape) for name, values in feeds.items()}
    for wanted, found in zip(run(model, fresh).values(), run(converted, fresh).values(), strict=True):
        assert relative(wanted, found) < 1e-4


def test_a_fixed_batch_of_pairs_is_told_apart_too() -> None:
    model, feeds, _, _ = pairs()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 5
    _, layers, _ = open_conversion(model, feeds, None, replace(SETTINGS, samples=5, batch_size=None))
    assert [(layer.maps, layer.run) for layer in layers.eligible] == [(2, 64)]


# Maps that are not those of the samples


def still_branch() -> onnx.ModelProto:
    """A branch that sees only the first sample of a batch, added to one that sees all."""
    return build(
        f"""g (float[N,4,8,8] x) => (float[N,{WIDTH},8,8] y) {{
            first = Slice(x, begin, end)
            a = Conv<pads=[1,1,1,1]>(first, w)
            b = Conv<pads=[1,1,1,1]>(x, v)
            s = Add(b, a)
            y = Relu(s)
        }}""",
        {
            **{"begin": np.int64([0]), "end": np.int64([1])},
            **{"w": filters(0, WIDTH, 4, 3, 3), "v": filters(1, WIDTH, 4, 3, 3)},
        },
    )


def test_maps_that_do_not_grow_with_the_batch() -> None:
    _, layers, _ = open_conversion(still_branch(), {"x": normal(0, SAMPLES, 4, 8, 8)}, None, SETTINGS)
    reason = "its batch is not that of the samples: 1 maps for one sample and for two"
    assert [(layer.name, layer.reason) for layer in layers.skipped] == [("a", reason)]
    # What is added is not there for every sample: the sum is solved as the response alone.
    assert [(layer.name, layer.residual, layer.activation.name) for layer in layers.eligible] == [
        ("b", None, "identity")
    ]
    assert [getattr(row, "reason", None) for row in inspect(still_branch()).rows] == [reason, None]


def test_samples_of_a_fixed_batch_joined_in_one_map() -> None:
    model = build(
        f"""g (float[2,3,8,8] x) => (float[1,{WIDTH},8,8] y, float[2,{WIDTH},8,8] z) {{
            j = Reshape(x, shape)
            y = Conv<pads=[1,1,1,1]>(j, w)
            z = Conv<pads=[1,1,1,1]>(x, v)
        }}""",
        {"shape": np.int64([1, 6, 8, 8]), "w": filters(0, WIDTH, 6, 3, 3), "v": filters(1, WIDTH, 3, 3, 3)},
    )
    (skipped,) = open_conversion(model, {"x": normal(0, SAMPLES, 3, 8, 8)}, None, replace(SETTINGS, samples=6))[
        1
    ].skipped
    assert (skipped.name, skipped.reason) == (
        "y", "its batch is not that of the samples: it has 1 maps for 2 samples",
    )  # fmt: skip
    assert skipped.macs == 64 * WIDTH * 6 * 9 // 2


# As many maps as the values of a sample say


def crops(threshold: float, call: str = "Conv<pads=[1,1,1,1]>") -> onnx.ModelProto:
    """A convolution on those of four quarters of an image that are bright enough."""
    return build(
        f"""g (float[1,4,16,16] x) => (float[1,{WIDTH},16,16] y, float[K,{WIDTH},h,v] z) {{
            y = Conv<pads=[1,1,1,1]>(x, w)
            parts = Reshape(y, split)
            mean = ReduceMean<axes=[1,2,3], keepdims=0>(parts)
            bright = Greater(mean, limit)
            chosen = Compress<axis=0>(parts, bright)
            c = {call}(chosen, v)
            z = Relu(c)
        }}""",
        {
            **{"w": filters(0, WIDTH, 4, 3, 3), "v": filters(1, WIDTH, WIDTH, 3, 3)},
            **{"split": np.int64([4, WIDTH, 4, 16]), "limit": np.float32(threshold)},
        },
    )


@pytest.mark.parametrize("call", ["Conv<pads=[1,1,1,1]>", "ConvTranspose<strides=[2,2]>"])
def test_a_number_that_varies_is_said_and_counted(call: str) -> None:
    model, x = crops(0.0, call), normal(0, 60, 4, 16, 16)
    network, layers, calibration = open_conversion(
        model, {"x": x}, None, replace(SETTINGS, samples=40, batch_size=None)
    )
    counts = [len(run(model, {"x": x[[sample]]})["z"]) for sample in calibration.split.calibration]
    (skipped,) = layers.skipped
    assert skipped.reason == (
        f"{min(counts)} to {max(counts)} maps from sample to sample: only a constant number is factorized"
    )
    assert min(counts) < max(counts)
    assert skipped.macs == round(np.mean(counts) * 64 * WIDTH * WIDTH * 9)
    assert network.name == "<model>"


def test_without_data_the_number_is_not_known() -> None:
    first, second = inspect(crops(0.0)).rows
    assert isinstance(first, Layer)
    assert not isinstance(second, Layer)
    assert second.reason.startswith("as many rows as the values of the input say")


def test_a_number_that_happens_to_be_constant() -> None:
    _, layers, _ = open_conversion(
        crops(-9.0), {"x": normal(0, 20, 4, 16, 16)}, None, replace(SETTINGS, batch_size=None)
    )
    assert [(layer.name, layer.maps) for layer in layers.eligible] == [("y", 1), ("c", 4)]


def test_nothing_found_on_any_sample(caplog: pytest.LogCaptureFixture) -> None:
    x = normal(0, 40, 4, 16, 16)
    result = olr.convert(
        crops(9.0), {"x": x}, Settings(provider="cpu", threads=1, samples=30, speedup=1.5, bench=False)
    )
    assert result.report.verification is not None
    assert list(result.report.verification["outputs"]) == ["y"]
    assert "output 'z': it has no rows on any of 10 images: it is not compared" in caplog.text
    assert [row.reason for row in result.report.layers if row.name == "c"] == [
        "no maps in any of 30 samples: nothing to solve it with"
    ]


def test_a_tap_that_fails_is_not_blamed_on_the_network() -> None:
    model = crops(0.0)
    network, layers, calibration = open_conversion(
        crops(-9.0), {"x": normal(0, 20, 4, 16, 16)}, None, replace(SETTINGS, batch_size=None)
    )
    positions = layer_positions(layers.eligible, 7, 200, seed=0)
    batches = calibration.one_by_one()
    with pytest.raises(CalibrationError, match=r"^Conv 'c': the rows that calibration gathers from it are not there"):
        collect_targets(model, layers.eligible, positions, batches, network.provider)


# Networks whose batch is open by name only


def frozen(shape: list[int]) -> onnx.ModelProto:
    return build(
        """g (float[N,4,8,8] x) => (float[N,M] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            y = Reshape(p, shape)
        }""",
        {"w": filters(0, WIDTH, 4, 3, 3), "shape": np.int64(shape)},
    )


@pytest.mark.parametrize("shape", [[1, WIDTH], [1, -1]])
def test_a_batch_frozen_behind_the_last_layer(shape: list[int], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    x = normal(0, 40, 4, 8, 8)
    settings = Settings(provider="cpu", threads=1, samples=30, speedup=1.5, bench=False)
    result = olr.convert(frozen(shape), {"x": x}, settings)
    assert "the network takes one sample at a time, although its inputs say otherwise" in caplog.text
    assert result.report.verification is not None
    whole = olr.compare(frozen(shape), result.model, {"x": x})
    one = [
        [run(model, {"x": x[[sample]]})["y"].argmax() for sample in range(40)]
        for model in (frozen(shape), result.model)
    ]
    assert whole.outputs["y"].agreement == np.mean(np.equal(*one))
