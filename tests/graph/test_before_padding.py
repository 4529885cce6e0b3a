"""Layers whose pads stand in a node before them: what is sampled there is what the convolution reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.calibrate import collect_targets, layer_positions
from onnx_lowrank.graph.before_padding import before_padding
from onnx_lowrank.layers.layer import Layer
from tests.helpers import CPU, Array, applied, build, filters, find, normal, run, sampled

X = normal(1, 4, 3, 8, 7)
WEIGHTS: dict[str, Array] = {"w": filters(0, 5, 3, 3, 3)}


def padded(pad: str, constants: dict[str, Any], attributes: str = "strides=[2,1]", opset: int = 17) -> onnx.ModelProto:
    text = f"g (float[N,3,8,7] x) => (float[N,5,h,v] y) {{ p = {pad} c = Conv<{attributes}>(p, w) y = Relu(c) }}"
    return build(text, WEIGHTS | constants, opset=opset)


def only_layer(model: onnx.ModelProto) -> Layer:
    (layer,), _ = find(model, {"x": X})
    return layer


PADS = np.array([0, 0, 0, 1, 0, 0, 2, 3])  # rows: none before, two after; columns: one before, three after
CASES = {
    "opset 9": ("Pad<pads=[0,0,0,1,0,0,2,3]>(x)", {}, "strides=[2,1]", 9),
    "inputs": ("Pad(x, pads)", {"pads": PADS}, "strides=[2,1]", 17),
    "a value of zero": ("Pad(x, pads, zero)", {"pads": PADS, "zero": np.float32(0)}, "pads=[1,0,0,2]", 18),
    "no padding of its own": ("Pad(x, pads)", {"pads": PADS}, 'auto_pad="VALID", dilations=[2,1]', 13),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_patches_before_the_padding_are_those_behind_it(case: tuple[str, dict[str, Any], str, int]) -> None:
    model = padded(*case)
    layer = only_layer(model)
    (bare,) = before_padding(model, [layer])
    assert (layer.input, layer.input_size) == ("p", (10, 11))
    assert (bare.input, bare.input_size, bare.positions) == ("x", (8, 7), layer.positions)
    positions = layer_positions([layer], len(X), 100, seed=3)
    probes = {layer.name: np.arange(positions[layer.name].shape[1])}
    targets = collect_targets(model, [layer], positions, [{"x": X}], CPU, probes)[layer.name]
    whole = sampled(run(model, {"x": X}, ["c"])["c"], positions[layer.name])
    np.testing.assert_allclose(targets.responses, whole, rtol=1e-5, atol=1e-6)
    assert targets.probe is not None
    rows = applied(layer, np.asarray(targets.probe.patches).reshape(len(whole), -1))
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=2e-6)


OTHERS = {
    "ones": ("Pad(x, pads, one)", {"pads": PADS, "one": np.float32(1)}),
    "the edge": ('Pad<mode="edge">(x, pads)', {"pads": PADS}),
    "cropped": ("Pad(x, pads)", {"pads": np.array([0, 0, -1, 1, 0, 0, 2, 0])}),
    "channels": ("Pad(x, pads)", {"pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "w": filters(0, 5, 5, 3, 3)}),
    "axes by name": ("Pad(x, pads, zero, axes)", {"pads": np.ones(4, int), "zero": np.float32(0), "axes": [2, 3]}),
    "no Pad": ("Relu(x)", {}),
}


@pytest.mark.parametrize(("pad", "constants"), OTHERS.values(), ids=OTHERS)
def test_others_are_sampled_where_they_read(pad: str, constants: dict[str, Any]) -> None:
    model = padded(pad, {name: np.asarray(each) for name, each in constants.items()}, opset=18)
    layer = only_layer(model)
    (same,) = before_padding(model, [layer])
    assert same is layer


def test_a_convolution_that_pads_by_itself_as_its_input_needs() -> None:
    model = padded("Pad(x, pads)", {"pads": PADS}, 'auto_pad="SAME_UPPER"')
    layer = only_layer(model)
    assert before_padding(model, [layer]) == [layer]
