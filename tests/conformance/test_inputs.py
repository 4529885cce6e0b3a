"""What the inputs of networks in the wild are like: several, constant, of one sample only, of open size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank import bench, compare, convert, inspect
from onnx_lowrank.errors import CalibrationError, ModelError
from tests.command_line import call, works
from tests.helpers import add_initializers, build, filters, normal, relative, run
from tests.networks import images

Array = NDArray[Any]


def sized() -> onnx.ModelProto:
    """Scales its image by one input and its result to the size that another one says."""
    graph = """g (float[N, 3, 12, 12] x, int64[4] size, float[N, 1] factor) => (float[A, B, C, D] y) {
        f = Unsqueeze (factor, axes)
        s = Mul (x, f)
        c1 = Conv <pads = [1, 1, 1, 1]> (s, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        r2 = Relu (c2)
        y = Expand (r2, size)
    }"""
    weights = {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 16, 16, 3, 3), "axes": np.array([2, 3])}
    return build(graph, weights)


CONSTANTS = {"size": [1, 16, 12, 12], "factor": [0.5]}


def one_at_a_time() -> onnx.ModelProto:
    """Says that it takes any number of samples, and fails on two: its Reshape was exported with one."""
    graph = """g (float[N, 3, 12, 12] x) => (float[1, 5] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <strides = [2, 2]> (r1, w2)
        r2 = Relu (c2)
        p = GlobalAveragePool (r2)
        q = Reshape (p, shape)
        y = MatMul (q, f)
    }"""
    weights = {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 32, 16, 3, 3), "f": normal(2, 32, 5)}
    return build(graph, {**weights, "shape": np.array([1, 32])})


def all_in_one() -> onnx.ModelProto:
    """Runs on two samples, but takes them for one of twice the length."""
    graph = """g (float[N, 3, 24] x) => (float[1, 16, M] y) {
        c1 = Conv <pads = [1, 1]> (x, w1)
        r1 = Relu (c1)
        t = Transpose <perm = [1, 0, 2]> (r1)
        q = Reshape (t, shape)
        c2 = Conv <pads = [1, 1]> (q, w2)
        y = Relu (c2)
    }"""
    weights = {"w1": filters(0, 16, 3, 3, 1)[..., 0], "w2": filters(1, 16, 16, 3, 1)[..., 0]}
    return build(graph, {**weights, "shape": np.array([1, 16, -1])})


def factors(model: onnx.ModelProto | None) -> dict[str, Array]:
    """The solved weights of a converted model."""
    assert model is not None
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if "lowrank" in t.name}


def baked(model: onnx.ModelProto, values: dict[str, Array]) -> onnx.ModelProto:
    """The model with constants in the place of inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.input[:]
    copy.graph.input.extend(value for value in model.graph.input if value.name not in values)
    add_initializers(copy, values)
    return copy


def test_constant_inputs_are_fed_as_they_are() -> None:
    model, data = sized(), {"x": images(40)}
    result = convert(model, data, speedup=1.5, constant_inputs=CONSTANTS, bench=False, batch_size=1)
    constants = {"size": np.array([1, 16, 12, 12]), "factor": np.full((1, 1), 0.5, np.float32)}
    wanted = convert(baked(model, constants), data, speedup=1.5, bench=False, batch_size=1)
    assert result.report.verification == wanted.report.verification
    assert factors(result.model).keys() == factors(wanted.model).keys()
    for name, values in factors(wanted.model).items():
        np.testing.assert_array_equal(factors(result.model)[name], values)
    assert result.model is not None
    assert list(result.model.graph.input) == list(model.graph.input)
    assert inspect(model, constant_inputs=CONSTANTS).macs == 144 * (16 * 27 + 16 * 144)
    found = compare(model, result.model, data, constant_inputs=CONSTANTS, batch_size=1)
    assert found.images == 40
    sample = {"x": data["x"][:1], **constants}
    error = relative(run(model, sample)["y"], run(result.model, sample)["y"])
    assert found.outputs["y"].relative_error == pytest.approx(error, rel=0.5)
    assert bench([model], constant_inputs=CONSTANTS).models[0].inputs["factor"] == (1, 1)


def test_a_constant_is_repeated_over_a_batch() -> None:
    model = build(
        "g (float[N,3,12,12] x, float[N,3] shift) => (float[N,8,10,10] y)"
        "{ u = Unsqueeze(shift, axes)  s = Add(x, u)  c = Conv(s, w)  y = Relu(c) }",
        {"w": filters(0, 8, 3, 3, 3), "axes": np.array([2, 3])},
    )
    data, settings = {"x": images(30)}, {"speedup": 1.5, "bench": False, "rank_multiple": 1}
    result = convert(model, data, constant_inputs={"shift": [0.1, 0.2, 0.3]}, **settings)
    shifts = np.tile(np.float32([0.1, 0.2, 0.3]), (30, 1))
    wanted = convert(model, {**data, "shift": shifts}, **settings)
    for name, values in factors(wanted.model).items():
        np.testing.assert_array_equal(factors(result.model)[name], values)


def test_constants_on_the_command_line(tmp_path: Path) -> None:
    model, output, data = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "x.npy"
    onnx.save(sized(), model)
    np.save(data, images(40))
    constants = ("--input", "size=1,16,12,12", "--input", "factor=0.5")
    works(str(model), str(output), "--data", str(data), "--speedup", "2", "--no-bench", "--batch-size", "1", *constants)
    assert "2 of 2 layers" in works("inspect", str(model), *constants).stdout
    compared = works("compare", str(model), str(output), "--data", str(data), "--batch-size", "1", *constants)
    assert "images: 40" in compared.stdout
    assert "factor 1x1" in works("bench", str(model), "--rounds", "1", "--repeats", "1", *constants).stdout
    result = call("inspect", str(model), "--input", "size")
    assert result.exit_code == 2
    assert "'size' is not like NAME=1, NAME=640,640 or NAME=FILE.npy" in result.stderr


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"sise": [1]}, "`constant_inputs`: no input 'sise', the model has factor, size, x"),
        (
            {"size": [1, 2]},
            r"`constant_inputs` size: 1, 2 found, int64 of shape \[4\] wanted: give one number for all, or every",
        ),
        ({"size": [1, 16, 12, 12.5]}, "`constant_inputs` size: 1.0, 16.0, 12.0, 12.5 found, int64 of shape"),
        ({"x": [0], "size": [1], "factor": [1]}, "`constant_inputs`: all inputs are constant, at least one is wanted"),
    ],
)
def test_constants_that_do_not_fit(constants: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        inspect(sized(), constant_inputs=constants)


def test_a_missing_input_may_be_a_constant() -> None:
    with pytest.raises(
        CalibrationError, match="the model's inputs are factor, size, x: .* `constant_inputs={'NAME': VALUE}`"
    ):
        convert(sized(), {"x": images(8)})
    with pytest.raises(CalibrationError, match="the model has x, size, factor: .* `constant_inputs={'NAME': VALUE}`"):
        convert(sized(), Path("x.npy").resolve().parent)


@pytest.mark.parametrize(
    ("model", "data"),
    [(one_at_a_time(), images(40)), (all_in_one(), images(40, size=24)[:, :, 0])],
    ids=["fails on two", "mixes two"],
)
def test_networks_that_take_one_sample_at_a_time(
    model: onnx.ModelProto, data: Array, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="onnx_lowrank")
    result = convert(model, {"x": data}, speedup=1.8, bench=False, rank_multiple=1)
    assert "takes one sample at a time" in caplog.text
    # The same as with batches of one from the start.
    alone = convert(model, {"x": data}, speedup=1.8, bench=False, rank_multiple=1, batch_size=1)
    assert alone.model == result.model


def test_a_network_without_inputs() -> None:
    model = build(
        "g () => (float[1,2,3,3] y) { y = Conv(x, w) }", {"x": normal(0, 1, 2, 3, 3), "w": normal(1, 2, 2, 1, 1)}
    )
    with pytest.raises(ModelError, match="it has no inputs: there is nothing to feed samples to"):
        inspect(model)


def test_inputs_whose_number_of_axes_is_open() -> None:
    model = build("g (float[N,3,12,12] x) => (float[N,8,10,10] y) { y = Conv(x, w) }", {"w": filters(0, 8, 3, 3, 3)})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"input 'x' has no shape: pass `input_shapes={'x': \(1,3,224,224\)}`"):
        inspect(model)
    assert inspect(model, input_shapes={"": (1, 3, 12, 12)}).macs == 100 * 8 * 27
    result = convert(model, images(30), speedup=1.5, input_shapes={"x": (1, 3, 12, 12)}, bench=False, rank_multiple=1)
    assert result.report.speedup >= 1.5
