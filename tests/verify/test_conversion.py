"""What a conversion has to pass: outputs that nothing was done to, other sizes, objects that are picked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank import convert
from onnx_lowrank.errors import ModelError, VerificationError
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from tests.helpers import build, filters, run
from tests.networks import images

Array = NDArray[Any]
QUICK: dict[str, Any] = {"speedup": 1.5, "rank_multiple": 1, "bench": False, "exclude": ["early"]}


def two_outputs(height: str = "12") -> onnx.ModelProto:
    """One output in front of all that is converted, one behind it."""
    graph = f"""g (float[N, 3, {height}, 12] x) => (float[N, 8, H, 12] before, float[N, 8, H, 12] y) {{
        [early] c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        before = Relu (c1)
        [late] c2 = Conv <pads = [1, 1, 1, 1]> (before, w2)
        y = Sigmoid (c2)
    }}"""
    return build(graph, {"w1": filters(0, 8, 3, 3, 3), "w2": filters(1, 8, 8, 3, 3)})


def change(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """Have the rewriting do more than it should."""

    def replace_and_change(model: onnx.ModelProto, layer: Layer, factors: FactorChain, **how: Any) -> None:
        replace_layer(model, layer, factors, **how)
        what(model)

    monkeypatch.setattr("onnx_lowrank.runtime.network.replace_layer", replace_and_change)


def test_outputs_that_depend_on_no_converted_layer_are_the_same_to_the_bit() -> None:
    model, data = two_outputs(), images(30)
    result = convert(model, {"x": data}, **QUICK)
    assert result.model is not None
    assert [layer.name for layer in result.report.layers if layer.method != "kept"] == ["late"]
    before, after = run(model, {"x": data}), run(result.model, {"x": data})
    np.testing.assert_array_equal(before["before"], after["before"])
    assert not np.array_equal(before["y"], after["y"])
    assert result.report.verification is not None
    assert result.report.verification["outputs"]["before"]["relative_error"] == 0


def other_weight(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] += 1e-6
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))


def other_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "LeakyRelu"


@pytest.mark.parametrize("what", [other_weight, other_operator])
def test_a_changed_branch_is_found(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    change(monkeypatch, what)
    with pytest.raises(
        VerificationError, match="output 'before' depends on no converted layer and is computed in anot"
    ):
        convert(two_outputs(), {"x": images(30)}, **QUICK)


def fixed_height(model: onnx.ModelProto) -> None:
    """Right for the size that was calibrated with, and for no other: a shape that was written down."""
    model.graph.node[-1].input[0] = "reshaped"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 8, 12, 12]), "shape"))
    model.graph.node.insert(len(model.graph.node) - 1, onnx.helper.make_node("Reshape", ["c2", "shape"], ["reshaped"]))


def test_other_heights_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, fixed_height)
    convert(two_outputs(), {"x": images(30)}, **QUICK)
    with pytest.raises(VerificationError, match=r"written model: fails on inputs of shape \{'x': \(1, 3, 44, 12\)\}"):
        convert(two_outputs("H"), {"x": images(30)}, **QUICK)


def fixed_batch(model: onnx.ModelProto) -> None:
    """Puts all images into one."""
    fixed_height(model)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([1, 8, -1, 12]), "shape"))


def test_another_batch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, fixed_batch)
    wanted = r"output 'y': \(\(1, 8, 24, 12\), .*\) on inputs of shape \{'x': \(2, 3, 12, 12\)\}, the original"
    with pytest.raises(VerificationError, match=wanted):
        convert(two_outputs(), {"x": images(30)}, **QUICK, batch_size=1)


def detector() -> onnx.ModelProto:
    """Picks boxes from a map of them: how many there are depends on the image."""
    graph = """g (float[1, 3, 12, 12] x) => (int64[M, 3] picked) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        b = Conv (c2, w3)
        boxes4 = Reshape (b, box_shape)
        size, centre = Split <axis = 2> (boxes4)
        one = Abs (size)
        boxes = Concat <axis = 2> (centre, one)
        s = Conv (c2, w4)
        scores = Reshape (s, score_shape)
        picked = NonMaxSuppression <center_point_box = 1> (boxes, scores, most, overlap, least)
    }"""
    weights = {
        "w1": filters(0, 16, 3, 3, 3),
        "w2": filters(1, 16, 16, 3, 3),
        "w3": filters(2, 4, 16, 1, 1),
        "w4": filters(3, 1, 16, 1, 1),
        "box_shape": np.array([1, 144, 4]),
        "score_shape": np.array([1, 1, 144]),
        "most": np.array([50]),
        "overlap": np.float32([0.5]),
        "least": np.float32([0.1]),
    }
    return build(graph, weights, opset=13)


def test_boxes_are_compared_where_what_is_picked_differs(caplog: pytest.LogCaptureFixture) -> None:
    model, data = detector(), images(40)
    result = convert(model, {"x": data}, speedup=1.5, rank_multiple=1, bench=False)
    assert "output 'picked': shape" in caplog.text
    assert result.model is not None
    assert [output.name for output in result.model.graph.output] == ["picked"]
    assert result.report.verification is not None
    outputs = result.report.verification["outputs"]
    assert outputs.keys() == {"boxes", "scores"}
    assert 0 < outputs["boxes"]["relative_error"] < 0.3
    assert 0 < outputs["scores"]["relative_error"] < 0.4


def test_an_output_that_is_infinite_all_over_is_the_originals_fault() -> None:
    model = two_outputs()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model.graph.node.append(onnx.helper.make_node("Div", ["y", "zero"], ["endless"]))
    model.graph.output.append(onnx.ValueInfoProto(name="endless"))
    with pytest.raises(
        ModelError, match="output 'endless': nothing but NaN or infinity comes out of the original network"
    ):
        convert(model, {"x": images(30)}, **QUICK)


def test_texts_sequences_and_maps_are_kept_and_not_compared() -> None:
    """As classifiers exported by scikit-learn's converters have them."""
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 4] scores, string[N] label) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        p = GlobalAveragePool (c2)
        scores = Flatten (p)
        best = ArgMax <axis = 1, keepdims = 0> (scores)
        label = Gather (names, best)
        list = SplitToSequence <axis = 1> (scores)
        map = ai.onnx.ml.ZipMap <classlabels_strings = ["a", "b", "c", "d"]> (scores)
    }"""
    model = build(graph, {"w1": filters(0, 8, 3, 3, 3), "w2": filters(1, 4, 8, 3, 3)})
    names = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [4], [b"a", b"b", b"c", b"d"])
    model.graph.initializer.append(names)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    floats = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    numbers = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    kinds = {
        "list": onnx.helper.make_sequence_type_proto(floats),
        "map": onnx.helper.make_sequence_type_proto(onnx.helper.make_map_type_proto(onnx.TensorProto.STRING, numbers)),
    }
    model.graph.output.extend(onnx.helper.make_value_info(name, kind) for name, kind in kinds.items())
    result = convert(model, {"x": images(30)}, speedup=1.5, rank_multiple=1)
    assert result.model is not None
    assert [output.name for output in result.model.graph.output] == ["scores", "label", "list", "map"]
    assert result.report.verification is not None
    assert result.report.verification["outputs"].keys() == {"scores"}
    assert result.report.latency is not None
