"""Outputs without numbers to compare: text, sequences, maps, optional values, and tensors that are empty."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_lowrank import compare, convert, sweep
from onnx_lowrank.errors import ModelError
from onnx_lowrank.report import to_html, to_markdown
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.verify import compare_outputs
from onnx_lowrank.verify.outputs import Accuracy
from tests.helpers import CPU, add_initializers, build, filters, normal, relative, run
from tests.networks import images

QUICK: dict[str, Any] = {"speedup": 1.3, "rank_multiple": 1, "bench": False, "refine": "none"}
BIRDS = np.array(["dunnock", "rook", "crake", "stilt"], dtype=object)
FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
TYPES = {
    "name": helper.make_tensor_type_proto(TensorProto.STRING, ["N"]),
    "names": helper.make_tensor_type_proto(TensorProto.STRING, [4]),
    "parts": helper.make_sequence_type_proto(FLOATS),
    "chances": helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, FLOATS)),
    "perhaps": helper.make_optional_type_proto(FLOATS),
    "none": helper.make_tensor_type_proto(TensorProto.FLOAT, ["M", 4]),
}


def classifier(*further: str, scores: bool = True) -> onnx.ModelProto:
    """Scores of four classes, and what else is made of them."""
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 4] scores) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        pool = GlobalAveragePool (r)
        flat = Flatten (pool)
        scores = MatMul (flat, f)
        best = ArgMax <axis = 1, keepdims = 0> (scores)
        name = Gather (birds, best)
        names = Identity (birds)
        parts = SequenceConstruct (scores, flat)
        perhaps = Optional (scores)
        none = Slice (scores, zero, zero)
    }"""
    model = build(graph, {"w": filters(0, 16, 3, 3, 3), "f": normal(1, 16, 4), "zero": np.array([0])})
    add_initializers(model, {"birds": BIRDS})
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    zipped: dict[str, Any] = {"domain": "ai.onnx.ml", "classlabels_strings": list(BIRDS)}
    model.graph.node.append(helper.make_node("ZipMap", ["scores"], ["chances"], **zipped))
    outputs = [helper.make_value_info(name, TYPES[name]) for name in further] + list(model.graph.output) * scores
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


@pytest.mark.parametrize("further", TYPES)
def test_outputs_without_numbers_are_kept_and_not_compared(further: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model, data = classifier(further), {"x": images(30)}
    result = convert(model, data, **QUICK)
    assert result.model is not None
    assert list(result.model.graph.output) == list(model.graph.output)
    assert result.report.verification is not None
    assert list(result.report.verification["outputs"]) == ["scores"]
    lines = [line for line in caplog.messages if "compared" in line]
    assert len(lines) == 1
    assert further in lines[0]
    assert convert(model, data, **{**QUICK, "speedup": 4.0, "max_drop": 0.9, "include": ["."]}).model is not None


def test_class_names_of_the_converted_network_are_those_of_its_scores() -> None:
    model, data = classifier("name", "names"), {"x": images(30)}
    result = convert(model, data, **QUICK)
    assert result.model is not None
    after = run(result.model, data)
    assert after["names"].tolist() == BIRDS.tolist()
    assert after["name"].tolist() == BIRDS[after["scores"].argmax(axis=1)].tolist()


@pytest.mark.parametrize("only", ["name", "parts", "chances", "perhaps"])
def test_where_nothing_else_comes_out_the_scores_behind_are_compared(only: str) -> None:
    model, data = classifier(only, scores=False), {"x": images(30)}
    result = convert(model, data, **QUICK)
    assert result.model is not None
    assert [value.name for value in result.model.graph.output] == [only]
    before, after = (run(each, data, ["scores"])["scores"] for each in (model, result.model))
    found = compare(model, result.model, data).outputs["scores"]
    assert found.relative_error == pytest.approx(relative(before, after), rel=1e-4)
    assert 0 < found.relative_error < 1
    assert found.agreement == (before.argmax(1) == after.argmax(1)).mean()


def test_where_all_outputs_are_empty_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, data = classifier("none", scores=False), {"x": images(30)}
    result = convert(model, data, **QUICK)
    assert "output 'none': it has no rows on any of 6 images: it is not compared" in caplog.text
    assert result.report.verification == {"images": 6, "outputs": {}}
    assert "not compared" in to_html(result.report, result.evidence)
    assert to_markdown(result.report)
    assert sweep(model, data, [1.3], bench=False, refine="none", rank_multiple=1).report.met
    with pytest.raises(ModelError, match="max-drop: no output of numbers has the same shape in both models and a num"):
        convert(model, data, **QUICK, max_drop=0.1)


def test_labels_go_with_the_output_that_scores_classes() -> None:
    """A class index comes first, as scikit-learn's converters have it."""
    model = classifier()
    model.graph.output.insert(0, helper.make_tensor_value_info("best", TensorProto.INT64, ["N"]))
    session, x = Session(model, CPU), {"x": images(20)}
    truth = run(model, x, ["scores"])["scores"].argsort(axis=1)[:, -2]  # the second best of all: top-1 is 0, top-5 is 1
    truth[:5] = run(model, x, ["scores"])["scores"].argmax(axis=1)[:5]
    assert compare_outputs(session, session, [x], truth).accuracy == Accuracy((0.25, 0.25), (1.0, 1.0))
