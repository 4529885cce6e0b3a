"""Multiply-adds and parameters of what stays, against sums written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_lowrank import convert
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.graph import find_layers
from onnx_lowrank.runtime.network import count_macs
from tests.helpers import CPU, build, filters, find, normal

MAP = "float[N,4,9,8] x"


def counts(model: onnx.ModelProto, **feeds: Any) -> list[tuple[int, int]]:
    """Multiply-adds per sample and parameters of every node that stays."""
    return [(row.macs, row.parameters) for row in find(model, feeds)[1]]


def own_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize("batch", [1, 3])
def test_transposed_convolutions_count_from_their_input(batch: int) -> None:
    x = normal(0, batch, 4, 9, 8)
    weights = {"w": filters(0, 4, 6, 3, 2), "b": normal(1, 6), "g": filters(2, 4, 5, 3, 2)}
    computed = f"g ({MAP}) => (float[N,c,h,v] y) {{ k = Cos(%s) y = ConvTranspose%s }}"  # so that it stays
    one = build(computed % ("w", "<strides=[2,3]>(x, k, b)"), weights)
    assert counts(one, x=x) == [(9 * 8 * 4 * 6 * 6, 4 * 6 * 6 + 6)]
    two = build(computed % ("g", "<group=2, strides=[2,2]>(x, k)"), weights)
    assert counts(two, x=x) == [(9 * 8 * 4 * 5 * 6, 4 * 5 * 6)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("body", "macs", "parameters"),
    [
        ("t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)", 7 * 6 * 7, 0),
        ("y = MatMul(c, x)", 2 * 7 * 6, 2 * 7),
        ("k = Cos(w) y = MatMul(x, k)", 7 * 6 * 5, 6 * 5),
        ("y = Einsum<equation='bij,jk->bik'>(x, w)", 7 * 6 * 5, 6 * 5),
        ("y = Einsum<equation='...ij, ...kj -> ...ik'>(x, x)", 7 * 7 * 6, 0),
        ("y = Einsum<equation='bij->bji'>(x)", None, None),
        ("y, h, s = LSTM<hidden_size=3, layout=1>(x, lw, lr, lb)", 7 * 12 * (6 + 3), 12 * (6 + 3) + 24),
        ("t = Transpose<perm=[1,0,2]>(x) y, h = GRU<hidden_size=3>(t, gw, gr)", 7 * 9 * (6 + 3), 9 * (6 + 3)),
    ],
)
def test_products_and_recurrent_operators(batch: int, body: str, macs: int | None, parameters: int) -> None:
    weights = {"w": normal(0, 6, 5), "c": normal(1, 2, 7), "lw": normal(2, 1, 12, 6), "lr": normal(3, 1, 12, 3)}
    weights |= {"lb": normal(4, 1, 24), "gw": normal(5, 1, 9, 6), "gr": normal(6, 1, 9, 3)}
    text = body.replace("'", '"')
    model = build(f"g (float[N,7,6] x) => (float y) {{ {text} }}", weights, opset=14)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if "LSTM" in body:  # onnxruntime has no kernel for this layout: sizes as the operator defines them
        model.graph.ClearField("output")
        _, (row,) = find_layers(model, {"x": (batch, 7, 6), "y": (batch, 7, 1, 3)}, batch)
        assert (row.macs, row.parameters) == (macs, parameters)
        return
    assert counts(model, x=normal(7, batch, 7, 6)) == ([] if macs is None else [(macs, parameters)])


def test_convolutions_whose_weights_are_computed() -> None:
    model = build(
        """g (float[N,4,9,8] x, float[6,2,3,3] w) => (float[N,6,7,6] y) {
            a = Conv<group=2>(x, w)
            k = Cos(v)
            y = Conv<group=2>(x, k)
        }""",
        {"v": filters(0, 6, 2, 3, 3)},
    )
    assert counts(model, x=normal(0, 2, 4, 9, 8), w=filters(1, 6, 2, 3, 3)) == [(42 * 6 * 18, 0), (42 * 6 * 18, 6 * 18)]


def test_integer_operators() -> None:
    constants = {"q": np.ones((6, 4, 3, 3), np.int8), "s": np.float32(0.1), "z": np.uint8(0), "n": np.int8(0)}
    constants |= {"m": np.ones((8, 5), np.int8), "u": np.ones((6, 4, 3, 3), np.uint8)}
    model = build(
        """g (uint8[N,4,9,8] x) => (int32[N,6,7,6] a, uint8[N,6,7,6] b, int32[N,4,9,5] c) {
            a = ConvInteger(x, u)
            b = QLinearConv(x, s, z, q, s, n, s, z)
            c = MatMulInteger(x, m)
        }""",
        constants,
    )
    convolution = (42 * 6 * 36, 6 * 36)
    assert counts(model, x=np.ones((2, 4, 9, 8), np.uint8)) == [convolution, convolution, (36 * 8 * 5, 40)]


def test_attention_of_onnxruntime() -> None:
    model = own_domain(
        build(
            """g (float[N,7,8] x, float[N,5,8] k, float[N,5,8] v) => (float[N,7,8] a, float[N,7,8] b) {
                a = com.microsoft.MultiHeadAttention<num_heads=2>(x, k, v)
                b = com.microsoft.Attention<num_heads=2>(x, w, c)
            }""",
            {"w": normal(0, 8, 24), "c": normal(1, 24)},
        )
    )
    x, k = normal(2, 2, 7, 8), normal(3, 2, 5, 8)
    assert counts(model, x=x, k=k, v=k) == [(2 * 7 * 5 * 8, 0), (7 * 8 * 24 + 2 * 7 * 7 * 8, 8 * 24 + 24)]


def test_bodies_count_once() -> None:
    model = build(
        """g (float[N,4,9,8] x, bool yes) => (float[N,6,7,6] y) {
            y = If (yes) <
                then_branch = t () => (float[n,6,7,6] a) { a = Conv(x, w) },
                else_branch = e () => (float[n,6,7,6] b) { o = Conv<pads=[1,1,1,1]>(x, u) b = Conv(o, w) }
            >
        }""",
        {"w": filters(0, 6, 4, 3, 3), "u": filters(1, 4, 4, 3, 3)},
    )
    found = counts(model, x=normal(0, 2, 4, 9, 8), yes=np.array(True))
    assert found == [(42 * 6 * 36, 6 * 36), (72 * 4 * 36, 4 * 36), (42 * 6 * 36, 6 * 36)]


def generator() -> onnx.ModelProto:
    """Two convolutions, and behind them a grouped ConvTranspose, products of activations and a recurrent operator."""
    return build(
        """g (float[N,3,8,8] x) => (float[N,8,16,16] y, float[2,N,9] z) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(c)
            d = Conv<pads=[1,1,1,1]>(r, v)
            s = Relu(d)
            y = ConvTranspose<group=2, strides=[2,2]>(s, t)
            f = Reshape(s, shape)
            u = Transpose<perm=[0,2,1]>(f)
            p = MatMul(u, f)
            q = Transpose<perm=[1,0,2]>(p)
            o, z = LSTM<hidden_size=9, direction="bidirectional">(q, lw, lr)
        }""",
        {
            "w": filters(0, 32, 3, 3, 3), "v": filters(1, 32, 32, 3, 3), "t": filters(2, 32, 4, 2, 2),
            "shape": np.array([0, 32, 64]), "lw": normal(3, 2, 36, 64) / 9, "lr": normal(4, 2, 36, 9) / 9,
        },
    )  # fmt: skip


FIRST, SECOND = 64 * 32 * 27, 64 * 32 * 288
STAY = 64 * 32 * 16 + 64 * 64 * 32 + 64 * 2 * 36 * (64 + 9)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_network_counts_all_it_multiplies(batch: int) -> None:
    feeds = {"x": normal(0, batch, 3, 8, 8)}
    assert count_macs(generator(), feeds, CPU) == FIRST + SECOND + STAY


def test_a_report_counts_what_stays_and_the_written_file_agrees() -> None:
    result = convert(generator(), {"x": normal(0, 40, 3, 8, 8)}, speedup=1.3, refine="none", bench=False)
    before, after = result.report.macs
    assert before == FIRST + SECOND + STAY
    assert result.model is not None
    assert count_macs(result.model, {"x": normal(1, 1, 3, 8, 8)}, CPU) == after <= before / 1.3


def test_a_target_beyond_what_stays_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"speedup 3 cannot be reached, the largest that can is 2\.[0-3]") as error:
        convert(generator(), {"x": normal(0, 40, 3, 8, 8)}, speedup=3, bench=False)
    assert f"of which {STAY:.4g} are in layers that stay" in str(error.value)
