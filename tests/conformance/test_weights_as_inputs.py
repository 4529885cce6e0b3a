"""Networks whose weights are inputs, as training artifacts have them: said as such, and converted once constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_lowrank import compare, convert, inspect
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.layers.layer import Layer
from tests.command_line import fails, works
from tests.helpers import Array, build, filters, normal
from tests.networks import images, network

IMAGES, FRESH = images(60), images(20, seed=5)
QUICK: dict[str, Any] = {"bench": False, "rank_multiple": 1, "speedup": 1.5, "refine": "none"}
WEIGHTS = ("w1", "b1", "w2", "gamma", "beta", "mean", "variance", "w3", "f")


def with_inputs(model: onnx.ModelProto, *names: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with inputs in the places of initializers, and the values of these."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in names}
    assert values.keys() == set(names)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    have = {value.name for value in copy.graph.input}
    copy.graph.input.extend(
        helper.make_tensor_value_info(name, kinds[name], values[name].shape) for name in names if name not in have
    )
    return copy, values


def factors(model: onnx.ModelProto | None) -> dict[str, bytes]:
    assert model is not None
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer if "lowrank" in tensor.name}


def reasons(model: onnx.ModelProto, **options: Any) -> dict[str, str | None]:
    rows = inspect(model, **options).rows
    return {row.name: None if isinstance(row, Layer) else row.reason for row in rows}


def test_a_weight_that_is_an_input_is_the_reason_and_how_to_make_it_constant() -> None:
    model, values = with_inputs(network(), *WEIGHTS)
    assert reasons(model) == {
        "c1": "its weight and bias are inputs 'w1' and 'b1': make them constant with "
        "`constant_inputs={'w1': 'FILE', 'b1': 'FILE'}`",
        "c2": "its weight is input 'w2': make it constant with `constant_inputs={'w2': 'FILE'}`",
        "c3": "its weight is input 'w3': make it constant with `constant_inputs={'w3': 'FILE'}`",
        "scores": "its weight is input 'f': make it constant with `constant_inputs={'f': 'FILE'}`",
    }
    assert inspect(model).macs == inspect(network()).macs
    some = reasons(model, constant_inputs={"w1": values["w1"], "w2": values["w2"]})
    assert some["c1"] == "its bias is input 'b1': make it constant with `constant_inputs={'b1': 'FILE'}`"
    assert some["c2"] is None


def test_with_constants_it_is_converted_as_if_they_were_initializers(tmp_path: Path) -> None:
    model, values = with_inputs(network(), *WEIGHTS)
    result = convert(model, {"x": IMAGES}, constant_inputs=values, output=tmp_path / "out.onnx", **QUICK)
    wanted = convert(network(), {"x": IMAGES}, **QUICK)
    assert factors(result.model) == factors(wanted.model)
    assert factors(result.model)
    written = onnx.load(tmp_path / "out.onnx")
    assert [value.name for value in written.graph.input] == ["x"]
    expected = compare(network(), written, {"x": FRESH}).outputs["scores"]
    assert compare(model, written, {"x": FRESH, **values}, constant_inputs=values).outputs["scores"] == expected
    turned = compare(written, model, {"x": FRESH}, constant_inputs=values).outputs["scores"]
    assert turned.cosine == expected.cosine


@pytest.mark.parametrize("ir", [3, 8])
def test_defaults_of_inputs_are_constants(ir: int) -> None:
    text = "g (float[N,3,12,12] x) => (float[N,8,10,10] y) { c = Conv (x, w)  y = Relu (c) }"
    model = build(text, {"w": filters(0, 8, 3, 3, 3)}, ir=ir)
    if ir > 3:
        model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [8, 3, 3, 3]))
    assert reasons(model) == {"c": None}
    assert factors(convert(model, {"x": IMAGES}, **QUICK).model)


BEHIND = {
    "Transpose": ("t = Transpose <perm = [3, 2, 0, 1]> (w)  c = Conv (x, t)", filters(0, 3, 3, 3, 8)),
    "Reshape": ("t = Reshape (w, shape)  c = Conv (x, t)", filters(0, 8, 27, 1, 1)[..., 0, 0]),
    "DequantizeLinear": (
        "t = DequantizeLinear (w, s, z)  c = Conv (x, t)", (normal(0, 8, 3, 3, 3) * 40).astype(np.int8)
    ),
    "weight normalization": (
        "n = ReduceL2 <axes = [1, 2, 3]> (w)  u = Div (w, n)  c = Conv (x, u)", filters(0, 8, 3, 3, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("ir", [3, 8])
@pytest.mark.parametrize("kind", BEHIND)
def test_weights_that_are_computed_from_inputs(kind: str, ir: int) -> None:
    text, weight = BEHIND[kind]
    constants = {"shape": np.array([8, 3, 3, 3]), "s": np.float32(0.01), "z": np.int8(0), "w": weight}
    whole = build(f"g (float[N,3,12,12] x) => (float[N,8,10,10] y) {{ {text}  y = Relu (c) }}", constants, ir=ir)
    model, values = with_inputs(whole, "w")
    said = "its weight is computed from input 'w': make it constant with `constant_inputs={'w': 'FILE'}`"
    assert reasons(model) == {"c": said}
    result = convert(model, {"x": IMAGES}, constant_inputs=values, **QUICK)
    assert factors(result.model) == factors(convert(whole, {"x": IMAGES}, **QUICK).model)


def test_slopes_and_weights_that_bodies_read() -> None:
    body = """g (float[N,3,12,12] x, bool yes) => (float[N,8,10,10] y) {
        c = Conv (x, w)  a = PRelu (c, slope)
        y = If (yes) <
            then_branch = t () => (float[N,8,10,10] p) { p = Conv <pads = [1, 1, 1, 1]> (a, v) },
            else_branch = e () => (float[N,8,10,10] q) { q = Identity (a) }
        >
    }"""
    weights = {"w": filters(0, 8, 3, 3, 3), "slope": np.abs(normal(1, 8, 1, 1)), "v": filters(2, 8, 8, 3, 3)}
    whole = build(body, weights)
    model, values = with_inputs(whole, *weights)
    settings = QUICK | {"speedup": 1.05, "include": ["c"]}
    result = convert(model, {"x": IMAGES}, constant_inputs={**values, "yes": [1]}, **settings)
    wanted = convert(whole, {"x": IMAGES}, constant_inputs={"yes": [1]}, **settings)
    assert factors(result.model) == factors(wanted.model)
    assert result.report.layers[0].activation == "prelu"
    assert result.model is not None
    assert [value.name for value in result.model.graph.input] == ["x", "yes"]


def test_what_is_data_for_another_layer_is_no_weight() -> None:
    pair = "g (float[N,4,16] x, float[N,16,5] k) => (float[N,4,5] y) { s = MatMul (x, w)  y = MatMul (s, k) }"
    own = "g (float[N,16] x) => (float[N,N] y) { t = Transpose (x)  s = MatMul (x, w)  y = MatMul (s, t) }"
    for text in (pair, own):
        assert reasons(build(text, {"w": normal(0, 16, 16)})) == {
            "s": None,
            "y": "its weight is computed at run time",
        }


def test_data_that_hold_weights_say_how_to_make_them_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, values = with_inputs(network(), "w1", "b1")
    onnx.save(model, "in.onnx")
    np.savez("data.npz", x=IMAGES, **values)
    np.save("x.npy", IMAGES)
    np.save("b=1.npy", values["b1"])
    words = ("in.onnx", "out.onnx", "--speedup", "1.5", "--no-bench", "--quiet", "--force")
    assert fails(tmp_path, *words, "--data", "data.npz") == (
        "error: data: input 'w1' of shape (16, 3, 3, 3), 'b1' of shape (16,) found, which are weights of layers, "
        "samples are wanted: make them constant with --input w1=FILE --input b1=FILE, where FILE is the .npy or .npz "
        "that holds them"
    )
    assert fails(tmp_path, *words, "--data", "x.npy") == (
        "error: x.npy: data for one input, the model has x, w1, b1: pass --data NAME=PATH for each, .npz, or a "
        "constant where it is a weight of a layer: --input w1=FILE"
    )
    shown = " ".join(works("inspect", "in.onnx").stdout.split())
    assert "inputs 'w1' and 'b1': make them constant with --input w1=FILE --input b1=FILE c2" in shown
    constants = ("--input", "w1=data.npz", "--input", "b1=b=1.npy")
    wanted = factors(convert(network(), "x.npy", speedup=1.5, bench=False).model)
    for data in ("data.npz", "x.npy"):
        works(*words, "--data", data, *constants)
        assert factors(onnx.load("out.onnx")) == wanted
    works("compare", "in.onnx", "out.onnx", "--data", "x.npy", "--quiet", *constants)
    works("bench", "in.onnx", "out.onnx", "--rounds", "1", "--repeats", "1", *constants)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("none.npy", "none.npy: no such file: check the path"),
        ("a.csv", r"a.csv: one of .npy, .npz is wanted: save the array with numpy"),
        ("empty.npy", r"empty.npy: cannot be read \("),
        ("two.npz", "two.npz: holds a, b: an array named 'w1' is wanted: add it"),
        (filters(0, 3, 16, 3, 3), r"shape \(3, 16, 3, 3\) found, float32 of shape \[16, 3, 3, 3\] wanted"),
        (normal(0, 5), r", float32 of shape \[16, 3, 3, 3\] wanted: give one number for all, or every one"),
        (np.array(["a"]), "a found, float32 of shape"),
    ],
    ids=str,
)
def test_constants_that_do_not_fit(value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.npy").touch()
    np.savez("two.npz", a=IMAGES, b=IMAGES)
    model, _ = with_inputs(network(), "w1")
    with pytest.raises(ModelError, match=rf"`constant_inputs` w1: .*{message}"):
        inspect(model, constant_inputs={"w1": value})


def test_data_with_other_numbers_than_the_constant_are_refused() -> None:
    model, values = with_inputs(network(), "w1")
    with pytest.raises(CalibrationError, match=r"input 'w1': other numbers than its constant of shape \(16, 3, 3, 3\)"):
        convert(model, {"x": IMAGES, "w1": values["w1"] + 1}, constant_inputs=values, **QUICK)
