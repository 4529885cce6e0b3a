"""onnxruntime keeps rewritten graphs fused: activations in the last factors, no change of memory layout inside.

Looked at in the graph that onnxruntime makes of a model when it optimizes it for the CPU. Its blocked layout is there
on x86-64 and some others only: what needs it is skipped elsewhere, where activations are fused all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_lowrank.graph import layer_model, replace_layer
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.runtime.device import rank_block
from tests.helpers import CPU, Array, build, filters, find, normal, relative, run

SAME = "pads=[1,1,1,1]"
NCHWC = "com.microsoft.nchwc"
BLOCK = rank_block(CPU)
WIDTH = 4 * BLOCK
SIZE = 16

METHODS = {
    "channel": {"channel": BLOCK},
    "spatial": {"spatial": 2 * BLOCK},
    "spatial-channel": {"channel": 2 * BLOCK, "spatial": BLOCK},
}


def weights(*names: str) -> dict[str, Array]:
    """3 x 3 filters; those of the first layer read an image."""
    return {name: filters(place, WIDTH, 3 if place == 0 else WIDTH, 3, 3) for place, name in enumerate(names)}


def network(body: str, initializers: Mapping[str, Array]) -> onnx.ModelProto:
    """A network that ends in a pooled map r."""
    text = f"{body}  p = GlobalAveragePool(r)  y = Flatten(p)"
    return build(f"g (float[N,3,{SIZE},{SIZE}] x) => (float[N,{WIDTH}] y) {{ {text} }}", initializers)


def plain() -> onnx.ModelProto:
    body = f"""c0 = Conv<{SAME}>(x, w0)  r0 = Relu(c0)
        c1 = Conv<{SAME}>(r0, w1, b1)  r1 = Relu(c1)
        c2 = Conv<{SAME}, strides=[2,2]>(r1, w2)  r2 = Relu(c2)
        c3 = Conv<{SAME}>(r2, w3)  r = Relu(c3)"""
    return network(body, weights("w0", "w1", "w2", "w3") | {"b1": normal(9, WIDTH)})


def residual() -> onnx.ModelProto:
    body = f"""c0 = Conv<{SAME}>(x, w0)  r0 = Relu(c0)
        c1 = Conv<{SAME}>(r0, w1)  r1 = Relu(c1)
        c2 = Conv<{SAME}>(r1, w2)  s2 = Add(c2, r0)  r2 = Relu(s2)
        c3 = Conv<{SAME}>(r2, w3)  r3 = Relu(c3)
        c4 = Conv<{SAME}>(r3, w4)  s4 = Add(c4, r2)  r = Relu(s4)"""
    return network(body, weights("w0", "w1", "w2", "w3", "w4"))


def normalized() -> onnx.ModelProto:
    lines, statistics, tensor = [], {}, "x"
    for number in range(4):
        after = "r" if number == 3 else f"r{number}"
        names = [f"{kind}{number}" for kind in ("gamma", "beta", "mean", "var")]
        lines.append(
            f"c{number} = Conv<{SAME}>({tensor}, w{number})  "
            f"n{number} = BatchNormalization(c{number}, {', '.join(names)})  {after} = Relu(n{number})"
        )
        noise = [1 + normal(number, WIDTH) / 5, normal(number + 10, WIDTH) / 5, normal(number + 20, WIDTH) / 5]
        statistics |= dict(zip(names, [*noise, 1 + normal(number + 30, WIDTH) ** 2], strict=True))
        tensor = after
    return network("\n".join(lines), weights("w0", "w1", "w2", "w3") | statistics)


NETWORKS = {"plain": plain, "residual": residual, "normalized": normalized}


def optimized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns that the result is made for this machine
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def converted(model: onnx.ModelProto, method: str) -> tuple[onnx.ModelProto, list[list[str]]]:
    """The model with a chain in the place of every layer but the first, and the lengths of chains as node names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    layers, _ = find(copy, {"x": normal(0, 1, 3, SIZE, SIZE)})
    chains = []
    for layer in layers:
        if layer.channels == 3:
            continue
        factors = random_factors(layer, LayerPlan(layer.name, method, **METHODS[method]))
        replace_layer(copy, layer, factors)
        chains.append([f"{layer.name}/lowrank_{number}" for number in range(len(factors.convolutions))])
    return copy, chains


def has_blocked_layout(graph: onnx.GraphProto) -> bool:
    return any(node.domain == NCHWC for node in graph.node)


def needs_blocked_layout(graph: onnx.GraphProto) -> None:
    if not has_blocked_layout(graph):
        pytest.skip("onnxruntime has no blocked layout on this machine")


def activation(node: onnx.NodeProto) -> str:
    return next((each.s.decode() for each in node.attribute if each.name == "activation"), "")


def convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type in {"Conv", "FusedConv"}]


def neighbours(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    producer = {name: node for node in graph.node for name in node.output}
    return [(producer[name], node) for node in graph.node for name in node.input if name in producer]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_activations_sit_in_the_last_factor_of_each_chain(name: str, method: str, tmp_path: Path) -> None:
    model, chains = converted(NETWORKS[name](), method)
    graph = optimized(model, tmp_path).graph
    if name == "residual":  # an addition in between
        needs_blocked_layout(graph)
    kinds = Counter(node.op_type for node in graph.node)
    assert not {"Relu", "BatchNormalization", "Clip"} & set(kinds)
    found = convolutions(graph)
    assert len(found) == 1 + sum(map(len, chains))
    # The first layer, then chain by chain: nothing, nothing, Relu.
    wanted = ["Relu", *(text for chain in chains for text in [*[""] * (len(chain) - 1), "Relu"])]
    assert [activation(node) for node in found] == wanted


@pytest.mark.parametrize("method", METHODS)
def test_residual_sums_sit_in_the_last_factor_too(method: str, tmp_path: Path) -> None:
    model, chains = converted(residual(), method)
    graph = optimized(model, tmp_path).graph
    needs_blocked_layout(graph)
    assert "Add" not in {node.op_type for node in graph.node}
    found = convolutions(graph)
    ends = np.cumsum([1, *map(len, chains)])[1:] - 1
    # Input, weight, bias, what is added.
    assert [number for number, node in enumerate(found) if len(node.input) == 4 and node.input[3]] == [ends[1], ends[3]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_memory_layout_stays_the_same_through_all_layers(name: str, method: str, tmp_path: Path) -> None:
    model, chains = converted(NETWORKS[name](), method)
    graph = optimized(model, tmp_path).graph
    needs_blocked_layout(graph)
    assert all(node.domain == NCHWC for node in convolutions(graph))
    pairs = neighbours(graph)
    kinds = {(first.op_type, second.op_type) for first, second in pairs}
    assert ("ReorderOutput", "ReorderInput") not in kinds
    assert not {kind for kind in kinds if "Conv" in kind and any(each.startswith("Reorder") for each in kind)}
    # From factor to factor directly, and once out of the layout at the end.
    links = sum(
        second.op_type == first.op_type == "Conv" and second.input[0] in first.output for first, second in pairs
    )
    assert links == sum(map(len, chains))
    assert Counter(node.op_type for node in graph.node)["ReorderOutput"] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_optimized_computes_the_same(name: str) -> None:
    """The pattern that is checked above is that of a model which is right."""
    model, _ = converted(NETWORKS[name](), "spatial-channel")
    x = normal(3, 2, 3, SIZE, SIZE)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    assert relative(run(model, {"x": x})["y"], found) < 1e-4


@pytest.mark.parametrize("method", ["kept", *METHODS])
def test_a_layer_timed_alone_is_fused_as_it_is_in_the_network(method: str, tmp_path: Path) -> None:
    layers, _ = find(plain(), {"x": normal(0, 1, 3, SIZE, SIZE)})
    layer: Layer = layers[1]
    factors = random_factors(layer, LayerPlan(layer.name, method, **METHODS.get(method, {})))
    graph = optimized(layer_model(layer, factors, 1), tmp_path).graph
    found = convolutions(graph)
    assert [activation(node) for node in found] == [*[""] * (len(factors.convolutions) - 1), "Relu"]
    if has_blocked_layout(graph):
        kinds = Counter(node.op_type for node in graph.node)
        assert kinds == {"ReorderInput": 1, "Conv": len(found), "GlobalAveragePool": 1, "ReorderOutput": 1}


def test_ranks_that_are_no_multiples_of_the_block_leave_the_layout(tmp_path: Path) -> None:
    """Why ranks are multiples of the block: what the checks above would show if they were not."""
    model = plain()
    layers, _ = find(model, {"x": normal(0, 1, 3, SIZE, SIZE)})
    for layer in layers[1:]:
        replace_layer(model, layer, random_factors(layer, LayerPlan(layer.name, "channel", channel=BLOCK + 1)))
    graph = optimized(model, tmp_path).graph
    needs_blocked_layout(graph)
    kinds = {(first.op_type, second.op_type) for first, second in neighbours(graph)}
    assert {("Conv", "ReorderOutput"), ("ReorderOutput", "FusedConv")} <= kinds
