"""The operators of onnx2pytorch that networks have, against onnxruntime; what it lacks is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.torch import to_torch
from tests.helpers import build, normal
from tests.torch.oracle import assert_same, one_node

Array = NDArray[Any]
quickly = settings(deadline=None, max_examples=60)
X = normal(0, 2, 6, 5, 7)
SINGLE_ARGUMENT = (
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid"),
    *("HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"),
    *("Tanh", "Flatten", "Transpose", "Celu", "ThresholdedRelu", "Mish"),
)


@pytest.mark.parametrize("op", SINGLE_ARGUMENT)
def test_functions_of_one_tensor(op: str) -> None:
    assert_same(one_node(op, {"x": X}, opset=18), {"x": X})


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Elu", {"alpha": 0.3}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Celu", {"alpha": 0.3}),
        ("ThresholdedRelu", {"alpha": 0.3}),
        ("Selu", {"alpha": 1.2, "gamma": 0.7}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", {"alpha": 0.16, "beta": 0.5}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("Flatten", {"axis": 2}),
        ("Flatten", {"axis": 0}),
        ("Flatten", {"axis": -1}),
        ("Transpose", {"perm": [2, 0, 3, 1]}),
        ("DepthToSpace", {"blocksize": 1}),
        ("LRN", {"size": 3, "alpha": 0.1, "beta": 0.6, "bias": 2.0}),
        ("LpNormalization", {"axis": 1}),
    ],
    ids=str,
)
def test_their_attributes(op: str, attributes: dict[str, Any]) -> None:
    opset = 20 if op == "Gelu" else 17
    assert_same(one_node(op, {"x": X}, opset=opset, **attributes), {"x": X})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    x = normal(0, 2, 8, 4, 6)
    assert_same(one_node("DepthToSpace", {"x": x}, blocksize=2, mode=mode), {"x": x}, 0)
    assert_same(one_node("SpaceToDepth", {"x": x}, blocksize=2), {"x": x}, 0)


SHAPES = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((2, 3, 4), ()), ((2, 1, 4), (3, 1)), ((3, 1), (2, 1, 4))]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("held", [False, True], ids=["given", "held"])
def test_functions_of_two_tensors(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], held: bool) -> None:
    a, b = normal(0, *shapes[0]), np.asarray(1 + np.abs(normal(1, *shapes[1])), np.float32)
    given_, constants = ({"a": a}, {"b": b}) if held else ({"a": a, "b": b}, {})
    assert_same(one_node(op, given_, constants), given_)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((4,), (4, 5))], ids=str
)
def test_matrix_product(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (normal(seed, *shape) for seed, shape in enumerate(shapes))
    assert_same(one_node("MatMul", {"a": a}, {"b": b}), {"a": a})
    assert_same(one_node("MatMul", {"b": b}, {"a": a}, order=["a", "b"]), {"b": b})


@pytest.mark.parametrize("slope", [(6, 1, 1), (1,), (1, 6, 1, 1), ()], ids=str)
def test_leaky_slopes(slope: tuple[int, ...]) -> None:
    assert_same(one_node("PRelu", {"x": X}, {"slope": normal(1, *slope)}, order=["x", "slope"]), {"x": X})


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (0, None), (None, 0.5), (None, None)], ids=str)
@pytest.mark.parametrize("opset", [6, 11, 13])
def test_clip(bounds: tuple[float | None, float | None], opset: int) -> None:
    given_ = {name: each for name, each in zip(("min", "max"), bounds, strict=True) if each is not None}
    if opset == 6:
        model = one_node("Clip", {"x": X}, opset=opset, **{name: float(each) for name, each in given_.items()})
    else:
        order = ["x", *(name if name in given_ else "" for name in ("min", "max"))]
        numbers = {name: np.array(each, np.float32) for name, each in given_.items()}
        model = one_node("Clip", {"x": X}, numbers, opset=opset, order=order)
    assert_same(model, {"x": X}, 0)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("opset", [9, 11, 13])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op: str, opset: int, axis: int | None) -> None:
    assert_same(one_node(op, {"x": X}, opset=opset, **({} if axis is None else {"axis": axis})), {"x": X}, 2e-6)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_normalization(axis: int, biased: bool) -> None:
    shape = X.shape[axis:]
    numbers = {"scale": normal(1, *shape), **({"bias": normal(2, *shape)} if biased else {})}
    assert_same(one_node("LayerNormalization", {"x": X}, numbers, axis=axis, epsilon=1e-3), {"x": X}, 2e-6)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"])
@pytest.mark.parametrize("axes", [None, [1], [-1, 2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("keepdims", [None, 0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions(op: str, axes: list[int] | None, keepdims: int | None, opset: int) -> None:
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    attributes: dict[str, Any] = {} if keepdims is None else {"keepdims": keepdims}
    numbers = {"axes": np.array(axes)} if axes is not None and as_input else {}
    if axes is not None and not as_input:
        attributes["axes"] = axes
    assert_same(one_node(op, {"x": X}, numbers, opset=opset, **attributes), {"x": X}, 2e-6)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_reductions_over_no_axes(op: str) -> None:
    none = {"axes": np.zeros(0, np.int64)}
    assert_same(one_node(op, {"x": X}, opset=18, noop_with_empty_axes=1), {"x": X}, 0)
    assert_same(one_node(op, {"x": X}, none, opset=18), {"x": X}, 2e-6)
    assert_same(one_node(op, {"x": X}, none, opset=18, noop_with_empty_axes=1), {"x": X}, 0)


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[int], dict[str, Any]]:
    """The shape of an input, the attributes of a pool."""
    axes = draw(st.integers(1, 3))
    per_axis = lambda least, most, count=axes: draw(  # noqa: E731
        st.lists(st.integers(least, most), min_size=count, max_size=count)
    )
    kernel = per_axis(1, 4)
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if draw(st.booleans()):
        attributes["strides"] = per_axis(1, 3)
    if draw(st.booleans()):
        attributes["ceil_mode"] = draw(st.sampled_from([0, 1]))
    kind = draw(st.sampled_from([None, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if kind is not None:
        attributes["auto_pad"] = kind
    if kind in {None, "NOTSET"} and draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, kernel[i % axes] // 2)) for i in range(2 * axes)]
    if kind in {"SAME_UPPER", "SAME_LOWER"}:  # onnxruntime wants every number to be in a window then
        attributes["strides"] = [min(each) for each in zip(attributes.get("strides", kernel), kernel, strict=True)]
    return [2, 3, *per_axis(5, 9)], attributes


@quickly
@given(pools(), st.sampled_from([None, 0, 1]))
def test_average_pool(case: tuple[list[int], dict[str, Any]], counted: int | None) -> None:
    shape, attributes = case
    x = normal(0, *shape)
    if counted is not None:
        attributes["count_include_pad"] = counted
    assert_same(one_node("AveragePool", {"x": x}, opset=19, **attributes), {"x": x})


@quickly
@given(pools(), st.booleans())
def test_maximum_pool(case: tuple[list[int], dict[str, Any]], dilated: bool) -> None:
    shape, attributes = case
    x = normal(0, *shape)
    if dilated and not attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        attributes["dilations"] = [2 if size > 8 else 1 for size in x.shape[2:]]
    assert_same(one_node("MaxPool", {"x": x}, opset=19, **attributes), {"x": x}, 0)


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_pools_whose_windows_are_mostly_padding(op: str) -> None:
    """PyTorch's own pools end at half a window; where both sides have more, there is no way but to say so."""
    x = normal(0, 2, 3, 8)
    assert_same(one_node(op, {"x": x}, opset=19, kernel_shape=[4], pads=[3, 0]), {"x": x})
    both = to_torch(one_node(op, {"x": x}, opset=19, kernel_shape=[4], pads=[3, 3]))
    with pytest.raises(RuntimeError, match="pad should be at most half") as caught:
        both(torch.from_numpy(x))
    assert caught.value.__notes__ == [f"in {op} 'only'"]


@quickly
@given(st.lists(st.integers(0, 3), min_size=8, max_size=8), st.sampled_from([2, 11, 13, 18]), st.booleans())
def test_pad_with_a_number(pads: list[int], opset: int, zero: bool) -> None:
    if opset == 2:
        model = one_node("Pad", {"x": X}, opset=opset, pads=pads, **({} if zero else {"value": 1.5}))
    else:
        numbers = {"pads": np.array(pads), **({} if zero else {"value": np.array(1.5, np.float32)})}
        model = one_node("Pad", {"x": X}, numbers, opset=opset, mode="constant")
    assert_same(model, {"x": X}, 0)


@pytest.mark.parametrize("mode", ["edge", "reflect"])
@pytest.mark.parametrize("pads", [(0, 0, 2, 1, 0, 0, 0, 3), (0, 0, 0, 1, 0, 0, 0, 0)], ids=str)
def test_pad_with_what_is_there(mode: str, pads: tuple[int, ...]) -> None:
    assert_same(one_node("Pad", {"x": X}, {"pads": np.array(pads)}, mode=mode), {"x": X}, 0)


def test_pad_of_some_axes() -> None:
    numbers = {"pads": np.array([1, 2, 3, 0]), "axes": np.array([3, -2])}
    model = one_node("Pad", {"x": X}, numbers, opset=18, order=["x", "pads", "", "axes"])
    assert_same(model, {"x": X}, 0)


def test_pad_that_takes_away() -> None:
    assert_same(one_node("Pad", {"x": X}, {"pads": np.array([0, -1, 0, 1, 0, -2, -1, -3])}), {"x": X}, 0)


@pytest.mark.parametrize("axis", [1, -1, None])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split(opset: int, axis: int | None) -> None:
    x = normal(0, 6, 6, 6)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    if opset == 11:
        assert_same(one_node("Split", {"x": x}, opset=opset, outputs=2, split=[2, 4], **attributes), {"x": x}, 0)
    else:
        numbers = {"parts": np.array([2, 4])}
        assert_same(one_node("Split", {"x": x}, numbers, opset=opset, outputs=2, **attributes), {"x": x}, 0)
    if opset == 18:
        attributes["num_outputs"] = 3
    assert_same(one_node("Split", {"x": x}, opset=opset, outputs=3, **attributes), {"x": x}, 0)


@pytest.mark.parametrize("opset", [13, 18])
def test_an_even_split_of_one_size_after_another(opset: int) -> None:
    """What the first input was like must not stay."""
    x = normal(0, 6, 8)
    more = {"num_outputs": 2} if opset == 18 else {}
    model = one_node("Split", {"x": x}, opset=opset, outputs=2, axis=1, **more)
    module = to_torch(model)
    for size in (8, 4, 10):
        assert_same(model, {"x": normal(1, 6, size)}, 0, module)


def test_an_uneven_split_leaves_less_to_the_last() -> None:
    x = normal(0, 7, 2)
    assert_same(one_node("Split", {"x": x}, opset=18, outputs=3, num_outputs=3), {"x": x}, 0)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axes", [[0], [1, -1], [2, 0]], ids=str)
def test_unsqueeze_and_squeeze(opset: int, axes: list[int]) -> None:
    x = normal(0, 3, 4)
    wide = np.expand_dims(x, tuple(axes))
    for op, values in (("Unsqueeze", x), ("Squeeze", wide)):
        numbers, attributes = ({"axes": np.array(axes)}, {}) if opset == 13 else ({}, {"axes": axes})
        assert_same(one_node(op, {"x": values}, numbers, opset=opset, **attributes), {"x": values}, 0)
    assert_same(one_node("Squeeze", {"x": wide}, opset=opset), {"x": wide}, 0)


@pytest.mark.parametrize("shape", [[2, -1], [0, -1, 7], [0, 0, 35], [420]], ids=str)
def test_reshape(shape: list[int]) -> None:
    assert_same(one_node("Reshape", {"x": X}, {"shape": np.array(shape)}), {"x": X}, 0)


def test_reshape_to_nothing() -> None:
    x = np.zeros((0, 3), np.float32)
    assert_same(one_node("Reshape", {"x": x}, {"shape": np.array([3, 0])}, allowzero=1), {"x": x}, 0)


@pytest.mark.parametrize("opset", [7, 12, 13])
def test_dropout_does_nothing_until_training(opset: int) -> None:
    numbers = {} if opset == 7 else {"ratio": np.array(0.5, np.float32)}
    attributes = {"ratio": 0.5} if opset == 7 else {}
    assert_same(one_node("Dropout", {"x": X}, numbers, opset=opset, **attributes), {"x": X}, 0)


def test_expand_and_tile() -> None:
    x = normal(0, 3, 1)
    assert_same(one_node("Expand", {"x": x}, {"shape": np.array([2, 1, 4])}), {"x": x}, 0)
    assert_same(one_node("Tile", {"x": x}, {"repeats": np.array([2, 3])}), {"x": x}, 0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_with_constants(axis: int) -> None:
    x = normal(0, 3, 3)
    assert_same(one_node("Concat", {"x": x}, {"a": normal(1, 3, 3), "b": normal(2, 3, 3)}, axis=axis), {"x": x}, 0)


def test_where_and_comparisons() -> None:
    model = build(
        "g (float[N,4] x) => (float[N,4] y) { positive = Greater (x, zero)  y = Where (positive, x, other) }",
        {"zero": np.float32(0), "other": normal(1, 4)},
    )
    assert_same(model, {"x": normal(0, 3, 4)}, 0)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = normal(0, 5, 2, 3)
    weights = {"w": normal(1, 1, gates * 4, 3), "r": normal(2, 1, gates * 4, 4), "b": normal(3, 1, gates * 8)}
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    assert_same(one_node(op, {"x": x}, weights, hidden_size=4, **more), {"x": x}, 2e-6)
