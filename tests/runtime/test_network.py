from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.network import count_macs, open_network
from tests.helpers import CPU, build, filters, normal


def network(size: str = "h,w") -> onnx.ModelProto:
    return build(
        f"""g (float[N,3,{size}] x) => (float[N,4,{size}] y) {{
            c = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(c)
            y = Conv<pads=[1,1,1,1], group=4>(r, v)
        }}""",
        {"w": filters(0, 4, 3, 3, 3), "v": filters(1, 4, 1, 3, 3)},
    )


# Shapes of inputs


@pytest.mark.parametrize("name", ["x", ""])
def test_open_axes_are_filled_in(name: str) -> None:
    opened = open_network(network(), CPU, {name: (1, 3, 8, 6)})
    assert [spec.shape for spec in opened.inputs] == [(None, 3, 8, 6)]
    assert opened.zeros()["x"].shape == (1, 3, 8, 6)
    layers = opened.layers(opened.zeros())
    ((layer,), (skipped,)) = layers.eligible, layers.skipped
    assert (layer.name, skipped.name) == ("c", "y")
    assert layer.positions == (8, 6)
    assert skipped.macs == 48 * 4 * 9


def test_open_axes_without_a_shape() -> None:
    with pytest.raises(
        ModelError, match=r"<model>: input 'x' has open axes \(1,3,\?,\?\): pass `input_shapes={'x': \(1,3,\?,\?\)}`"
    ):
        open_network(network(), CPU, {}).zeros()


def test_a_fixed_batch_stays_whatever_the_example_says() -> None:
    model = build("g (float[4,3,h] x) => (float[4,3,h] y) { y = Relu(x) }")
    (spec,) = open_network(model, CPU, {"x": (4, 3, 7)}).inputs
    assert spec.shape == (4, 3, 7)
    with pytest.raises(ModelError, match=r"`input_shapes`: \[1, 3, 7\] does not fit input 'x' \[4, 3, None\]"):
        open_network(model, CPU, {"x": (1, 3, 7)})


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 3, 8), (3, 8, 8, 1, 1)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"does not fit input 'x' \[None, 3, None, None\]"):
        open_network(network(), CPU, {"x": shape})


def test_shapes_of_unknown_inputs() -> None:
    with pytest.raises(ModelError, match="`input_shapes`: no input 'image', the model has x"):
        open_network(network(), CPU, {"image": (1, 3, 8, 8)})
    two = build("g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }")
    with pytest.raises(ModelError, match="`input_shapes`: no input '', the model has a, b"):
        open_network(two, CPU, {"": (1,)})


def test_sizes_that_the_network_does_not_take() -> None:
    """Maps that are halved and doubled again, as in detectors, fit their shortcut for even sizes only."""
    model = build(
        """g (float[N,3,h,w] x) => (float[N,4,p,q] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            s = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
            u = Resize<mode="nearest">(s, , scales)
            sum = Add(u, c)
            y = Conv(sum, v)
        }""",
        {"w": filters(0, 4, 3, 3, 3), "v": filters(1, 4, 4, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)},
    )
    network = open_network(model, CPU, {})
    assert len(network.layers({"x": normal(0, 2, 3, 8, 6)}).eligible) == 2
    with pytest.raises(
        ModelError,
        match=r"(?s)^<model>: onnxruntime cannot run it on x 2x3x8x7: .*6 by 7.*: give sizes that it takes, with the "
        r"data or `input_shapes`; many networks want multiples of 32$",
    ):
        network.layers({"x": normal(0, 2, 3, 8, 7)})


def test_zeros_have_the_inputs_types() -> None:
    model = build("g (int64[N,2] i, bool[3] f, float16[N] h) => (int64[N,2] y) { y = Identity(i) }")
    zeros = open_network(model, CPU, {}).zeros()
    assert {name: (value.dtype, value.shape) for name, value in zeros.items()} == {
        "i": (np.dtype(np.int64), (1, 2)),
        "f": (np.dtype(np.bool_), (3,)),
        "h": (np.dtype(np.float16), (1,)),
    }


def test_multiply_adds_do_not_depend_on_the_batch() -> None:
    for batch in (1, 5):
        assert count_macs(network("8,6"), {"x": normal(0, batch, 3, 8, 6)}, CPU) == 48 * 9 * (12 + 4)
