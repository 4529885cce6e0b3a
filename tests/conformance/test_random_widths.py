"""Any network without channels that nothing weighs computes the same, with as many multiply-adds as are counted."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_lowrank import convert
from onnx_lowrank.errors import BudgetError, ModelError
from onnx_lowrank.graph import narrow_channels
from onnx_lowrank.layers.channel_group import in_turns
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.conformance.random_networks import CHANNEL_STEPS, SIZE, Array, networks
from tests.conftest import examples
from tests.helpers import find, normal, run
from tests.networks import images

IMAGES = images(24, size=SIZE)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
REASONS = ("cannot be reached, the largest that can is", "no layer can be factorized")
X = normal(0, 2, 3, SIZE, SIZE)


def counted(model: onnx.ModelProto) -> int:
    """Multiply-adds of one image, from the tensors as they run."""
    layers = [node for node in model.graph.node if node.op_type in {"Conv", "ConvTranspose"}]
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sized = [node.input[0] if node.op_type == "ConvTranspose" else node.output[0] for node in layers]
    shapes = {"x": X[:1].shape} | {
        name: values.shape for name, values in run(model, {"x": X[:1]}, [name for name in sized if name != "x"]).items()
    }
    return sum(prod(shapes[name]) * prod(weights[node.input[1]][1:]) for node, name in zip(layers, sized, strict=True))


def make_zero(model: onnx.ModelProto, layer: Layer, channels: Array) -> None:
    """Let a layer weigh some of its channels with nothing."""
    node = next(node for node in model.graph.node if node.output[0] == layer.nodes[0])
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    weight = numpy_helper.to_array(tensor).copy()
    weight[channels if node.op_type == "ConvTranspose" else (slice(None), channels)] = 0
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


@settings(max_examples=examples(100), deadline=None, suppress_health_check=SLOW)
@given(networks(CHANNEL_STEPS, newest=4), st.data())
def test_channels_that_nothing_weighs(model: onnx.ModelProto, data: st.DataObject) -> None:
    layers, skipped = find(model, {"x": X})
    plans, kept, weighed = [], dict[str, Array](), onnx.ModelProto()
    weighed.CopyFrom(model)
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        width = data.draw(st.integers(layer.min_width, layer.channels)) if layer.narrowable else layer.channels
        if width == layer.channels:
            plans.append(LayerPlan(layer.name))
            continue
        plans.append(LayerPlan(layer.name, "width", width=width))
        order = in_turns(layer.read_groups, np.array(data.draw(st.permutations(range(layer.channels)))))
        stay = np.sort(order[-width:])
        kept[layer.input] = np.intersect1d(kept.get(layer.input, stay), stay)
        make_zero(weighed, layer, np.setdiff1d(np.arange(layer.channels), stay))
        for group in layer.read_groups:
            gone = np.setdiff1d(np.arange(group.channels), stay - group.start)
            for name in group.followers:
                make_zero(weighed, by_name[name], gone + group.inputs_of(name).start)
            more = f"{len(group.squeezed)} gates, {len(group.readers)} further readers"
            event(f"{more}, parts: {bool(group.made)}, {len(layer.read_groups) > 1}")
    narrow = onnx.ModelProto()
    narrow.CopyFrom(weighed)
    narrow_channels(narrow, kept)
    onnx.checker.check_model(narrow, full_check=True)
    assert [(node.op_type, node.output) for node in narrow.graph.node] == [
        (node.op_type, node.output) for node in model.graph.node
    ]
    before, after = run(weighed, {"x": X}), run(narrow, {"x": X})
    for name, values in before.items():
        assert np.abs(values - after[name]).max() <= 1e-5 * max(1.0, float(np.abs(values).max()))
    assert sum(LayerSet(layers, skipped).planned_macs(RankPlan(tuple(plans)))) == counted(narrow)
    if not kept:
        assert narrow == model


@settings(max_examples=examples(25), deadline=None, suppress_health_check=SLOW)
@given(networks(CHANNEL_STEPS, newest=4), st.sampled_from(["width", ("width", "channel"), "auto"]))
def test_conversions(model: onnx.ModelProto, method: Any) -> None:
    """Conversions, which are verified before they are handed out, cost what they say."""
    try:
        result = convert(
            model, {"x": IMAGES}, method=method, speedup=1.1, rank_multiple=1, refine="none", bench=False, threads=1
        )
    except (BudgetError, ModelError) as error:
        reason = next((each for each in REASONS if each in str(error)), None)
        if reason is None:
            raise
        event(reason)
        return
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    folded = "BatchNormalization"
    forms = {layer.method for layer in result.report.layers} - {"kept"}
    event(", ".join(sorted(forms)))
    assert result.report.macs == (counted(model), counted(result.model))
    assert result.report.speedup >= 1.1
    if forms <= {"width"}:  # normalizations are folded into layers that are solved
        kinds = [[node.op_type for node in each.graph.node if node.op_type != folded] for each in (model, result.model)]
        assert kinds[0] == kinds[1]
