"""Weights back in the graph: bit for bit where nothing was trained, those that were changed and no others else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from onnx_lowrank.errors import ModelError
from onnx_lowrank.torch import OnnxModule, from_torch, to_torch
from tests.conformance.test_precision import typed
from tests.helpers import build, normal, relative, run
from tests.networks import images, network
from tests.torch.module.test_to_module import in_function
from tests.torch.oracle import WHOLE, assert_same, one_node, outputs_of
from tests.torch.real_networks import BY_DAY, QUICK_ONES, REAL

Array = NDArray[Any]


def content(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def names_of_changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """The initializers that are not what they were, all else being the same."""
    assert len(before.graph.initializer) == len(after.graph.initializer)
    pairs = list(zip(before.graph.initializer, after.graph.initializer, strict=True))
    assert all((a.name, a.dims, a.data_type) == (b.name, b.dims, b.data_type) for a, b in pairs)
    changed = {a.name for a, b in pairs if a != b}
    first, second = onnx.ModelProto(), onnx.ModelProto()
    for copy, model in ((first, before), (second, after)):
        copy.CopyFrom(model)
        del copy.graph.initializer[:]
    assert content(first) == content(second)
    return changed


def shifted(module: OnnxModule, seed: int = 0) -> OnnxModule:
    """The module with all its parameters changed a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator))
            parameter.add_(1e-3)
    return module


# Nothing was trained


@pytest.mark.parametrize("name", BY_DAY)
def test_without_training_a_network_is_the_same_bit_for_bit(name: str) -> None:
    model = REAL[name].model
    before = content(model)
    assert content(from_torch(to_torch(model), model)) == before
    assert content(model) == before


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
@pytest.mark.parametrize("dtype", [None, torch.float64], ids=str)
def test_other_types_are_the_same_too(kind: str, dtype: torch.dtype | None) -> None:
    """Also where the module has a wider type."""
    model = without_filled(typed(kind))
    assert content(from_torch(to_torch(model, dtype), model)) == content(model)


def without_filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants are made by ConstantOfShape there; here they are held."""
    node = next(each for each in model.graph.node if each.op_type == "ConstantOfShape")
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t), node.output[0]))
    model.graph.node.remove(node)
    return model


def in_lists(model: onnx.ModelProto) -> onnx.ModelProto:
    """Numbers in lists of their type instead of bytes."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        listed = helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, values.ravel())
        assert not listed.HasField("raw_data")
        tensor.CopyFrom(listed)
    return model


@pytest.mark.parametrize(
    "make",
    [network, lambda: without_filled(typed("float16")), lambda: without_filled(typed("double"))],
    ids=["float32", "float16", "float64"],
)
def test_numbers_may_be_lists(make: Callable[[], onnx.ModelProto]) -> None:
    model = in_lists(make())
    module = to_torch(model)
    assert content(from_torch(module, model)) == content(model)
    with torch.no_grad():
        next(module.parameters()).add_(1)
    after = from_torch(module, model)
    assert len(names_of_changed(model, after)) == 1
    onnx.checker.check_model(after)
    changed, wanted = after.graph.initializer[0], next(module.parameters())
    np.testing.assert_array_equal(numpy_helper.to_array(changed), wanted.detach().numpy())


def test_numbers_that_are_not_numbers_keep_their_bits() -> None:
    odd = np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45, 0], np.float32)
    odd.view(np.uint32)[0] = 0x7FC0_1234
    model = one_node("PRelu", {"x": normal(0, 2, 6)}, {"slope": odd}, order=["x", "slope"])
    assert content(from_torch(to_torch(model), model)) == content(model)


def test_weights_given_to_functions() -> None:
    model = in_function()
    after = from_torch(to_torch(model), model)
    assert_same(after, {"x": normal(0, 2, 3, 8, 8)}, WHOLE, to_torch(model))
    assert after.graph.initializer == model.graph.initializer
    assert content(after) == content(model)


# Weights were changed


@pytest.mark.parametrize("name", QUICK_ONES)
def test_a_trained_network_is_the_module(name: str) -> None:
    model = REAL[name].model
    module = shifted(to_torch(model))
    after, batch = from_torch(module, model), REAL[name].smallest
    inner = dict(module.named_parameters())
    held = {tensor.name for tensor in model.graph.initializer}
    assert names_of_changed(without_constants(model), without_constants(after)) == {
        name for name, key in module.keys.items() if name in held and key in inner
    }
    wanted = run(after, {module.inputs[0]: batch})
    for want, have in zip(wanted.values(), outputs_of(module, batch), strict=True):
        assert relative(want, have) < WHOLE
    before = run(model, {module.inputs[0]: batch})
    assert max(relative(before[key], wanted[key]) for key in wanted) > 10 * WHOLE  # it is not what it was


def without_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same without its Constant nodes, which training may change."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in [each for each in copy.graph.node if each.op_type == "Constant"]:
        copy.graph.node.remove(node)
    return copy


def test_one_changed_weight_is_the_only_one() -> None:
    model, module = network(), to_torch(network())
    model.metadata_props.add(key="author", value="somebody")
    model.doc_string, model.producer_name = "words", "someone"
    with torch.no_grad():
        module.get_parameter("w2")[0, 0, 0, 0] += 1
    after = from_torch(module, model)
    assert names_of_changed(model, after) == {"w2"}
    difference = numpy_helper.to_array(after.graph.initializer[2]) - numpy_helper.to_array(model.graph.initializer[2])
    assert np.count_nonzero(difference) == 1
    assert_same(after, {"x": images(2)}, WHOLE, module)


def test_changed_statistics_go_back_too() -> None:
    """Of modules that were given others, by load_state_dict for example."""
    model, module = network(), to_torch(network())
    module.get_buffer("mean").add_(1)
    assert names_of_changed(model, from_torch(module, model)) == {"mean"}


def test_weights_in_constant_nodes() -> None:
    model = build("g (float[N,2,4,4] x) => (float[N,3,2,2] y) { y = Conv (x, w) }")
    value = numpy_helper.from_array(normal(1, 3, 2, 3, 3))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=value))
    module = shifted(to_torch(model))
    after = from_torch(module, model)
    assert [node.op_type for node in after.graph.node] == ["Constant", "Conv"]
    assert_same(after, {"x": normal(0, 2, 2, 4, 4)}, module=module)
    assert after != model


def test_a_shared_weight() -> None:
    model = build(
        "g (float[N,2,4,4] x) => (float[N,2,4,4] y) { c = Conv (x, w)  y = Conv (c, w) }", {"w": normal(0, 2, 2, 1, 1)}
    )
    module = shifted(to_torch(model))
    assert names_of_changed(model, from_torch(module, model)) == {"w"}
    assert_same(from_torch(module, model), {"x": normal(0, 2, 2, 4, 4)}, module=module)


def test_what_was_trained_inside_of_a_function() -> None:
    model = in_function()
    module = shifted(to_torch(model))
    assert_same(from_torch(module, model), {"x": normal(0, 2, 3, 8, 8)}, WHOLE, module)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_trained_in_single_precision_and_written_in_its_own(kind: str) -> None:
    model = without_filled(typed(kind))
    module = shifted(to_torch(model, torch.float32))
    after = from_torch(module, model)
    assert names_of_changed(model, after) == {name for name, _ in module.named_parameters()}
    for tensor in after.graph.initializer:
        if tensor.name in module.keys:
            wanted = module.state_dict()[tensor.name].double().numpy()
            digits = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "double": 2.0**-24}[kind]
            np.testing.assert_allclose(numpy_helper.to_array(tensor).astype(float), wanted, rtol=digits, atol=1e-7)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_what_is_trained_goes_back_or_is_not_trained(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = normal(0, 5, 2, 3)
    weights = {"w": normal(1, 1, gates * 4, 3), "r": normal(2, 1, gates * 4, 4), "b": normal(3, 1, gates * 8)}
    more = {"linear_before_reset": 1} if op == "GRU" else {}
    model = one_node(op, {"x": x}, weights, hidden_size=4, **more)
    module = to_torch(model)
    assert set(module.state_dict()) == set(weights)
    assert_same(from_torch(shifted(module), model), {"x": x}, WHOLE, module)


# What is given


class Wrapper(nn.Module):
    """As DistributedDataParallel holds its module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: module,
        Wrapper,
        lambda module: Wrapper(Wrapper(module)),
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda module: module.state_dict(),
        lambda module: dict(module.named_parameters()) | dict(module.named_buffers()),
        lambda module: {key: tensor.double() for key, tensor in module.state_dict().items()},
    ],
    ids=["module", "wrapper", "two wrappers", "DataParallel", "AveragedModel", "state", "dict", "wider state"],
)
def test_however_it_is_wrapped(wrap: Callable[[nn.Module], Any]) -> None:
    module = shifted(to_torch(network()))
    assert content(from_torch(wrap(module), network())) == content(from_torch(module, network())) != content(network())


def test_a_compiled_module() -> None:
    """As torch.compile wraps it, which passes on every attribute it is asked for."""
    module = shifted(to_torch(network()))
    compiled = compiled_form(module)
    assert next(iter(compiled.state_dict())).startswith("_orig_mod.")
    assert content(from_torch(compiled, network())) == content(from_torch(module, network()))


def compiled_form(module: nn.Module) -> nn.Module:
    from torch._dynamo.eval_frame import OptimizedModule

    return OptimizedModule(module, lambda function: function)


@pytest.mark.parametrize("name", ["module.weight", "module", "_orig_mod.weight", "_orig_mod"])
def test_weights_that_are_named_like_a_wrappers_module(name: str) -> None:
    x = normal(0, 1, 2, 4, 4)
    model = one_node("Conv", {"x": x}, {name: normal(1, 3, 2, 3, 3)}, order=["x", name])
    module = shifted(to_torch(model))
    assert_same(from_torch(module, model), {"x": x}, module=module)
    assert_same(from_torch(Wrapper(module), model), {"x": x}, module=module)


def test_a_path(tmp_path: Path) -> None:
    module = shifted(to_torch(network()))
    onnx.save(network(), tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    after = from_torch(module, tmp_path / "model.onnx")
    assert_same(after, {"x": images(2)}, WHOLE, module)


def test_a_module_of_another_model() -> None:
    state = to_torch(network()).state_dict()
    del state["w3"]
    with pytest.raises(ModelError) as raised:
        from_torch(state, network())
    assert str(raised.value) == (
        "from_torch: the module has no 'w3', which the model has: take the model it was made of"
    )


def test_a_module_of_a_model_of_other_shapes() -> None:
    state = to_torch(network()).state_dict()
    state["w3"] = torch.zeros(16, 8, 3, 3)
    with pytest.raises(ModelError) as raised:
        from_torch(state, network())
    assert str(raised.value) == (
        "from_torch: 'w3' has shape (16, 8, 3, 3) in the module and (16, 16, 3, 3) in the model: take the model it was "
        "made of"
    )


def test_weights_that_the_model_does_not_have_are_not_lost_in_silence() -> None:
    """As of a module of the original, where the model is a smaller one."""
    state = to_torch(network()).state_dict() | {"w4": torch.zeros(3)}
    with pytest.raises(ModelError, match="w4"):
        from_torch(state, network())


def test_numbers_too_large_for_the_models_type_are_refused() -> None:
    """Instead of a model with infinite weights."""
    model = without_filled(typed("float16"))
    module = to_torch(model, torch.float32)
    with torch.no_grad():
        module.get_parameter("w2").fill_(1e6)
    with pytest.raises(ModelError, match="w2"):
        from_torch(module, model)


def test_the_result_shares_nothing_with_the_module() -> None:
    module = shifted(to_torch(network()))
    after = from_torch(module, network())
    before = content(after)
    shifted(module, seed=1)
    assert content(after) == before
