"""Networks with Dropout in training mode, and networks that really draw random numbers."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.layers.layer import SkippedLayer
from tests.helpers import build, filters, normal
from tests.networks import images

IMAGES = images(60, size=8)
WEIGHTS = {
    "w1": filters(0, 16, 3, 3, 3), "b1": normal(1, 16), "w2": filters(2, 24, 16, 3, 3), "w3": filters(3, 16, 24, 3, 3),
    "f": normal(4, 16, 10) / 4, "ratio": np.float32(0.5), "on": np.bool_(True), "zero": np.float32(0),
}  # fmt: skip


def network(between: str, opset: int = 17, outputs: str = "float[N,10] y") -> onnx.ModelProto:
    """Three convolutions and a classifier; ``between`` makes d from r2, in front of the third."""
    return build(
        f"""g (float[N,3,8,8] x) => ({outputs}) {{
            c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r1 = Relu (c1)
            c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)  r2 = Relu (c2)
            {between}
            c3 = Conv <pads = [1, 1, 1, 1]> (d, w3)  r3 = Relu (c3)
            p = GlobalAveragePool (r3)  q = Flatten (p)  y = Gemm (q, f)
        }}""",
        WEIGHTS,
        opset=opset,
    )


def factors(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in model.graph.initializer if "/lowrank" in tensor.name}


@pytest.mark.parametrize("opset", [12, 17])
def test_dropout_that_is_taken_out_changes_no_factor(opset: int) -> None:
    dropout, plain = (
        convert(network(between, opset), {"x": IMAGES}, speedup=1.5, rank_multiple=1, bench=False).model
        for between in ("d = Dropout (r2, ratio, on)", "d = Identity (r2)")
    )
    assert dropout is not None
    assert plain is not None
    assert factors(dropout) == factors(plain)
    assert factors(dropout)
    assert "Dropout" in {node.op_type for node in dropout.graph.node}


@pytest.mark.parametrize(
    "between",
    [
        "n = RandomNormalLike (r2)  d = Add (r2, n)",
        "k = Mul (r2, ratio)  n = RandomUniformLike <seed = 1.0> (k)  d = Mul (k, n)",
        "e, mask = Dropout (r2, ratio, on)  m = Cast <to = 1> (mask)  d = Mul (e, m)",
    ],
)
def test_layers_behind_a_draw_stay_and_outputs_are_not_refused(between: str, caplog: pytest.LogCaptureFixture) -> None:
    model = network(between)
    with caplog.at_level(logging.WARNING):
        result = convert(model, {"x": IMAGES}, speedup=1.05, rank_multiple=1, bench=False)
    (warning,) = [record.message for record in caplog.records if "draws random numbers" in record.message]
    assert warning.startswith("output 'y': differs between runs on the same samples, as '")
    assert not [record.message for record in caplog.records if "is not close" in record.message]
    assert result.report.warnings == ()
    stay = {layer.name: layer.reason for layer in result.report.layers if "is random" in (layer.reason or "")}
    assert stay.keys() == {"c3", "y"}
    reasons = {row.name: row.reason for row in inspect(model).rows if isinstance(row, SkippedLayer)}
    assert reasons == stay


def test_a_draw_that_changes_nothing_is_none(caplog: pytest.LogCaptureFixture) -> None:
    model = network("n = RandomNormalLike (r2)  k = Mul (n, zero)  d = Add (r2, k)")
    with caplog.at_level(logging.WARNING):
        result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert not [record for record in caplog.records if "random" in record.message]
    assert not [layer for layer in result.report.layers if "random" in (layer.reason or "")]


def test_an_output_of_pure_noise_is_not_refused() -> None:
    model = network("d = Identity (r2)  noise = RandomNormalLike (d)", outputs="float[N,10] y, float[N,24,8,8] noise")
    result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    assert not [layer for layer in result.report.layers if "random" in (layer.reason or "")]
