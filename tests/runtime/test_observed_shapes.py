from __future__ import annotations

import numpy as np

from onnx_lowrank.runtime.observed_shapes import observe_shapes
from tests.helpers import CPU, build, filters, normal, run


def test_observed_shapes_are_those_of_the_tensors() -> None:
    model = build(
        """g (float[N,3,h,w] x) => (float[M] y) {
            a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k)
            s = Shape(a)
            b = Reshape(a, minus)
            y = Relu(b)
        }""",
        {"k": filters(0, 4, 3, 3, 3), "minus": np.array([-1])},
    )
    feeds = {"x": normal(0, 2, 3, 7, 9)}
    wanted = {name: value.shape for name, value in run(model, feeds, ["a", "s", "b", "y"]).items()}
    found = observe_shapes(model, feeds, ["a", "x", "s", "b", "y"], CPU)
    assert found == {"x": (2, 3, 7, 9), **wanted}
    assert list(found) == ["a", "x", "s", "b", "y"]


def test_shapes_of_inputs_need_no_run() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }")
    assert observe_shapes(model, {"x": normal(0, 2)}, ["x"], CPU) == {"x": (2,)}
