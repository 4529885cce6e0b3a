"""Whole networks as modules: what they compute, at any size they take, and what they say where they cannot."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.errors import ModelError
from onnx_lowrank.torch import OnnxModule, to_torch
from tests.conformance.test_precision import typed
from tests.conformance.test_support import sparse
from tests.helpers import add_initializers, build, filters, normal, relative, run
from tests.networks import images, network
from tests.torch.oracle import WHOLE, as_tuple, assert_same, outputs_of
from tests.torch.real_networks import BY_DAY, QUICK_ONES, REAL

Array = NDArray[Any]


def saved_and_loaded(module: OnnxModule) -> OnnxModule:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, OnnxModule)
    return loaded


@pytest.mark.parametrize("name", BY_DAY)
def test_a_network_computes_what_onnxruntime_does(name: str) -> None:
    model = REAL[name].model
    module = to_torch(model)
    for batch in REAL[name].batches():
        wanted = run(model, {module.inputs[0]: batch})
        found = outputs_of(module, batch)
        assert list(wanted) == list(module.outputs)
        for want, have in zip(wanted.values(), found, strict=True):
            assert have.shape == want.shape
            assert relative(want, have) < WHOLE


@pytest.mark.parametrize("name", QUICK_ONES)
def test_training_mode_computes_the_same(name: str) -> None:
    """Statistics of BatchNormalization are the graph's, and stay."""
    module, batch = to_torch(REAL[name].model), REAL[name].smallest
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    wanted, found = outputs_of(module, batch), outputs_of(module.train(), batch)
    for want, have in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(want, have)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_a_module_begins_in_evaluation_mode() -> None:
    assert not any(each.training for each in to_torch(network()).modules())


def test_a_path_is_read_and_a_model_is_not_changed(tmp_path: Path) -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)
    onnx.save(model, tmp_path / "model.onnx")
    first, second = (outputs_of(to_torch(each), images(2)) for each in (model, str(tmp_path / "model.onnx")))
    np.testing.assert_array_equal(*first, *second)
    assert model.SerializeToString(deterministic=True) == before


def test_the_module_shares_no_memory_with_the_model() -> None:
    model = network()
    wanted = run(model, {"x": images(2)})
    with torch.no_grad():
        for parameter in to_torch(model).parameters():
            parameter.zero_()
    np.testing.assert_array_equal(wanted["scores"], run(model, {"x": images(2)})["scores"])


def test_a_copy_lives_on_its_own() -> None:
    module = to_torch(network())
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not outputs_of(other, images(2))[0].any()
    assert_same(network(), {"x": images(2)}, WHOLE, module)


def test_the_state_loads_into_another_module() -> None:
    module, other = to_torch(network(seed=0)), to_torch(network(seed=50))
    other.load_state_dict(module.state_dict())
    assert_same(network(seed=0), {"x": images(2)}, WHOLE, other)


@pytest.mark.parametrize("name", QUICK_ONES)
def test_a_saved_module_is_loaded_whole(name: str) -> None:
    module, batch = to_torch(REAL[name].model), REAL[name].smallest
    loaded = saved_and_loaded(module)
    for want, have in zip(outputs_of(module, batch), outputs_of(loaded, batch), strict=True):
        np.testing.assert_array_equal(want, have)
    assert [key for key, _ in module.named_parameters()] == [key for key, _ in loaded.named_parameters()]


def test_a_saved_module_keeps_what_was_trained_and_its_type() -> None:
    """Recurrent weights, too, which a library operator holds outside the state."""
    model = build(
        "g (float[T,2,3] x) => (float[T,2,6] y) { r, h, c = LSTM <hidden_size = 4> (x, w, r1)  s = Squeeze (r, one) "
        " y = MatMul (s, dense) }",
        {"w": normal(0, 1, 16, 3), "r1": normal(1, 1, 16, 4), "one": np.array([1]), "dense": normal(2, 4, 6)},
    )
    module = to_torch(model).double()
    with torch.no_grad():
        module.dense.mul_(3)
    loaded, x = saved_and_loaded(module), normal(3, 5, 2, 3).astype(np.float64)
    np.testing.assert_array_equal(*outputs_of(module, x), *outputs_of(loaded, x))
    wanted = run(model, {"x": x.astype(np.float32)})["y"]
    assert relative(3 * wanted, outputs_of(loaded, x)[0]) < WHOLE
    assert loaded.dense.equal(module.dense)


# Inputs and outputs


def test_several_inputs_and_outputs_keep_their_order() -> None:
    model = build("g (float[N,3] a, float[N,3] b) => (float[N,3] d, float[N,3] s) { s = Add (a, b)  d = Sub (a, b) }")
    module = to_torch(model)
    assert (module.inputs, module.outputs) == (("a", "b"), ("d", "s"))
    assert_same(model, {"a": normal(0, 2, 3), "b": normal(1, 2, 3)}, 0, module)


def test_any_tensors_can_be_had() -> None:
    module = to_torch(network())
    module.outputs = ("r2", "scores", "w1", "x")
    found = dict(zip(module.outputs, outputs_of(module, images(2)), strict=True))
    wanted = run(network(), {"x": images(2)}, ["r2", "scores"])
    assert all(relative(wanted[name], found[name]) < WHOLE for name in wanted)
    np.testing.assert_array_equal(found["x"], images(2))
    np.testing.assert_array_equal(found["w1"], numpy_helper.to_array(network().graph.initializer[0]))
    module.outputs = ("pool",)
    assert outputs_of(module, images(2))[0].shape == (2, 16, 1, 1)


def test_functions_that_name_another_version_of_their_domain_are_run() -> None:
    """As jax2onnx writes them, which onnx's inliner leaves out without a word."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,3] x) => (float[N,3] y) { y = own.block (x) }
        <domain: "own", opset_import: ["" : 17, "own" : 17]> block (a) => (b) { c = Relu (a)  b = Neg (c) }"""
    )
    assert_same(model, {"x": normal(1, 2, 3)})


@pytest.mark.parametrize("ir", [3, 8])
def test_initializers_are_no_inputs(ir: int) -> None:
    """Before IR version 4 they are listed with them."""
    model = build("g (float[N,3] x) => (float[N,4] y) { y = MatMul (x, w) }", {"w": normal(0, 3, 4)}, opset=9, ir=ir)
    assert len(model.graph.input) == (2 if ir == 3 else 1)
    assert to_torch(model).inputs == ("x",)
    assert_same(model, {"x": normal(1, 2, 3)})


def test_an_initializer_may_be_an_output() -> None:
    model = build("g (float[N,3] x) => (float[N,3] y, float[3] w) { y = Mul (x, w) }", {"w": normal(0, 3)})
    assert_same(model, {"x": normal(1, 2, 3)}, 0)


def test_nodes_may_be_in_any_order() -> None:
    model = network()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert_same(network(), {"x": images(2)}, WHOLE, to_torch(model))


def test_functions_are_seen_through() -> None:
    assert_same(in_function(), {"x": normal(0, 2, 3, 8, 8)}, WHOLE)


def in_function() -> onnx.ModelProto:
    """A convolution and a constant inside of a function, its filters outside."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,3,8,8] x) => (float[N,4,8,8] y) { y = own.block (x, w) }
        <domain: "own", opset_import: ["" : 17]>
        block (a, f) => (r) {
            c = Conv <pads = [1, 1, 1, 1]> (a, f)
            half = Constant <value = float[1] {0.5}> ()
            s = Add (c, half)
            r = Relu (s)
        }""")
    add_initializers(model, {"w": filters(0, 4, 3, 3, 3)})
    return model


@pytest.mark.parametrize(
    "held",
    [
        {"value": numpy_helper.from_array(np.array([2.5, -1, 3], np.float32))},
        {"value_float": 2.5},
        {"value_floats": [2.5, -1, 3]},
    ],
    ids=lambda held: next(iter(held)),
)
def test_numbers_in_constant_nodes(held: dict[str, Any]) -> None:
    model = build("g (float[N,3] x) => (float[N,3] y) { y = Mul (x, c) }")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **held))
    assert_same(model, {"x": normal(0, 2, 3)}, 0)


@pytest.mark.parametrize("held", [{"value_int": 1}, {"value_ints": [1]}], ids=str)
def test_settings_in_constant_nodes(held: dict[str, Any]) -> None:
    model = build("g (float[N,3] x) => (float[N,3] y) { y = Gather <axis = 1> (x, c) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **held))
    assert_same(model, {"x": normal(0, 2, 3)}, 0)


def test_tensors_that_torch_has_no_type_for_do_not_matter_where_nothing_reads_them() -> None:
    model = network()
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"hello"]))
    assert relative(run(network(), {"x": images(2)})["scores"], outputs_of(to_torch(model), images(2))[0]) < WHOLE


# Types


TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "double": np.float64}
OFF = {"float16": 2e-3, "bfloat16": 2e-2, "double": 1e-6}  # as in tests/test_precision.py; Cast goes through float32


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64], ids=str)
def test_other_types(kind: str, dtype: torch.dtype | None) -> None:
    """Against onnx's own reference, which knows all of them; a module of another type takes inputs of that type."""
    model, module = typed(kind), to_torch(typed(kind), dtype)
    batch = images(2, size=8).astype(TYPES[kind])
    wanted = [np.asarray(each, np.float64) for each in ReferenceEvaluator(model).run(None, {"x": batch})]
    kept = next(module.parameters()).dtype
    if dtype is not None:
        assert {module.state_dict()[key].dtype for key in module.keys.values()} == {dtype}
    found = as_tuple(module(torch.from_numpy(batch.astype(np.float64)).to(kept)))
    assert {each.dtype for each in found} == {kept}
    for want, have in zip(wanted, found, strict=True):
        assert relative(want, have.detach().double().numpy()) < OFF[kind]


def test_the_state_holds_what_the_graph_holds_and_nothing_of_operators() -> None:
    """There is a ConstantOfShape in it."""
    names = {tensor.name for tensor in typed("double").graph.initializer if tensor.data_type == TensorProto.DOUBLE}
    assert set(to_torch(typed("double")).state_dict()) == names


@pytest.mark.parametrize("attributes", [{"to": 7}, {"saturate": 1, "to": 7}, {"saturate": 0, "to": 7}], ids=str)
def test_casts_to_integers_stay_in_a_module_of_another_type(attributes: dict[str, int]) -> None:
    """Whatever comes first of the attributes."""
    model = build("g (float16[N] x) => (int64[N] y) { y = Cast (x) }", opset=19, ir=9)
    model.graph.node[0].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    found = to_torch(model, torch.float32)(torch.tensor([1.5, -2.5, 3.75]))
    assert found.tolist() == [1, -2, 3]
    assert found.dtype == torch.int64


# What cannot be


def branch() -> onnx.GraphProto:
    return onnx.parser.parse_graph("g () => (float[N] y) { y = Identity (x) }")


def with_if() -> onnx.ModelProto:
    model = build("g (float[N] x, bool c) => (float[N] y) { y = If (c) }")
    model.graph.node[0].attribute.extend(
        helper.make_attribute(name, branch()) for name in ("then_branch", "else_branch")
    )
    return model


def with_loop() -> onnx.ModelProto:
    model = build("g (float[N] x, int64 n, bool c) => (float[N] y) { y = Loop (n, c, x) }")
    body = onnx.parser.parse_graph(
        "b (int64 i, bool c, float[N] v) => (bool d, float[N] w) { d = Identity (c)  w = Add (v, v) }"
    )
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))
    return model


def with_own_operator() -> onnx.ModelProto:
    model = build("g (float[N] x) => (float[N] y) { y = own.Relu (x) }")
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def with_unknown_operator() -> onnx.ModelProto:
    return build("g (float[N] x) => (float[N] y) { y = Wonder (x) }")


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (with_if, "If"),
        (with_loop, "Loop"),
        (with_own_operator, "own.Relu"),
        (with_unknown_operator, "Wonder"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_operators_that_cannot_be_are_named(make: Any, kind: str, named: bool) -> None:
    model = make()
    model.graph.node[0].name = "here" if named else ""
    with pytest.raises(ModelError) as raised:
        to_torch(model)
    said = str(raised.value)
    assert said.startswith(f"{kind} '{'here' if named else 'y'}': ")
    assert "PyTorch" in said
    assert said.endswith(": simplify the model, with onnxslim for example, or export it with another opset")


def test_operators_that_torch_has_by_chance_are_not_guessed() -> None:
    """onnx2pytorch takes whatever function of torch has the same name, and warns."""
    with pytest.raises(ModelError, match="Lgamma 'y': cannot be turned into PyTorch .* No explicit conversion"):
        to_torch(build("g (float[N] x) => (float[N] y) { y = Lgamma (x) }"))


def test_sparse_weights_are_refused_at_once() -> None:
    with pytest.raises(ModelError, match="tensor 'w'"):
        to_torch(sparse())


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_inputs(count: int) -> None:
    with pytest.raises(TypeError, match=rf"{count} inputs given, the network takes 1: \('x',\)"):
        to_torch(network())(*[torch.zeros(1, 3, 12, 12)] * count)


def test_an_error_says_in_which_node() -> None:
    model = network()
    model.graph.node[0].name = "first"
    with pytest.raises(RuntimeError) as raised:
        to_torch(model)(torch.zeros(1, 5, 12, 12))
    assert raised.value.__notes__ == ["in Conv 'first'"]
    model.graph.node[0].name = ""  # then it goes by its output
    with pytest.raises(RuntimeError) as raised:
        to_torch(model)(torch.zeros(1, 5, 12, 12))
    assert raised.value.__notes__ == ["in Conv 'c1'"]
