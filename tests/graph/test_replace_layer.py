"""A layer replaced by a chain that does exactly the same: the network must not notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import find_layers, replace_layer
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Geometry, Layer
from tests.helpers import Array, build, filters, find, normal, relative, run

POINTWISE = Geometry((1, 1), (1, 1), (0, 0, 0, 0))
ERRORS = SolveErrors(0.0, 0.0)
X = normal(1, 3, 3, 8, 7)


def same(layer: Layer, seed: int = 0) -> FactorChain:
    """A chain of full rank with the layer's own map: an orthogonal mixing, then its inverse."""
    mixing, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(layer.filters, layer.filters)))
    weight = layer.weight.astype(np.float64)
    first = Convolution(np.tensordot(mixing, weight, 1), None, layer.geometry)
    bias = layer.bias.astype(np.float64)
    return FactorChain((first, Convolution(mixing.T[:, :, None, None], bias, POINTWISE)), ERRORS)


def replaced(model: onnx.ModelProto, x: Array = X) -> onnx.ModelProto:
    """A copy with all its layers replaced."""
    layers, _ = find(model, {"x": x})
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    for layer in layers:
        replace_layer(converted, layer, same(layer))
    onnx.checker.check_model(converted, full_check=True)
    return converted


def check_same(model: onnx.ModelProto, x: Array = X) -> onnx.ModelProto:
    converted = replaced(model, x)
    before, after = run(model, {"x": x}), run(converted, {"x": x})
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert relative(value, after[name]) < 2e-6
    return converted


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def simple(**options: Any) -> onnx.ModelProto:
    model = build(
        "g (float[N,3,8,7] x) => (float[N,5,8,7] y) { c = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(c) }",
        {"w": filters(0, 5, 3, 3, 3), "b": normal(2, 5)},
        **options,
    )
    model.graph.node[0].name = "features.0"
    return model


def test_one_node_becomes_two_between_the_same_tensors() -> None:
    converted = check_same(simple())
    first, second, relu = converted.graph.node
    assert (first.op_type, first.name) == ("Conv", "features.0/lowrank_0")
    assert (second.op_type, second.name) == ("Conv", "features.0/lowrank_1")
    assert first.input[0] == "x"
    assert list(first.output) == [second.input[0]] == ["features.0/lowrank_0/output"]
    assert list(second.output) == list(relu.input) == ["c"]
    assert [len(node.input) for node in (first, second)] == [2, 3]
    weights = initializers(converted)
    assert {name: value.shape for name, value in weights.items()} == {
        "features.0/lowrank_0/weight": (5, 3, 3, 3),
        "features.0/lowrank_1/weight": (5, 5, 1, 1),
        "features.0/lowrank_1/bias": (5,),
    }
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


def test_three_convolutions() -> None:
    model = simple()
    (layer,), _ = find(model, {"x": X})
    two = same(layer)
    identity = Convolution(np.eye(5)[:, :, None, None], None, POINTWISE)
    replace_layer(model, layer, FactorChain((two.convolutions[0], identity, two.convolutions[1]), ERRORS))
    assert [node.name.rpartition("/")[2] for node in model.graph.node] == ["lowrank_0", "lowrank_1", "lowrank_2", ""]
    assert relative(run(simple(), {"x": X})["y"], run(model, {"x": X})["y"]) < 2e-6


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides = data.draw(pair), data.draw(pair)
    place = data.draw(st.sampled_from(["pads", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    dilations = (1, 1) if place.startswith("SAME") else data.draw(pair)
    pads = list(data.draw(st.tuples(*[st.integers(0, 2)] * 4)))
    padding = f"pads={pads}" if place == "pads" else f'auto_pad="{place}"'
    bias = data.draw(st.booleans())
    model = build(
        f"g (float[N,3,8,7] x) => (float[N,d,e,f] y) "
        f"{{ y = Conv<{padding}, strides={list(strides)}, dilations={list(dilations)}>(x, w{', b' if bias else ''}) }}",
        {"w": filters(0, 4, 3, *kernel)} | ({"b": normal(1, 4)} if bias else {}),
        opset=data.draw(st.sampled_from([7, 11, 13, 17, 21])),
    )
    check_same(model)


def test_what_was_folded_goes_with_the_node() -> None:
    model = build(
        """g (float[N,3,8,7] x) => (float[N,5,8,7] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            n = BatchNormalization(c, gamma, beta, mean, var)
            k = Unsqueeze(v, axes)
            a = Add(n, k)
            y = Relu(a)
        }""",
        {
            **{"w": filters(0, 5, 3, 3, 3), "gamma": normal(1, 5), "beta": normal(2, 5), "mean": normal(3, 5)},
            **{"var": normal(4, 5) ** 2, "v": normal(5, 5), "axes": np.array([1, 2])},
        },
    )
    converted = check_same(model)
    assert [node.op_type for node in converted.graph.node] == ["Conv", "Conv", "Relu"]
    assert set(initializers(converted)) == {"c/lowrank_0/weight", "c/lowrank_1/weight", "c/lowrank_1/bias"}


def test_shapes_noted_for_tensors_that_are_gone_go_too() -> None:
    model = build(
        """g (float[N,3,8,7] x) => (float[N,5,8,7] y) {
            k = Identity(w)
            c = Conv<pads=[1,1,1,1]>(x, k)
            n = BatchNormalization(c, gamma, beta, mean, var)
            y = Relu(n)
        }""",
        {
            **{"w": filters(0, 5, 3, 3, 3), "gamma": normal(1, 5), "beta": normal(2, 5), "mean": normal(3, 5)},
            "var": normal(4, 5) ** 2,
        },
    )
    inferred = onnx.shape_inference.infer_shapes(model)
    assert {value.name for value in inferred.graph.value_info} == {"k", "c", "n"}
    assert {value.name for value in check_same(inferred).graph.value_info} == {"n"}


def test_weights_behind_nodes_go_with_them() -> None:
    model = build(
        "g (float[N,3,8,7] x) => (float[N,5,6,5] y) "
        "{ h = Cast<to=1>(w) t = Transpose<perm=[1,0,2,3]>(h) y = Conv(x, t) }",
        {"w": filters(0, 3, 5, 3, 3, np.float16)},
    )
    converted = check_same(model)
    assert [node.op_type for node in converted.graph.node] == ["Conv", "Conv"]


def test_shared_weights_are_neither_edited_nor_lost() -> None:
    model = build(
        """g (float[N,3,8,7] x) => (float[N,3,8,7] y, float[3,3,3,3] z) {
            a = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(a)
            c = Conv<pads=[1,1,1,1], group=1>(r, w)  s = Relu(c)
            d = Conv<pads=[1,1,1,1], group=3>(s, v, b)
            y = Relu(d)
            z = Neg(w)
        }""",
        {"w": filters(0, 3, 3, 3, 3), "v": filters(1, 3, 1, 3, 3), "b": normal(2, 3)},
    )
    before = initializers(model)
    after = initializers(check_same(model))
    for name in ("w", "v", "b"):
        np.testing.assert_array_equal(after[name], before[name])


def test_initializers_nobody_read_before_stay() -> None:
    model = simple()
    model.graph.initializer.append(numpy_helper.from_array(normal(0, 2), "unused"))
    assert "unused" in initializers(check_same(model))


def test_before_ir_version_4_new_weights_are_inputs_and_old_ones_no_longer() -> None:
    converted = check_same(simple(opset=8, ir=3))
    assert converted.ir_version == 3
    names = [value.name for value in converted.graph.input]
    assert names == ["x", *initializers(converted)]


def test_all_else_stays_byte_for_byte() -> None:
    model = simple(opset=14, ir=7)
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "1.2", "org", 42
    model.doc_string = "text"
    model.metadata_props.add(key="author", value="me")
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 3))
    converted = check_same(model)
    for each in (model, converted):
        del each.graph.node[:]
        del each.graph.initializer[:]
    assert converted.SerializeToString() == model.SerializeToString()


def test_nodes_stay_in_topological_order_where_folded_nodes_are_far_apart() -> None:
    model = build(
        """g (float[N,3,8,7] x) => (float[N,5,8,7] y, float[N,3,8,7] z) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            z = Neg(x)
            e = Exp(z)
            n = BatchNormalization(c, gamma, beta, mean, var)
            m = ReduceMean<axes=[1]>(e)
            y = Mul(n, m)
        }""",
        {
            **{"w": filters(0, 5, 3, 3, 3), "gamma": normal(1, 5), "beta": normal(2, 5), "mean": normal(3, 5)},
            "var": normal(4, 5) ** 2,
        },
    )
    check_same(model)


@pytest.mark.parametrize("names", [("", ""), ("b", ""), ("a", "a/lowrank_0")])
def test_names_that_are_missing_or_taken(names: tuple[str, str]) -> None:
    model = build(
        """g (float[N,3,8,7] x) => (float[N,3,8,7] c) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, v)
        }""",
        {"w": filters(0, 3, 3, 3, 3), "v": filters(1, 3, 3, 3, 3)},
    )
    model.graph.node[0].name, model.graph.node[2].name = names
    converted = check_same(model)
    made = [node.name for node in converted.graph.node if node.op_type == "Conv"]
    assert len(set(made)) == 4
    assert len(initializers(converted)) == 6


def test_weight_names_that_are_taken() -> None:
    model = simple()
    taken = {"features.0/lowrank_0/weight": normal(3, 5, 1, 1), "features.0/lowrank_1/bias": normal(4, 5, 1, 1)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in taken.items())
    del model.graph.node[1]
    model.graph.node.extend(
        [
            onnx.helper.make_node("Max", ["c", "features.0/lowrank_0/weight"], ["d"]),
            onnx.helper.make_node("Max", ["d", "features.0/lowrank_1/bias"], ["y"]),
        ]
    )
    converted = check_same(model)
    for name, value in taken.items():
        np.testing.assert_array_equal(initializers(converted)[name], value)


def test_a_converted_model_can_be_converted_again() -> None:
    once = check_same(simple())
    twice = check_same(once)
    assert [node.op_type for node in twice.graph.node] == ["Conv"] * 4 + ["Relu"]


# Numbers


def test_weights_too_small_to_be_normal_become_zero() -> None:
    model = simple()
    (layer,), _ = find(model, {"x": X})
    chain = same(layer)
    small = chain.convolutions[0].weight.copy()
    small.flat[:4] = [1e-39, -1e-39, np.finfo(np.float32).tiny, -np.finfo(np.float32).tiny]
    first = replace(chain.convolutions[0], weight=small)
    replace_layer(model, layer, FactorChain((first, chain.convolutions[1]), ERRORS))
    written = initializers(model)["features.0/lowrank_0/weight"]
    tiny = np.finfo(np.float32).tiny
    assert written.flat[:4].tolist() == [0, 0, tiny, -tiny]
    assert not ((written != 0) & (np.abs(written) < tiny)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39, -1e39])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_numbers_that_do_not_fit_the_type(value: float, part: str) -> None:
    model = simple()
    before = model.SerializeToString()
    (layer,), _ = find(model, {"x": X})
    chain = same(layer)
    numbers = getattr(chain.convolutions[1], part).copy()
    numbers.flat[0] = value
    last = replace(chain.convolutions[1], **{part: numbers})
    with pytest.raises(
        ModelError, match=r"Conv 'features\.0': a solved weight does not fit float32: leave the layer out"
    ):
        replace_layer(model, layer, FactorChain((chain.convolutions[0], last), ERRORS))
    assert model.SerializeToString() == before


def test_float16_models_stay_float16() -> None:
    model = build(
        "g (float16[N,3,8,7] x) => (float16[N,5,8,7] y) { c = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(c) }",
        {"w": filters(0, 5, 3, 3, 3, np.float16), "b": normal(2, 5, dtype=np.float16)},
    )
    x = X.astype(np.float16)
    converted = replaced(model, x)
    assert {value.dtype for value in initializers(converted).values()} == {np.dtype(np.float16)}
    assert relative(run(model, {"x": x})["y"], run(converted, {"x": x})["y"]) < 2e-3


def test_float64_models_stay_float64() -> None:
    """onnxruntime's CPU has no float64 Conv: shapes by hand, onnx's reference evaluator as the judge."""
    model = build(
        "g (double[N,3,8,7] x) => (double[N,5,8,7] y) { c = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(c) }",
        {"w": filters(0, 5, 3, 3, 3, np.float64), "b": normal(2, 5, dtype=np.float64)},
    )
    (layer,), _ = find_layers(model, {"x": X.shape, "c": (3, 5, 8, 7)})
    x = X.astype(np.float64)
    (before,) = ReferenceEvaluator(model).run(None, {"x": x})
    replace_layer(model, layer, same(layer))
    assert {value.dtype for value in initializers(model).values()} == {np.dtype(np.float64)}
    (after,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert relative(np.asarray(before), np.asarray(after)) < 1e-14
