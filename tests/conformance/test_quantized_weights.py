"""Weights that are stored in few bits become floating-point factors: that is said, and counted in bytes."""

from __future__ import annotations

import logging
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank import convert
from onnx_lowrank.errors import BudgetError
from onnx_lowrank.report import headline
from tests.helpers import build, filters, normal

DATA = {"x": normal(5, 24, 32, 12, 12)}
ROWS = 32 * 9
KINDS = {
    "int8": (np.int8, 21), "uint8": (np.uint8, 13), "int4": (ml_dtypes.int4, 21),
    "uint4": (ml_dtypes.uint4, 21), "float8e4m3fn": (ml_dtypes.float8_e4m3fn, 19),
}  # fmt: skip


def quantized(kind: str) -> onnx.ModelProto:
    """A convolution in float32, and one whose weight is quantized per filter."""
    dtype, opset = KINDS[kind]
    weight = filters(0, 32, 32, 3, 3)
    scale = np.abs(weight).max((1, 2, 3)) / 7
    zero = 8 if kind.startswith("u") else 0
    stored = weight / scale[:, None, None, None] + zero
    if not kind.startswith("float"):
        stored = np.rint(stored)
    model = build(
        """g (float[N,32,12,12] x) => (float[N,32,12,12] y) {
            c = Conv<pads=[1,1,1,1]>(x, v)
            r = Relu(c)
            w = DequantizeLinear<axis=0>(q, s, z)
            d = Conv<pads=[1,1,1,1]>(r, w)
            y = Relu(d)
        }""",
        {"v": filters(1, 32, 32, 3, 3), "s": scale},
        opset=opset,
        ir=10 if opset > 20 else 9 if opset > 18 else 8,
    )
    model.graph.initializer.append(numpy_helper.from_array(stored.astype(dtype), "q"))
    model.graph.initializer.append(numpy_helper.from_array(np.full(32, zero).astype(dtype), "z"))
    return model


def stored_bytes(kind: str) -> int:
    bits = 4 if "int4" in kind else 8
    return (32 * ROWS + 32) * bits // 8 + 32 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_grow_are_said_to(kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(quantized(kind), path)
    with caplog.at_level(logging.WARNING):
        result = convert(path, DATA, speedup=1.5, include=["d"], bench=False, refine="none", output=tmp_path / "o.onnx")
    (factorized,) = (layer for layer in result.report.layers if layer.method != "kept")
    assert factorized.name == "d"
    factors = _factors(result.model)
    said = f"weights of 1 layers lose their quantization ({kind} become float32): {stored_bytes(kind)} bytes before, "
    assert any(record.getMessage().startswith(f"{said}{4 * factors} after") for record in caplog.records)
    sizes = {"before": path.stat().st_size, "after": (tmp_path / "o.onnx").stat().st_size}
    assert result.to_dict()["bytes"] == sizes
    grown = sizes["after"] / sizes["before"]
    word = f"({grown:.2f}x larger)" if grown > 1 else f"({1 / grown:.2f}x smaller)"
    assert any(line.startswith("file ") and line.endswith(word) for line in headline(result.report))


def _factors(model: onnx.ModelProto | None) -> int:
    assert model is not None
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.name != "v")


def test_quantized_layers_stay_where_their_factors_take_more_bytes(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"cost": "params", "bench": False, "refine": "none", "rank_multiple": 8}
    model = quantized("int4")
    whole = 32 * ROWS * 4 + stored_bytes("int4")
    result = convert(model, DATA, speedup=1.5, **settings)
    kept = [layer.name for layer in result.report.layers if layer.method == "kept"]
    assert kept == ["d"]
    assert "quantization" not in caplog.text
    assert result.model is not None
    after = sum(
        int(np.prod(t.dims)) * helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
        for t in result.model.graph.initializer
        if t.data_type == TensorProto.FLOAT and t.name != "s"
    )
    assert whole / (after + stored_bytes("int4")) >= 1.5
    with pytest.raises(BudgetError, match="cannot be reached"):
        convert(model, DATA, speedup=50, **settings)
