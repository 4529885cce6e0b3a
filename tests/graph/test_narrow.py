"""Channels that no reader weighs are left out: the network computes the same with fewer numbers, node by node."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import narrow_channels, node_names, replace_layer
from onnx_lowrank.graph.index import GraphIndex, attribute
from onnx_lowrank.graph.tensors import put_outside
from tests.graph.test_channel_groups import (
    BLOCKS,
    M,
    X,
    block,
    cross_stage,
    group_of,
    groups_of,
    in_block,
    inverted_residual,
    normalization,
)
from tests.graph.test_replace_layer import same
from tests.helpers import Array, build, filters, find, normal, relative, run

KEPT = np.array([0, 2, 3, 5])
LEFT_OUT = np.setdiff1d(np.arange(M), KEPT)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def weigh_nothing(model: onnx.ModelProto, reader: str, left_out: Array) -> None:
    """Make the weights of a layer zero on channels."""
    index = GraphIndex(model)
    for name, node in zip(node_names(model), model.graph.node, strict=True):
        if name == reader:
            tensor = index.initializers[node.input[1]]
            weight = numpy_helper.to_array(tensor).copy()
            is_second = node.op_type == "Conv" or attribute(node, "transB", 0)
            weight[(slice(None), left_out) if is_second else left_out] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


def parameters(model: onnx.ModelProto) -> int:
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)


def check_same(model: onnx.ModelProto, layer: str, kept: Array = KEPT, x: Array = X) -> onnx.ModelProto:
    """A copy without some of the channels that a layer reads, once its readers weigh only those kept."""
    groups = groups_of(layer, model)
    assert not isinstance(groups, str), groups
    weighed = copy_of(model)
    for group in groups:
        gone = np.setdiff1d(np.arange(group.channels), kept - group.start)
        weigh_nothing(weighed, layer, gone + group.start)
        for name in group.followers:
            weigh_nothing(weighed, name, gone + group.inputs_of(name).start)
    narrow = copy_of(weighed)
    reader = model.graph.node[node_names(model).index(layer)]
    narrow_channels(narrow, {reader.input[0]: kept})
    onnx.checker.check_model(narrow, full_check=True)
    before, after = run(weighed, {"x": x}), run(narrow, {"x": x})
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=1e-6 * np.abs(value).max())
    remaining = groups_of(layer, narrow)
    if len(kept) == 1:
        assert remaining == "it reads a single channel"
        return narrow
    assert not isinstance(remaining, str), remaining
    for group, left in zip(groups, remaining, strict=True):
        assert left.channels == np.isin(kept - group.start, np.arange(group.channels)).sum()
        assert (left.makers, left.carried) == (group.makers, group.carried)
        assert (left.followers, left.made.keys()) == (group.followers, group.made.keys())
    return narrow


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    model = in_block(name)
    narrow = check_same(model, "y")
    if name != "computed weight":  # it is stored then
        assert [node.op_type for node in narrow.graph.node] == [node.op_type for node in model.graph.node]
        assert list(shapes(narrow)) == [*shapes(model), *(["z/sizes"] if "Split" in BLOCKS[name][0] else [])]
    assert parameters(narrow) < parameters(model)


@pytest.mark.parametrize("name", BLOCKS)
def test_all_channels_kept(name: str) -> None:
    model = in_block(name)
    before = model.SerializeToString(deterministic=True)
    narrow_channels(model, {"z": np.arange(M)})
    assert model.SerializeToString(deterministic=True) == before


def sizes_of_split(model: onnx.ModelProto) -> list[int]:
    """The sizes that the only Split of a model has, as an attribute or an input."""
    (node,) = (node for node in model.graph.node if node.op_type == "Split")
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    return attribute(node, "split") or numpy_helper.to_array(by_name[node.input[1]]).tolist()


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("sized", [False, True])
def test_halves_of_unequal_size(opset: int, sized: bool) -> None:
    model = cross_stage(opset)
    (split,) = (node for node in model.graph.node if node.op_type == "Split")
    if sized and opset < 13:
        split.attribute.append(helper.make_attribute("split", [4, 4]))
    elif sized:
        split.input.append("halves")
        model.graph.initializer.append(numpy_helper.from_array(np.array([4, 4]), "halves"))
    elif opset >= 18:
        split.attribute.append(helper.make_attribute("num_outputs", 2))
    narrow = check_same(model, "y", np.array([0, 3, 4, 5, 6, 7, 9, 10]))
    assert [node.op_type for node in narrow.graph.node] == [node.op_type for node in model.graph.node]
    assert sizes_of_split(narrow) == [2, 4]
    assert {name: shape for name, shape in shapes(narrow).items() if name in {"wb", "bb", "wd", "we", "w9"}} == {
        **{"wb": (6, 4, 1, 1), "bb": (6,), "wd": (3, 4, 3, 3), "we": (2, 3, 3, 3), "w9": (5, 8, 1, 1)},
    }
    both = check_same(narrow, "d", np.array([0, 2]))
    assert sizes_of_split(both) == [2, 2]
    assert shapes(both)["w9"] == (5, 6, 1, 1)


def test_equal_halves_without_sizes_get_none() -> None:
    model = cross_stage()
    weigh_nothing(model, "y", np.array([1, 5]))
    weigh_nothing(model, "d", np.array([1]))
    narrow = copy_of(model)
    narrow_channels(narrow, {"z": np.array([0, *range(2, 5), *range(6, 13)]), "q": np.array([0, 2, 3])})
    assert all(len(node.input) == 1 for node in narrow.graph.node if node.op_type == "Split")
    before, after = run(model, {"x": X}), run(narrow, {"x": X})
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-6, atol=1e-6)


def test_slices_move() -> None:
    narrow = check_same(in_block("slice of a layer"), "y")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in narrow.graph.initializer}
    slices = [node for node in narrow.graph.node if node.op_type == "Slice"]
    uses = {node.output[0]: [stored[name].tolist() for name in node.input[1:3]] for node in slices}
    assert uses == {"z": [[3, 1], [7, 8]], "t": [[7, 8], [9, 9]]}


def test_a_part_of_which_nothing_would_be_left() -> None:
    with pytest.raises(ValueError, match=r"kept must leave one of the channels 8\.\.12 of 'z'"):
        narrow_channels(cross_stage(), {"z": np.arange(8)})


def test_inverted_residual() -> None:
    narrow = check_same(inverted_residual(), "p")
    wanted = {"we": (4, 4, 1, 1), "wd": (4, 1, 3, 3), "wp": (4, 4, 1, 1)}
    wanted |= {f"{prefix}{place}": (4,) for prefix in "nm" for place in range(4)}
    assert {name: shape for name, shape in shapes(narrow).items() if name in wanted} == wanted
    assert attribute(next(node for node in narrow.graph.node if node.output[0] == "d"), "group") == 4


def test_bottleneck_of_resnet() -> None:
    """Both inner layers of a bottleneck, one after the other; its ends are a shortcut's."""
    model = build(
        """g (float[N,4,8,7] x) => (float[N,4,8,7] y) {
            s = Conv(x, ws)
            a = Conv(s, wa)  an = BatchNormalization(a, n0, n1, n2, n3)  ar = Relu(an)
            b = Conv<pads=[1,1,1,1]>(ar, wb)  bn = BatchNormalization(b, m0, m1, m2, m3)  br = Relu(bn)
            c = Conv(br, wc)  t = Add(c, s)  y = Relu(t)
        }""",
        {
            **{"ws": filters(0, 4, 4, 1, 1), "wa": filters(1, 6, 4, 1, 1), "wb": filters(2, 6, 6, 3, 3)},
            **{"wc": filters(3, 4, 6, 1, 1)},
            **normalization(4, 6, "n") | normalization(8, 6, "m"),
        },
    )
    narrow = check_same(check_same(model, "b"), "c", np.array([1, 4]))
    assert shapes(narrow)["wb"] == (2, 4, 3, 3)
    assert group_of("a", model) == "a shortcut shares its channels"


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(M,), (1, M), (1,), ()])
def test_dense_layers(transposed: int, bias: tuple[int, ...]) -> None:
    first, second = normal(1, 4, M), normal(2, M, 5)
    model = build(
        f"g (float[N,4] x) => (float[N,5] y) {{ a = Gemm<transB={transposed}, alpha=0.5, beta=2.0>(x, wa, ba)"
        f"  z = Tanh(a)  y = Gemm<transB={transposed}>(z, wb) }}",
        {"wa": first.T if transposed else first, "wb": second.T if transposed else second, "ba": normal(3, *bias)},
    )
    narrow = check_same(model, "y", x=normal(4, 3, 4))
    assert shapes(narrow)["ba"] == tuple(4 if size == M else size for size in bias)


@pytest.mark.parametrize("batch", ["N", "2"])
def test_pooled_head(batch: str) -> None:
    model = build(
        f"g (float[{batch},4,8,7] x) => (float[{batch},5] y) {{ a = Conv(x, wa)  r = Relu(a)  p = GlobalAveragePool(r)"
        "  f = Reshape(p, rows)  y = MatMul(f, w) }",
        {"wa": filters(0, M, 4, 3, 3), "w": normal(1, M, 5), "rows": np.array([-1, M])},
    )
    narrow = check_same(model, "y")
    assert numpy_helper.to_array(narrow.graph.initializer[2]).tolist() == [-1, 4]


def test_a_size_that_is_put_together() -> None:
    """As a squeeze-and-excitation block is written that keeps the batch open."""
    model = block(
        "p = GlobalAveragePool(a)  q = Flatten(p)  t = MatMul(q, wt)  s = Shape(x)  n = Slice(s, from, to)"
        "  u = Concat<axis=0>(n, tail)  k = Gather(s, from)  v = Concat<axis=0>(k, tail)  g = Reshape(t, v)"
        "  z = Mul(a, g)  unread = Identity(u)",
        {"wt": normal(3, M, M), "from": [0], "to": [1], "tail": [M, 1, 1]},
    )
    narrow = check_same(model, "y")
    assert numpy_helper.to_array(narrow.graph.initializer[-1]).tolist() == [4, 1, 1]
    assert {name for name in shapes(narrow) if "tail" in name} == {"tail", "tail/narrow"}


def test_what_others_read_stays() -> None:
    """One tensor is the bias of a layer, scale and offset behind it, and the bias of a layer beside it."""
    model = build(
        """g (float[N,4,8,7] x) => (float[N,5,8,7] y, float[N,6,8,7] other) {
            a = Conv(x, w, b)  n = BatchNormalization(a, b, b, b, v)  y = Conv(n, w9)  other = Conv(x, w, b)
        }""",
        {"w": filters(0, M, 4, 1, 1), "b": normal(1, M), "v": normal(2, M) ** 2, "w9": filters(3, 5, M, 1, 1)},
    )
    narrow = check_same(model, "y")
    assert shapes(narrow) == {
        **{"w": (M, 4, 1, 1), "b": (M,), "v": (4,), "w9": (5, 4, 1, 1)},
        **{"w/narrow": (4, 4, 1, 1), "b/narrow": (4,)},
    }
    a, n, _, other = narrow.graph.node
    assert list(a.input) == ["x", "w/narrow", "b/narrow"]
    assert list(n.input[1:]) == ["b/narrow"] * 3 + ["v"]
    assert list(other.input) == ["x", "w", "b"]


def test_one_weight_on_both_sides() -> None:
    """A weight that makes channels along one axis and is read along another becomes two."""
    model = build(
        "g (float[N,6,8,7] x) => (float[N,6,8,7] y) { a = Conv(x, w)  z = Relu(a)  y = Conv(z, w) }",
        {"w": filters(0, M, M, 1, 1)},
    )
    kept = copy_of(model)
    narrow_channels(kept, {"z": KEPT})
    onnx.checker.check_model(kept, full_check=True)
    assert sorted(shapes(kept).values()) == [(4, M, 1, 1), (M, 4, 1, 1)]
    weight, x = numpy_helper.to_array(model.graph.initializer[0]), normal(1, 2, M, 8, 7)
    hidden = np.maximum(np.einsum("oc,nchw->nohw", weight[KEPT, :, 0, 0], x), 0)
    wanted = np.einsum("oc,nchw->nohw", weight[:, KEPT, 0, 0], hidden)
    assert relative(wanted, run(kept, {"x": x})["y"]) < 1e-6


def test_constants_in_nodes() -> None:
    model = block("k = Constant<value = float[6,1,1] {1, 2, 3, 4, 5, 6}>()  z = Mul(a, k)")
    narrow = check_same(model, "y")
    assert numpy_helper.to_array(narrow.graph.node[1].attribute[0].t).ravel().tolist() == [1, 3, 4, 6]


def test_a_computed_weight_is_stored() -> None:
    narrow = check_same(in_block("computed weight"), "y")
    c = next(node for node in narrow.graph.node if node.output[0] == "c")
    assert (c.input[1], shapes(narrow)["w/narrow"]) == ("w/narrow", (4, 4, 3, 3))
    assert not {"v", "gain", "w"} & {name for node in narrow.graph.node for name in (*node.input, *node.output)}
    assert not {"v", "gain"} & shapes(narrow).keys()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_types_stay(dtype: Any) -> None:
    model = in_block("BatchNormalization")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    narrow_channels(model, {"z": KEPT})
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    wanted = before | {name: before[name][KEPT] for name in ("w0", "b0", "n0", "n1", "n2", "n3")}
    wanted["w9"] = before["w9"][:, KEPT]
    assert {value.dtype for value in after.values()} == {np.dtype(dtype)}
    for name, value in wanted.items():
        np.testing.assert_array_equal(after[name], value)


def test_values_in_files(tmp_path: Path) -> None:
    model = in_block("one activation")
    wanted = copy_of(model)
    narrow_channels(wanted, {"z": KEPT})
    for number, tensor in enumerate(model.graph.initializer):
        content, path = numpy_helper.to_array(tensor).tobytes(), tmp_path / str(number)
        path.write_bytes(content)
        put_outside(tensor, path, 0, len(content))
    narrow_channels(model, {"z": KEPT})
    found, stays = dict(zip(shapes(model), model.graph.initializer, strict=True)), {"b9"}
    assert {name for name, tensor in found.items() if tensor.data_location == TensorProto.EXTERNAL} == stays
    for tensor in wanted.graph.initializer:
        if tensor.name not in stays:
            assert found[tensor.name].SerializeToString() == tensor.SerializeToString()


def test_before_ir_version_4() -> None:
    model = build(
        """g (float[N,4,8,7] x) => (float[N,5,8,7] y, float[N,6,8,7] other) {
            a = Conv(x, w, b)  z = Relu(a)  y = Conv(z, w9)  other = Conv(x, w)
        }""",
        {"w": filters(0, M, 4, 1, 1), "b": normal(1, M), "w9": filters(3, 5, M, 1, 1)},
        ir=3,
        opset=8,
    )
    narrow = check_same(model, "y")
    listed = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in narrow.graph.input[1:]
    }
    assert listed == shapes(narrow)
    assert listed["w/narrow"] == (4, 4, 1, 1)


def test_declared_shapes() -> None:
    model = inverted_residual()
    for name, shape in {
        "er": ["N", M, 8, 7],
        "dr": ["N", "C", 8, 7],
        "pn": ["N", 4, 8, 7],
        "d": None,
        "e": [2],
    }.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model.graph.value_info.append(helper.make_tensor_value_info("wd", TensorProto.FLOAT, [M, 1, 3, 3]))
    narrow_channels(model, {"dr": KEPT})
    declared = {
        value.name: [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    assert declared == {"er": ["N", 4, 8, 7], "dr": ["N", 4, 8, 7], "pn": ["N", 4, 8, 7], "d": [], "wd": [4, 1, 3, 3]}


def test_annotations_with_a_scale_for_every_channel_go() -> None:
    model = block("z = Relu(a)", {"scales": normal(3, M), "scale": np.float32([0.1])})
    for tensor, scale in {"w0": "scales", "z": "scale", "y": "scales"}.items():
        annotation = model.graph.quantization_annotation.add(tensor_name=tensor)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    narrow_channels(model, {"z": KEPT})
    assert [each.tensor_name for each in model.graph.quantization_annotation] == ["z", "y"]


def test_texts_stay() -> None:
    model = inverted_residual()
    for number, each in enumerate([*model.graph.node, *model.graph.initializer, model.graph, model]):
        each.doc_string = f"text {number}"
    for number, node in enumerate(model.graph.node):
        node.name = f"node {number}"
    narrow = copy_of(model)
    narrow_channels(narrow, {"dr": KEPT})
    depthwise = next(node for node in narrow.graph.node if node.output[0] == "d")
    next(each for each in depthwise.attribute if each.name == "group").i = M
    del narrow.graph.initializer[:]
    narrow.graph.initializer.extend(model.graph.initializer)
    assert narrow == model


def test_layers_that_were_replaced() -> None:
    """The group is found again where chains of thin layers have taken the places of its ends."""
    model = inverted_residual()
    layers, _ = find(model, {"x": X})
    for layer in layers:
        if layer.name in {"e", "p"}:
            replace_layer(model, layer, same(layer))
    narrow = check_same(model, "p/lowrank_0")
    assert shapes(narrow)["e/lowrank_1/weight"] == (4, M, 1, 1)
    assert shapes(narrow)["e/lowrank_1/bias"] == (4,)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("x", "made by the network's input 'x'"),
        ("a", "no layer reads them"),
        ("z", "a shortcut shares its channels"),
        ("nothing", "no layer reads them"),
    ],
)
def test_no_group(tensor: str, reason: str) -> None:
    model = block("r = Relu(a)  b = Conv(r, wb)  z = Add(r, b)", {"wb": filters(3, M, M, 1, 1)})
    before = model.SerializeToString()
    message = f"the channels of tensor '{tensor}' cannot be left out ({reason}): keep its width"
    with pytest.raises(ModelError) as caught:
        narrow_channels(model, {tensor: KEPT[:3]})
    assert str(caught.value) == message
    assert model.SerializeToString() == before


@pytest.mark.parametrize("kept", [[], [2, 1], [1, 1], [-1, 2], [0, M], [[0, 1]]])
def test_indices_that_are_none(kept: list[Any]) -> None:
    model = in_block("one activation")
    with pytest.raises(ValueError, match=f"kept must be ascending indices of the {M} channels, got"):
        narrow_channels(model, {"z": np.array(kept, int)})


# What may come between a maker and a reader: text with {0} for the tensor read and {1} for the one made, and constants
# by a prefix, with the axis that counts channels or None.
def members(seed: int) -> dict[str, tuple[str, dict[str, tuple[Array, int | None]]]]:
    slope, one = (normal(seed, M, 1, 1) / 2, 0), (np.float32([0.3]), None)
    statistics = {f"n{place}": (value, 0) for place, value in enumerate(normalization(seed, M, "").values())}
    gate = {
        **{"ws": (filters(seed, 3, M, 1, 1), 1), "wt": (filters(seed + 1, M, 3, 1, 1), 0), "bt": (normal(seed, M), 0)},
    }
    plain = {op: (f"{{1}} = {op}({{0}})", {}) for op in ("Relu", "HardSwish", "Tanh", "Erf", "Identity", "Abs")}
    return plain | {
        "scale": ("{1} = Mul({0}, {p}k)", {"k": slope}),
        "offset": ("{1} = Add({p}k, {0})", {"k": (normal(seed, 1, M, 1, 1), 1)}),
        "map": ("{1} = Sub({0}, {p}k)", {"k": (normal(seed, M, 7, 7), 0)}),
        "divided": ("{1} = Div({0}, {p}k)", {"k": (1 + slope[0] ** 2, 0)}),
        "single": ("{1} = Max({0}, {p}k)", {"k": one}),
        "PRelu": ("{1} = PRelu({0}, {p}k)", {"k": slope}),
        "normalized": ("{1} = BatchNormalization({0}, {p}n0, {p}n1, {p}n2, {p}n3)", statistics),
        "depthwise": (
            "{1} = Conv<pads=[1,1,1,1], group=6>({0}, {p}w, {p}b)",
            {"w": (filters(seed, M, 1, 3, 3), 0), "b": (normal(seed, M), 0)},
        ),
        "pool": ("{1} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({0})", {}),
        "mean": ("{1} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({0})", {}),
        "padded": (
            "{p}q = Pad({0}, {p}k)  {1} = MaxPool<kernel_shape=[2,3]>({p}q)",
            {"k": (np.array([0, 0, 1, 0, 0, 0, 0, 2]), None)},
        ),
        "last": (
            "{p}q = Transpose<perm=[0,2,3,1]>({0})  {p}r = Add({p}q, {p}k)  {1} = Transpose<perm=[0,3,1,2]>({p}r)",
            {"k": (normal(seed, M), 0)},
        ),
        "SiLU": ("{p}g = Sigmoid({0})  {1} = Mul({p}g, {0})", {}),
        "sum": ("{p}g = Tanh({0})  {1} = Add({p}g, {0})", {}),
        "multiplied": (
            "{p}c = Conv<pads=[0,1,1,1]>(x, {p}w)  {p}g = Sigmoid({p}c)  {1} = Mul({0}, {p}g)",
            {"w": (filters(seed, M, 4, 3, 3), 0)},
        ),
        "gate": (
            "{p}p = GlobalAveragePool({0})  {p}s = Conv({p}p, {p}ws)  {p}r = Relu({p}s)"
            "  {p}t = Conv({p}r, {p}wt, {p}bt)  {p}g = HardSigmoid({p}t)  {1} = Mul({0}, {p}g)",
            gate,
        ),
    }


ENDS = {
    "convolution": ("y = Conv<strides=[2,1]>({0}, last)", (5, M, 3, 3)),
    "matrix": ("f = GlobalAveragePool({0})  h = Flatten(f)  y = MatMul(h, last)", (M, 5)),
    "rows": ("t = Transpose<perm=[0,2,3,1]>({0})  y = MatMul(t, last)", (M, 5)),
}


@settings(deadline=None, max_examples=40)
@given(
    between=st.lists(st.sampled_from(sorted(members(0))), max_size=6),
    end=st.sampled_from(sorted(ENDS)),
    kept=st.sets(st.integers(0, M - 1), min_size=1),
)
def test_any_chain(between: list[str], end: str, kept: set[int]) -> None:
    constants: dict[str, tuple[Array, int | None]] = {"w": (filters(0, M, 4, 3, 3), 0), "b": (normal(1, M), 0)}
    body, tensor = "a = Conv<pads=[1,1,1,1]>(x, w, b)  m = MaxPool<kernel_shape=[2,1]>(a)  ", "m"
    for number, name in enumerate(between):
        text, own = members(10 * number)[name]
        prefix, made = f"{name}{number}", f"after{number}"
        body += text.replace("{p}", prefix).format(tensor, made) + "  "
        constants |= {prefix + key: constant for key, constant in own.items()}
        tensor = made
    text, shape = ENDS[end]
    constants["last"] = normal(99, *shape), shape.index(M)
    trailing = "5" if end == "matrix" else "e,f,h" if end == "rows" else "5,e,f"
    model = build(
        f"g (float[N,4,8,7] x) => (float[N,{trailing}] y) {{ {body} {text.format(tensor)} }}",
        {name: value for name, (value, _) in constants.items()},
    )
    narrow = check_same(model, "y", np.array(sorted(kept)))
    wanted = {
        name: tuple(len(kept) if place == axis else size for place, size in enumerate(value.shape))
        for name, (value, axis) in constants.items()
    }
    assert shapes(narrow) == wanted
