"""Which numbers of a graph are trained, and under which names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from onnx_lowrank.torch import OnnxModule, from_torch, to_torch
from onnx_lowrank.torch.module.weights import look_up, put, state_keys
from tests.helpers import build, normal, run
from tests.networks import network
from tests.torch.oracle import assert_same, one_node
from tests.torch.real_networks import BY_DAY, REAL

IMAGE = normal(0, 1, 2, 4, 4)
PLAIN = (
    "w",
    "conv1.weight",
    "layer1.0.conv",
    "a:0",
    "model/conv/kernel:0",
    "1",
    "1.2.3",
    "größe.重み",
    "a b",
    "val_7",
    "-",
)
# What PyTorch cannot have as a key, or what modules have under this name already.
ODD = (
    *("a..b", ".a", "a.", ".", "..", "training", "forward", "state_dict", "to", "_modules", "_parameters.x"),
    *("named_parameters.x", "forward.weight", "T_destination", "__class__", "dump_patches"),
)
# What the module made of a graph needs for itself.
OWN = (
    *("inputs", "outputs", "keys", "_steps", "_operations", "_numbers", "_tables", "_run", "_tensor", "_last_uses"),
    *("inputs.weight", "keys.0", "_steps.x", "_operations.0", "_operations.table0", "_are_numbers", "_as_sizes"),
)


# Names


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_are_the_keys(name: str) -> None:
    module = named(name)
    assert list(module.state_dict()) == [name]
    assert module.keys == {name: name}


@pytest.mark.parametrize("name", [*ODD, *OWN])
def test_odd_names_get_a_key_and_all_works(name: str) -> None:
    module = named(name)
    assert list(module.keys) == [name]
    assert list(module.state_dict()) == list(module.keys.values())


def named(name: str) -> OnnxModule:
    """The module of a graph whose weight has a name; it computes, is copied, trained, and goes back."""
    model = one_node("Conv", {"x": IMAGE}, {name: normal(1, 3, 2, 3, 3)}, order=["x", name])
    module = to_torch(model)
    assert_same(model, {"x": IMAGE}, module=module)
    assert [key for key, _ in module.named_parameters()] == [module.keys[name]]
    assert from_torch(module, model) == model
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    assert_same(from_torch(module, model), {"x": IMAGE}, module=module)
    return module


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c", "a"), ("a..b", "a__b_")], ids=str)
def test_names_that_are_in_the_way_of_each_other(names: tuple[str, ...]) -> None:
    x, weights = normal(0, 2, 3), {name: normal(seed, 3) for seed, name in enumerate(names)}
    model = one_node("Sum", {"x": x}, weights, order=["x", *names])
    module = to_torch(model)
    assert len(set(module.keys.values())) == len(names) == len(module.state_dict())
    assert_same(model, {"x": x}, module=module)
    assert from_torch(module.state_dict(), model) == model


any_name = st.one_of(
    st.text(st.sampled_from("ab.:/_0ü"), min_size=1, max_size=6),
    st.text(min_size=1, max_size=8),
    st.sampled_from([*ODD, *PLAIN]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(any_name, unique=True, max_size=12))
@example(["a__b_", "a..b"])
@example(["a..b", "a__b_"])
@example(["a_", "a", "a.b"])
@example(["a", "a.b", "a_b_"])
def test_every_name_has_a_key_of_its_own_that_a_module_can_have(names: list[str]) -> None:
    keys = state_keys(names)
    assert list(keys) == names
    assert len(set(keys.values())) == len(names)
    root = nn.Module()
    tensors = {name: torch.full((1,), float(number)) for number, name in enumerate(names)}
    for name, tensor in tensors.items():
        put(root, keys[name], nn.Buffer(tensor))
    assert set(root.state_dict()) == set(keys.values())
    assert all(torch.equal(look_up(root, keys[name]), tensor) for name, tensor in tensors.items())
    assert all(torch.equal(root.state_dict()[keys[name]], tensor) for name, tensor in tensors.items())


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.text(st.sampled_from("ab:/_0ü"), min_size=1, max_size=3), min_size=1, max_size=3), max_size=12)
)
def test_names_that_are_in_nobodys_way_are_kept(parts: list[list[str]]) -> None:
    """Letters, numbers and dots between them; no name is the beginning of another."""
    names = list(dict.fromkeys(".".join([f"p{part}" for part in each] + ["weight"]) for each in parts))
    assert state_keys(names) == {name: name for name in names}


@pytest.mark.parametrize("name", BY_DAY)
def test_networks_keep_the_names_of_their_floating_point_numbers(name: str) -> None:
    model = REAL[name].model
    floats = [tensor.name for tensor in model.graph.initializer if tensor.data_type == 1]
    held = [
        node.output[0] for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].t.data_type == 1
    ]
    assert sorted(to_torch(model).state_dict()) == sorted(floats + held)


# What is trained


def trained(body: str, **weights: Any) -> set[str]:
    """The parameters of a graph's module; what else it holds are buffers."""
    model = build(f"g (float[N,6,8,8] x) => (float[N,A,B,C] y) {{ {body} }}", weights)
    module = to_torch(model)
    parameters = {name for name, _ in module.named_parameters()}
    floats = {name for name, value in weights.items() if np.asarray(value).dtype == np.float32}
    assert parameters | {name for name, _ in module.named_buffers()} >= floats
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert run(model, {"x": normal(0, 2, 6, 8, 8)})  # else it says nothing
    return parameters


W, C, ONE = normal(1, 6, 6, 1, 1), normal(2, 6), np.float32(1)
PER_CHANNEL = normal(3, 1, 6, 1, 1)


def test_weights_and_biases_are_trained() -> None:
    assert trained("y = Conv (x, w, b)", w=W, b=C) == {"w", "b"}
    assert trained("y = ConvTranspose (x, w, b)", w=W, b=C) == {"w", "b"}
    assert trained("y = MatMul (x, w)", w=normal(0, 8, 4)) == {"w"}
    assert trained("y = MatMul (w, x)", w=normal(0, 4, 8)) == {"w"}
    assert trained("c = Conv (x, w)  y = Add (c, b)", w=W, b=PER_CHANNEL) == {"w", "b"}
    assert trained("c = Conv (x, w)  y = Add (b, c)", w=W, b=PER_CHANNEL) == {"w", "b"}
    flat = "f = Flatten (x)  g = Gemm (f, w, b)  y = Reshape (g, shape)"
    assert trained(flat, w=normal(0, 384, 5), b=normal(0, 5), shape=np.array([0, 5, 1, 1])) == {"w", "b"}


def test_scales_and_offsets_are_trained_statistics_are_not() -> None:
    numbers = {"scale": C, "bias": C, "mean": C, "variance": np.abs(C)}
    assert trained("y = BatchNormalization (x, scale, bias, mean, variance)", **numbers) == {"scale", "bias"}
    assert trained("y = InstanceNormalization (x, scale, bias)", scale=C, bias=C) == {"scale", "bias"}
    numbers = {"scale": normal(0, 8), "bias": normal(1, 8)}
    assert trained("y = LayerNormalization (x, scale, bias)", **numbers) == {"scale", "bias"}


def test_slopes_are_trained() -> None:
    assert trained("y = PRelu (x, slope)", slope=normal(0, 6, 1, 1)) == {"slope"}


def test_bounds_factors_and_steps_of_hand_written_activations_are_not() -> None:
    assert trained("y = Clip (x, low, high)", low=-ONE, high=ONE) == set()
    assert trained("y = Mul (x, two)", two=2 * ONE) == set()
    assert trained("p = Pow (x, two)  y = Div (p, three)", two=2 * ONE, three=3 * ONE) == set()
    assert trained("g = Greater (x, zero)  y = Where (g, x, other)", zero=0 * ONE, other=ONE) == set()


def test_the_three_of_a_hard_swish_is_not_trained() -> None:
    """x * clip(x + 3, 0, 6) / 6, as Paddle writes it: another number makes another function of it."""
    body = "a = Add (x, three)  c = Clip (a, zero, six)  m = Mul (x, c)  y = Div (m, six)"
    assert trained(body, three=3 * ONE, zero=0 * ONE, six=6 * ONE) == set()


def test_the_epsilon_of_a_normalization_is_not_trained() -> None:
    """Written out, as of older exporters: below zero the root has no value."""
    body = """m = ReduceMean <axes = [-1]> (x)  d = Sub (x, m)  q = Mul (d, d)  v = ReduceMean <axes = [-1]> (q)
        e = Add (v, epsilon)  s = Sqrt (e)  n = Div (d, s)  y = Add (n, bias)"""
    assert trained(body, epsilon=np.float32(1e-5), bias=normal(0, 8)) == {"bias"}


@pytest.mark.parametrize("name", ["detection", "recognition", "angle"])
def test_no_constants_of_activations_and_normalizations_are_trained_in_real_networks(name: str) -> None:
    module = to_torch(REAL[name].model)
    single = [each.item() for each in module.state_dict().values() if each.numel() == 1]
    assert single.count(3.0) >= 1  # it is there
    trained_ = [each.detach().item() for each in module.parameters() if each.numel() == 1]
    settings_ = [value for value in trained_ if value == 3.0 or value in np.float32([1e-5, 1e-6, 1e-12])]
    assert settings_ == []


@pytest.mark.parametrize(
    "made",
    [
        "u = Identity (w)  v = Identity (u)",
        "u = Transpose <perm = [1, 0, 2, 3]> (w)  v = Transpose <perm = [1, 0, 2, 3]> (u)",
        "v = Reshape (w, shape)",
        "u = Squeeze (w, axes)  v = Unsqueeze (u, axes)",
    ],
)
def test_weights_are_trained_behind_what_only_brings_them_into_shape(made: str) -> None:
    more = (
        {"shape": np.array([6, 6, 1, 1])} if "shape" in made else {"axes": np.array([2, 3])} if "axes" in made else {}
    )
    assert trained(f"{made}  y = Conv (x, v)", w=W, **more) == {"w"}


def test_a_shared_weight_is_one_parameter() -> None:
    module = to_torch(
        build("g (float[N,6,8,8] x) => (float[N,6,8,8] y) { c = Conv (x, w)  y = Conv (c, w) }", {"w": W})
    )
    (parameter,) = module.parameters()
    module(torch.from_numpy(normal(0, 1, 6, 8, 8))).sum().backward()
    assert parameter.grad is not None


def test_weights_in_constant_nodes_are_trained() -> None:
    module = to_torch(REAL["recognition"].model)
    kernels = [each for each in module.parameters() if each.ndim == 4]
    assert len(kernels) > 30


def test_integers_are_no_state() -> None:
    model = build("g (float[N,6] x) => (float[A,B] y) { y = Reshape (x, s) }", {"s": np.array([-1, 3])})
    assert not to_torch(model).state_dict()


def test_what_nothing_reads_is_kept_untrained() -> None:
    model = network()
    model.graph.initializer.append(one_node("Relu", {"x": C}, {"spare": C}, order=["x"]).graph.initializer[0])
    assert "spare" in dict(to_torch(model).named_buffers())
    assert from_torch(to_torch(model), model) == model
