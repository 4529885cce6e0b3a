"""Chains of 1-D convolutions written as 2-D ones: the same numbers, all else as it was."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from onnx_lowrank import convert, inspect
from onnx_lowrank.graph import replace_layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.network import open_network
from tests.helpers import CPU, build, filters, run, set_clock

ATTRIBUTES = {
    "plain": "pads=[1,1]",
    "strided": "pads=[2,0], strides=[2]",
    "dilated": "pads=[2,2], dilations=[2]",
    "same": 'auto_pad="SAME_UPPER", strides=[3]',
    "unpadded": "pads=[0,0]",
}


def audio(attributes: str, opset: int = 17) -> onnx.ModelProto:
    """Two 1-D convolutions, the second one with these attributes, and a transposed one."""
    shapes = {"w0": (16, 8, 3), "w1": (16, 16, 3), "w2": (16, 8, 4)}
    weights = {name: filters(3, d, c, 1, k)[:, :, 0] for name, (d, c, k) in shapes.items()}
    text = f"""g (float[N,8,L] x) => (float[N,8,M] y) {{
        a = Conv<pads=[1,1]>(x, w0)  ra = Relu(a)
        b = Conv<{attributes}>(ra, w1)  rb = Relu(b)
        y = ConvTranspose<strides=[2]>(rb, w2)
    }}"""
    return build(text, weights, opset=opset)


@pytest.mark.parametrize("attributes", ATTRIBUTES.values(), ids=list(ATTRIBUTES))
@pytest.mark.parametrize("opset", [9, 17])
def test_the_same_numbers_with_planar_chains(attributes: str, opset: int) -> None:
    model = audio(attributes, opset)
    rows = np.random.default_rng(3).standard_normal((2, 8, 37)).astype(np.float32)
    layers = open_network(model, CPU, {}).layers({"x": rows}).eligible
    assert len(layers) == 3
    networks = []
    for planar in (False, True):
        network = onnx.ModelProto()
        network.CopyFrom(model)
        for layer in layers:
            replace_layer(network, layer, random_factors(layer, LayerPlan(layer.name, "channel", 4)), planar=planar)
        onnx.checker.check_model(network, full_check=True)
        networks.append(network)
    plain, written = (run(network, {"x": rows})["y"] for network in networks)
    assert written == pytest.approx(plain, rel=1e-5, abs=1e-6)
    kernels = [len(dims(networks[1], node)) for node in networks[1].graph.node if "Conv" in node.op_type]
    assert kernels == [4, 4, 4, 4, 3, 3]  # the transposed one stays as it is


def dims(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    return next(list(each.dims) for each in model.graph.initializer if each.name == node.input[1])


def milliseconds(model: onnx.ModelProto | Path) -> float:
    """What convolutions store, so that any factorization is faster."""
    assert isinstance(model, onnx.ModelProto)
    return sum(prod(each.dims) for each in model.graph.initializer if len(each.dims) > 1) / 1e3


@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_chains_are_planar_where_milliseconds_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cost: Literal["macs", "latency"]
) -> None:
    clock = set_clock(monkeypatch, tmp_path, milliseconds)
    rows = np.random.default_rng(0).standard_normal((60, 8, 64)).astype(np.float32)
    batches = [{"x": rows[start : start + 20]} for start in range(0, 60, 20)]
    result = convert(audio("pads=[1,1]"), batches, cost=cost, speedup=1.2, provider="cpu", threads=1, refine="none")
    assert result.model is not None
    chains = [entry for entry in result.plan if entry.method != "kept"]
    assert len(chains) > 0
    timed = [each for models in clock.networks for each in models[1:] if isinstance(each, onnx.ModelProto)]
    for model in (result.model, *timed):  # also what ranks are chosen by
        assert ("Reshape" in {node.op_type for node in model.graph.node}) == (cost == "latency")
    expected, found = (run(model, {"x": rows[:2]})["y"] for model in (audio("pads=[1,1]"), result.model))
    assert np.linalg.norm(found - expected) < 0.9 * np.linalg.norm(expected)
    again = inspect(result.model, input_shapes={"x": (1, 8, 64)})
    assert again.macs == result.to_dict()["macs"]["after"]
