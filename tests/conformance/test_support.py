"""The table of tools/docs/support.md says of every operator and case what `inspect` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import inspect
from onnx_lowrank.layers.layer import Layer
from tests.helpers import build, normal

Array = NDArray[Any]
PAGE = Path(__file__).parents[2] / "tools" / "docs" / "support.md"
MAP = "float[N,64,8,8] x"
ROW = "float[N,64] x"


def conv(body: str = "y = Conv (x, w)", *shape: int, **more: Any) -> onnx.ModelProto:
    return build(f"g ({MAP}) => (float[N,A,B,C] y) {{ {body} }}", {"w": normal(0, *(shape or (8, 64, 3, 3))), **more})


def dense(body: str, read: str = ROW, **more: Any) -> onnx.ModelProto:
    return build(f"g ({read}) => (float[N,M] y) {{ {body} }}", {"w": normal(0, 64, 8), **more})


def quantized(body: str, **more: Any) -> onnx.ModelProto:
    constants = {"s": np.float32(0.1), "z": np.uint8(128), "q": normal(0, 8, 64, 3, 3).astype(np.int8), **more}
    constants["u"] = constants["q"].astype(np.uint8)  # which every release of onnxruntime has a kernel for
    return build(f"g ({MAP}) => (float[N,A,B,C] y) {{ {body} }}", constants)


def own_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def in_constant_node() -> onnx.ModelProto:
    model = build(f"g ({MAP}) => (float[N,A,B,C] y) {{ y = Conv (x, w) }}")
    node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(0, 8, 64, 3, 3)))
    model.graph.node.insert(0, node)
    return model


def sparse() -> onnx.ModelProto:
    model = build(f"g ({MAP}) => (float[N,A,B,C] y) {{ y = Conv (x, w) }}")
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([5, 77]), "places"), [8, 64, 3, 3])
    )
    return model


def in_function() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g ({MAP}) => (float[N,A,B,C] y) {{ y = own.f (x, w) }}
        <domain: "own", opset_import: ["" : 17]> f (i, k) => (o) {{ o = Conv (i, k) }}"""
    )
    model.graph.initializer.append(numpy_helper.from_array(normal(0, 8, 64, 3, 3), "w"))
    return model


def in_branch() -> onnx.ModelProto:
    body = """y = If (yes) <
        then_branch = t () => (float[N,8,6,6] a) { a = Conv (x, w) },
        else_branch = e () => (float[N,8,6,6] b) { b = Conv (x, w) }
    >"""
    return conv(body, yes=np.array(True))


CASES: dict[tuple[str, str], onnx.ModelProto] = {
    ("Conv", "2-D, any kernel, stride, dilation, pads"): conv("y = Conv <strides=[2,1], pads=[0,1,2,0]> (x, w)"),
    ("Conv", "`auto_pad` SAME_UPPER, SAME_LOWER, VALID"): conv('y = Conv <auto_pad="SAME_LOWER"> (x, w)'),
    ("Conv", "1 x 1"): conv("y = Conv (x, w)", 8, 64, 1, 1),
    ("Conv", "1-D"): build("g (float[N,64,9] x) => (float[N,8,7] y) { y = Conv (x, w) }", {"w": normal(0, 8, 64, 3)}),
    ("Conv", "3-D"): build(
        "g (float[N,9,4,5,6] x) => (float[N,8,2,3,4] y) { y = Conv (x, w) }", {"w": normal(0, 8, 9, 3, 3, 3)}
    ),
    ("Conv", "groups of 32 channels or more"): conv("y = Conv <group=2> (x, w)", 64, 32, 3, 3),
    ("Conv", "groups of fewer channels"): conv("y = Conv <group=4> (x, w)", 64, 16, 3, 3),
    ("Conv", "depthwise"): conv("y = Conv <group=64> (x, w)", 64, 1, 3, 3),
    ("Conv", "behind Pad, Resize, Split, any other node"): conv(
        "p = Pad (x, pads)  y = Conv (p, w)", pads=np.array([0, 0, 1, 1, 0, 0, 1, 1])
    ),
    ("Conv", "weight in a Constant node"): in_constant_node(),
    ("Conv", "weight behind Identity, Cast, Reshape, Transpose"): conv(
        "t = Transpose <perm=[3,2,0,1]> (w)  y = Conv (x, t)", 3, 3, 64, 8
    ),
    ("Conv", "weight behind DequantizeLinear"): quantized(
        "w = DequantizeLinear (q, s, n)  y = Conv (x, w)", n=np.int8(0)
    ),
    ("Conv", "weight that several nodes read"): conv("a = Conv (x, w)  b = Conv (x, w)  y = Add (a, b)"),
    ("Conv", "weight computed from constants, as in weight normalization"): conv(
        "n = ReduceL2 <axes=[1,2,3]> (w)  u = Div (w, n)  v = Mul (u, g)  y = Conv (x, v)", g=normal(1, 8, 1, 1, 1)
    ),
    ("Conv", "weight that is computed from inputs"): conv(
        "m = ReduceMean <axes=[0,2,3], keepdims=1> (x)  v = Mul (w, m)  y = Conv (x, v)"
    ),
    ("Conv", "weight computed from constants by other operators"): conv("v = Cos (w)  y = Conv (x, v)"),
    ("Conv", "weight that is an input"): build(
        f"g ({MAP}, float[8,64,3,3] w) => (float[N,A,B,C] y) {{ y = Conv (x, w) }}"
    ),
    ("Conv", "sparse weight"): sparse(),
    ("Conv", "bias that is computed from inputs"): conv(
        "m = ReduceMean <keepdims=0> (x)  v = Mul (b, m)  y = Conv (x, w, v)", b=normal(1, 8)
    ),
    ("Conv", "input that is constant"): conv(
        "a = Conv (k, w)  m = ReduceMean (a)  y = Add (x, m)", k=normal(1, 1, 64, 8, 8)
    ),
    ("Conv", "input behind DequantizeLinear"): quantized(
        "p = QuantizeLinear (x, s, z)  d = DequantizeLinear (p, s, z)  y = Conv (d, w)", w=normal(1, 8, 64, 3, 3)
    ),
    ("Conv", "in a function of the model's own"): in_function(),
    ("Conv", "in a branch of If, in Loop or Scan"): in_branch(),
    ("Gemm", "constant matrix, alpha, beta, transB"): dense(
        "y = Gemm <alpha=0.5, beta=2.0, transB=1> (x, t, b)", t=normal(2, 8, 64), b=normal(1, 8)
    ),
    ("Gemm", "transA"): dense("y = Gemm <transA=1> (x, w)", "float[64,5] x"),
    ("Gemm", "bias that is no row of numbers"): dense("y = Gemm (x, w, b)", "float[3,64] x", b=normal(1, 3, 1)),
    ("MatMul", "constant matrix on the right, any number of rows"): dense("y = MatMul (x, w)", "float[N,9,64] x"),
    ("MatMul", "constant matrix on the left"): dense("y = MatMul (v, x)", "float[8,5] x", v=normal(1, 4, 8)),
    ("MatMul", "stack of matrices"): dense("y = MatMul (x, v)", "float[N,3,5,64] x", v=normal(1, 3, 64, 8)),
    ("ConvTranspose", "1-D, 2-D, 3-D, stride, dilation, pads, `output_padding`"): conv(
        "y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,0]> (x, w)", 64, 8, 4, 4
    ),
    ("ConvTranspose", "`auto_pad`; `output_shape` where the network's inputs have fixed sizes"): conv(
        'y = ConvTranspose <auto_pad="SAME_UPPER", strides=[2,2]> (x, w)', 64, 8, 3, 3
    ),
    ("ConvTranspose", "depthwise"): conv("y = ConvTranspose <group=64> (x, w)", 64, 1, 3, 3),
    ("ConvInteger", ""): quantized("p = Cast <to=2> (x)  i = ConvInteger (p, u)  y = Cast <to=1> (i)"),
    ("QLinearConv", ""): quantized(
        "p = QuantizeLinear (x, s, z)  i = QLinearConv (p, s, z, q, s, n, s, z)  y = DequantizeLinear (i, s, z)",
        n=np.int8(0),
    ),
    ("MatMulInteger", ""): dense(
        "p = Cast <to=3> (x)  i = MatMulInteger (p, q)  y = Cast <to=1> (i)", q=normal(1, 64, 8).astype(np.int8)
    ),
    ("com.microsoft.FusedConv", ""): own_domain(
        conv('y = com.microsoft.FusedConv <activation="Relu"> (x, w, b)', b=normal(1, 8))
    ),
    ("com.microsoft.FusedMatMul", ""): own_domain(dense("y = com.microsoft.FusedMatMul (x, w)")),
    ("Einsum", "of two operands or more"): dense('y = Einsum <equation="ij,jk->ik"> (x, w)'),
    ("LSTM", ""): dense(
        "s, h = LSTM <hidden_size=2> (x, k, r)  y = Squeeze (h, a)",
        "float[N,4,8] x",
        k=normal(1, 1, 8, 8),
        r=normal(2, 1, 8, 2),
        a=np.array([0]),
    ),
    ("GRU", ""): dense(
        "s, h = GRU <hidden_size=2> (x, k, r)  y = Squeeze (h, a)",
        "float[N,4,8] x",
        k=normal(1, 1, 6, 8),
        r=normal(2, 1, 6, 2),
        a=np.array([0]),
    ),
    ("com.microsoft.MultiHeadAttention", ""): own_domain(
        build("g (float[N,5,8] x) => (float[N,5,8] y) { y = com.microsoft.MultiHeadAttention <num_heads=2> (x, x, x) }")
    ),
}


def verdict(operator: str, model: onnx.ModelProto) -> str:
    rows = [row for row in inspect(model).rows if row.op == operator.rpartition(".")[2]]
    found = {"converted" if isinstance(row, Layer) else row.reason for row in rows}
    assert len(found) == 1
    return found.pop()


def table() -> dict[tuple[str, str], str]:
    """The rows of the page's first table."""
    rows = re.findall(r"^\| `(.+?)` \| (.*?) ?\| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {(operator, case): what for operator, case, what in rows}


def test_the_table_has_every_case_and_no_other() -> None:
    assert list(table()) == list(CASES)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_what_the_table_says(case: tuple[str, str]) -> None:
    found = verdict(case[0], CASES[case])
    assert table()[case] == (found if found == "converted" else f"stays: {found}")


def written() -> str:
    """Write the page's table: ``python -c "from tests.conformance.test_support import *; print(written())"``."""
    rows = {case: verdict(case[0], model) for case, model in CASES.items()}
    return "\n".join(
        f"| `{operator}` | {case}{' ' if case else ''}| {what if what == 'converted' else f'stays: {what}'} |"
        for (operator, case), what in rows.items()
    )
