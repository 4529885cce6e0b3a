from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from onnx_lowrank.errors import VerificationError
from onnx_lowrank.verify import check_structure
from tests.helpers import build, filters


def original(ir: int = 8, opset: int = 13) -> onnx.ModelProto:
    return build(
        "g (float[N,3,8,8] x) => (float[N,4,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        {"w": filters(0, 4, 3, 3, 3)},
        ir=ir,
        opset=opset,
    )


def test_the_same_interface_passes() -> None:
    model = original()
    model.graph.node[0].name = "renamed"
    check_structure(original(), model)


def test_initializers_among_the_inputs_may_change() -> None:
    model = original(ir=3, opset=8)
    model.graph.initializer[0].name = model.graph.input[1].name = model.graph.node[0].input[1] = "new"
    check_structure(original(ir=3, opset=8), model)


def test_a_model_that_the_checker_refuses() -> None:
    model = original()
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(VerificationError, match=r"written model: refused by the ONNX checker: .*nowhere"):
        check_structure(original(), model)


def test_a_model_that_was_refused_before_may_be_refused_again() -> None:
    odd = original()
    odd.graph.node.append(helper.make_node("NoSuchOperator", ["y"], ["z"]))
    check_structure(odd, odd)


def test_other_inputs_or_outputs() -> None:
    model = original()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8]))
    with pytest.raises(VerificationError, match=r"written model: outputs %y.*, %x.*, wanted %y[^%]*$"):
        check_structure(original(), model)
    model = original()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]))
    with pytest.raises(VerificationError, match=r"written model: inputs %x.*, %z.*, wanted %x[^%]*$"):
        check_structure(original(), model)


def test_outputs_in_another_order() -> None:
    first, second = (
        build(f"g (float[2] x) => (float[2] {a}, float[2] {b}) {{ y = Relu(x)  z = Neg(x) }}") for a, b in ("yz", "zy")
    )
    with pytest.raises(VerificationError, match=r"outputs %z.*, %y.*, wanted %y.*, %z"):
        check_structure(first, second)


def test_other_types_or_shapes() -> None:
    model = original()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(VerificationError, match=r"outputs %y.*Nx5x8x8.*, wanted %y.*Nx4x8x8"):
        check_structure(original(), model)


def test_other_versions() -> None:
    with pytest.raises(VerificationError, match="written model: IR version 9, wanted 8"):
        check_structure(original(), original(ir=9))
    with pytest.raises(VerificationError, match=r"written model: opsets \[\('', 14\)\], wanted \[\('', 13\)\]"):
        check_structure(original(), original(opset=14))
