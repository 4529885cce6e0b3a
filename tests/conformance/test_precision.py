"""Networks in other types than float32: solved all the same, written in their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank import LayerPlan, RankPlan, bench, compare, convert, inspect
from onnx_lowrank.errors import ModelError
from tests.helpers import build, filters, normal, relative
from tests.networks import images

Array = NDArray[Any]
IMAGES = images(40, size=8)
TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "double": np.float64}
DIGITS = {"float16": 2e-3, "bfloat16": 2e-2, "double": 1e-6}  # of a layer's response


def typed(kind: str) -> onnx.ModelProto:
    """Convolutions, a Cast there and back, a constant made by a node, in one type from input to output."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[kind]))
    graph = f"""g ({kind}[N, 3, 8, 8] x) => ({kind}[N, 5] y, {kind}[N, 16, 8, 8] before) {{
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        n1 = BatchNormalization (c1, gamma, beta, mean, variance)
        before = Relu (n1)
        c2 = Conv <pads = [1, 1, 1, 1]> (before, w2)
        wide = Cast <to = 1> (c2)
        narrow = Cast <to = {code}> (wide)
        two = ConstantOfShape (shape)
        s2 = Mul (narrow, two)
        r2 = Relu (s2)
        p = GlobalAveragePool (r2)
        q = Flatten (p)
        y = Gemm (q, f)
    }}"""
    weights = {
        "w1": filters(0, 16, 3, 3, 3),
        "b1": normal(1, 16),
        "gamma": 1 + 0.2 * normal(2, 16),
        "beta": normal(3, 16),
        "mean": 0.1 * normal(4, 16),
        "variance": 1 + 0.3 * np.abs(normal(5, 16)),
        "w2": filters(6, 16, 16, 3, 3),
        "f": normal(7, 16, 5),
    }
    model = build(graph, {name: values.astype(TYPES[kind]) for name, values in weights.items()}, opset=22, ir=10)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "shape"))
    filled = next(node for node in model.graph.node if node.op_type == "ConstantOfShape")
    filled.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.full(1, 2, TYPES[kind]))))
    return model


def evaluated(model: onnx.ModelProto, images: Array) -> list[Array]:
    """What onnx's own reference computes, which knows all types."""
    return [np.asarray(values, np.float64) for values in ReferenceEvaluator(model).run(None, {"x": images})]


def kinds(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64}


@pytest.mark.parametrize("kind", TYPES)
def test_factors_are_written_in_the_networks_own_type(kind: str) -> None:
    model = typed(kind)
    result = convert(model, {"x": IMAGES}, speedup=1.5, rank_multiple=1, bench=False)
    assert result.model is not None
    assert "c2" in {layer.name for layer in result.report.layers if layer.method != "kept"}
    assert kinds(result.model) == kinds(model)
    assert (list(result.model.graph.input), list(result.model.graph.output)) == (
        list(model.graph.input),
        list(model.graph.output),
    )
    onnx.checker.check_model(result.model)
    few = IMAGES[:4].astype(TYPES[kind])
    wanted, found = evaluated(model, few), evaluated(result.model, few)
    measured = compare(model, result.model, {"x": few}).outputs
    for name, before, after in zip(("y", "before"), wanted, found, strict=True):
        assert relative(before, after) == pytest.approx(measured[name].relative_error, abs=2 * DIGITS[kind])
    assert 0.01 < measured["y"].relative_error < 0.3


@pytest.mark.parametrize("kind", TYPES)
def test_full_rank_is_exact_to_the_digits_of_the_type(kind: str) -> None:
    """Ranks so high that nothing is lost but digits."""
    model = typed(kind)
    plan = RankPlan(tuple(LayerPlan(name, "channel", channel=16) for name in ("c1", "c2")))
    result = convert(model, {"x": IMAGES}, plan=plan, solver="linear", bench=False)
    assert result.model is not None
    few = IMAGES[:4].astype(TYPES[kind])
    for before, after in zip(evaluated(model, few), evaluated(result.model, few), strict=True):
        assert relative(before, after) < DIGITS[kind]


@pytest.mark.parametrize("kind", ["bfloat16", "double"])
def test_every_command_takes_them(kind: str, tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(typed(kind), path)
    result = convert(path, {"x": IMAGES}, speedup=1.5, rank_multiple=1, output=out)
    assert inspect(out).macs == result.report.macs[1]
    assert compare(path, out, {"x": IMAGES}).outputs["y"].relative_error < 0.3
    assert len(bench([path, out]).models) == 2


def test_a_network_that_runs_in_no_type_is_still_an_error() -> None:
    model = typed("bfloat16")
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelError, match="onnxruntime cannot load it: .*Convolve"):
        inspect(model)


def test_types_in_subgraphs_and_sequences_change_too() -> None:
    graph = """g (double[N, 3, 8, 8] x) => (double[N, 6, 8, 8] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        s = SequenceConstruct (r, r)
        z = SequenceAt (s, one)
        y = If (yes) <
            then_branch = t () => (double[N, 6, 8, 8] a) { k = Constant <value = double {2}> ()  a = Mul (z, k) },
            else_branch = e () => (double[N, 6, 8, 8] b) { b = Identity (z) }
        >
    }"""
    weights = {"w": filters(0, 6, 3, 3, 3).astype(np.float64), "one": np.array(1), "yes": np.array(True)}
    model = build(graph, weights)
    result = convert(model, {"x": IMAGES}, speedup=1.2, rank_multiple=1, bench=False)
    assert result.model is not None
    (before,), (after,) = (evaluated(each, IMAGES[:4].astype(np.float64)) for each in (model, result.model))
    assert 0 < relative(before, after) < 0.3
