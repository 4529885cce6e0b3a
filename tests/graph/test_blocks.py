from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_lowrank.graph.blocks import Block, changed_tensors, split_into_blocks
from onnx_lowrank.graph.extract import extract, with_outputs
from tests.helpers import Array, build, filters, normal, run

CONV = "Conv<pads=[1,1,1,1]>"


def with_other_weights(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return a copy in which some weights are others."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(0.5 * numpy_helper.to_array(tensor), tensor.name))
    return copy


def cut(model: onnx.ModelProto, converted: onnx.ModelProto, x: Array) -> list[Block]:
    """Cut two networks where their tensors have the same shapes on a batch."""
    made = [name for node in model.graph.node for name in node.output]
    ours, theirs = ({"x": x, **run(with_outputs(each, made), {"x": x})} for each in (converted, model))
    shapes = {name: array.shape for name, array in theirs.items() if ours[name].shape == array.shape}
    return split_into_blocks(model, converted, shapes, frozenset(n for n in shapes if theirs[n].dtype.kind == "f"))


def one_after_the_other(model: onnx.ModelProto, blocks: list[Block], x: Array) -> dict[str, Array]:
    """Run the blocks of a network as models of their own, each on what the others delivered, then the rest."""
    known = {"x": x}
    for block in blocks:
        assert set(block.inputs) == set(known)
        known |= part(model, known, block.made)
        known = {name: known[name] for name in block.outputs}
    outputs = [value.name for value in model.graph.output]
    return known | part(model, known, [name for name in outputs if name not in known])


def part(model: onnx.ModelProto, given: dict[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    types = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    inputs = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    return run(extract(model, inputs, outputs), given) if wanted else {}


def chain(convolutions: int, pools: tuple[int, ...] = ()) -> onnx.ModelProto:
    lines, tensor = [], "x"
    for number in range(convolutions):
        lines.append(f"c{number} = {CONV}({tensor}, w{number})  r{number} = Relu(c{number})")
        tensor = f"r{number}"
        if number in pools:
            lines.append(f"p{number} = MaxPool<kernel_shape=[2,2], strides=[2,2]>({tensor})")
            tensor = f"p{number}"
    lines.append(f"y = GlobalAveragePool({tensor})")
    weights = {f"w{number}": filters(number, 4, 4, 3, 3) for number in range(convolutions)}
    return build(f"g (float[N,4,16,16] x) => (float[N,4,1,1] y) {{ {' '.join(lines)} }}", weights)


def test_blocks_end_where_least_goes_through() -> None:
    model = chain(7, pools=(1, 4))
    blocks = cut(model, with_other_weights(model, *(f"w{number}" for number in range(7))), normal(0, 2, 4, 16, 16))
    assert [block.outputs for block in blocks] == [("p1",), ("p4",), ("y",)]
    assert [block.layers for block in blocks] == [("c0", "c1"), ("c2", "c3", "c4"), ("c5", "c6")]
    assert [block.inputs for block in blocks] == [("x",), ("p1",), ("p4",)]


def test_layers_that_stay_are_in_no_block() -> None:
    model = chain(4)
    blocks = cut(model, with_other_weights(model, "w1"), normal(0, 2, 4, 16, 16))
    assert [block.layers for block in blocks] == [("c1",)]
    assert blocks[0].compared == ("y",)
    assert cut(model, model, normal(0, 2, 4, 16, 16)) == []


def residual() -> onnx.ModelProto:
    lines, weights = ["s0 = Relu(x)"], {}
    for number in range(1, 4):
        before = f"s{number - 1}"
        lines.append(
            f"a{number} = {CONV}({before}, v{number})  r{number} = Relu(a{number})  "
            f"b{number} = {CONV}(r{number}, w{number})  s{number} = Add(b{number}, {before})"
        )
        weights |= {f"v{number}": filters(number, 2, 4, 3, 3), f"w{number}": filters(number + 9, 4, 2, 3, 3)}
    return build(f"g (float[N,4,8,8] x) => (float[N,4,8,8] s3) {{ {' '.join(lines)} }}", weights)


def test_residual_blocks_stay_whole() -> None:
    """Inside one, the shortcut goes through as well; ``r`` is smaller than the sum, but not alone."""
    model = residual()
    blocks = cut(model, with_other_weights(model, *(f"{k}{n}" for k in "vw" for n in (1, 2, 3))), normal(0, 2, 4, 8, 8))
    assert [block.outputs for block in blocks] == [("s1",), ("s2",), ("s3",)]


def test_tensors_of_other_shapes_are_not_cut_at() -> None:
    model = chain(4)
    narrow = with_other_weights(model, *(f"w{number}" for number in range(4)))
    for tensor in narrow.graph.initializer:
        whole = numpy_helper.to_array(tensor)
        if tensor.name in {"w1", "w2"}:  # one channel less between the two
            part = whole[:3] if tensor.name == "w1" else whole[:, :3]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(part), tensor.name))
    blocks = cut(model, narrow, normal(0, 2, 4, 16, 16))
    assert {name for block in blocks for name in block.outputs}.isdisjoint({"c1", "r1"})
    assert [name for block in blocks for name in block.layers] == ["c0", "c1", "c2", "c3"]


def unet() -> onnx.ModelProto:
    """Skips over one another, and the batch size as a number that goes to the end."""
    text = f"""g (float[N,4,8,8] x) => (float[N,256] y) {{
        size = Shape<start=0, end=1>(x)
        c0 = {CONV}(x, w0)  d0 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c0)
        c1 = {CONV}(d0, w1)  d1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c1)
        c2 = {CONV}(d1, w2)  r2 = Relu(c2)  u2 = Resize(r2, none, twice)
        s2 = Add(u2, c1)  c3 = {CONV}(s2, w3)  r3 = Relu(c3)  u3 = Resize(r3, none, twice)
        s3 = Add(u3, c0)  c4 = {CONV}(s3, w4)  wanted = Concat<axis=0>(size, rest)  y = Reshape(c4, wanted)
    }}"""
    weights = {f"w{number}": filters(number, 4, 4, 3, 3) for number in range(5)}
    others = {"none": np.empty(0, np.float32), "twice": np.float32([1, 1, 2, 2]), "rest": np.int64([256])}
    return build(text, {**weights, **others})


@pytest.mark.parametrize("model", [chain(7, (1, 4)), residual(), unet()], ids=["chain", "residual", "unet"])
def test_blocks_one_after_the_other_do_what_the_network_does(model: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in model.graph.initializer if tensor.name[0] in "vw"]
    shape = (2, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    converted, x = with_other_weights(model, *names), normal(3, *shape)
    blocks = cut(model, converted, x)
    assert len(blocks) > 1
    assert [name for block in blocks for name in block.layers] == changed_tensors(model.graph, converted.graph)
    for each in (model, converted):
        found = one_after_the_other(each, blocks, x)
        for name, wanted in run(each, {"x": x}).items():
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)
    assert all(set(block.compared).isdisjoint(block.inputs) for block in blocks)
