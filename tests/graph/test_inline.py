"""Functions of the model's own are written out, also those whose opsets are not the model's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import inline_all_functions, inline_functions
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.helpers import add_initializers, filters, normal, relative, run


def model(imports: str, body: str = "c = Conv (a, w)  b = Relu (c)", opset: int = 17) -> onnx.ModelProto:
    """A network whose only layer is in a function, which imports what is said."""
    made = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : {opset}, "own" : 1]>
        g (float[N,3,8,8] x, float[1] unused) => (float[N,M,A,B] y) {{ y = own.block (x, weight) }}
        <domain: "own", opset_import: [{imports}]> block (a, w) => (b) {{ {body} }}"""
    )
    del made.graph.input[1]
    add_initializers(made, {"weight": filters(0, 8, 3, 3, 3)})
    return made


@pytest.mark.parametrize("imports", ['"" : 17', '"" : 17, "own" : 17', '"" : 14, "own" : 3'])
def test_layers_in_functions_are_converted(imports: str) -> None:
    """Whatever version of its own domain the function names, and where its operators mean the same."""
    original = model(imports)
    before = original.SerializeToString()
    x = {"x": normal(1, 30, 3, 8, 8)}
    (layer,) = inspect(original).rows
    result = convert(original, x, plan=RankPlan((LayerPlan(layer.name, "channel", 8),)), bench=False)
    assert result.model is not None
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Conv", "Relu"]
    assert relative(run(original, x)["y"], run(result.model, x)["y"]) < 1e-5
    assert original.SerializeToString() == before


def test_activations_in_functions_are_seen_and_other_functions_stay() -> None:
    """An activation that calls another one, as modules become functions; a bias and a norm are none."""
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20, "own" : 1]>
        g (float[N,3,8,8] x) => (float[N,M,A,B] y) {
            c = Conv (x, weight)  a = own.activation (c)  n = own.norm (a)  y = own.biased (n)
        }
        <domain: "own", opset_import: ["" : 20]> biased (a) => (b) {
            one = Constant <value_float = 1.0> ()  b = Add (a, one)
        }
        <domain: "own", opset_import: ["" : 20, "own" : 1]> activation (a) => (b) { b = own.sloped <slope = 0.25> (a) }
        <domain: "own", opset_import: ["" : 20]> sloped <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
        <domain: "own", opset_import: ["" : 20]> norm (a) => (b) { b = LpNormalization <axis = 1> (a) }"""
    )
    add_initializers(made, {"weight": filters(0, 8, 3, 3, 3)})
    (layer,) = inspect(made).rows
    assert isinstance(layer, Layer)
    assert layer.activation.name == "leaky_relu"
    inlined = inline_functions(made)
    assert [node.op_type for node in inlined.graph.node] == ["Conv", "LeakyRelu", "norm", "biased"]
    x = {"x": normal(1, 2, 3, 8, 8)}
    np.testing.assert_array_equal(run(made, x)["y"], run(inlined, x)["y"])


def test_a_function_of_another_opset_is_inlined_where_its_operators_are_the_same() -> None:
    inlined = inline_all_functions(model('"" : 17', opset=18))
    assert not inlined.functions
    assert [node.op_type for node in inlined.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("inline", [inline_functions, inline_all_functions, inspect])
def test_a_function_of_an_opset_with_other_operators_is_refused(inline: Callable[[onnx.ModelProto], object]) -> None:
    body = "m = ReduceMean <axes = [1]> (a)  c = Conv (a, w)  b = Add (c, m)"
    with pytest.raises(ModelError) as caught:
        inline(model('"" : 17', body, opset=18))
    assert str(caught.value) == (
        "function 'own.block': it is of opset 17, some of its operators are others in the model's opset 18: export the "
        "model with one opset"
    )
