"""Random convolutional networks: chains, residual sums, concatenations, groups, shared weights, several outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish", "Silu", "PRelu", "none")
SIZE = 10


@dataclass
class Growing:
    """A graph that grows node by node; ``maps`` are tensors that may be read, as name -> (channels, size).

    Of ``newest + 1`` steps all but one go on from the newest tensor.
    """

    draw: st.DrawFn
    newest: int = 1
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)

    def add(self, op: str, read: list[str], shape: tuple[int, int], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, read, [name], name=self.draw(st.sampled_from(["", name])), **attributes))
        self.maps[name] = shape
        self.unread = (self.unread - set(read)) | {name}
        return name

    def weight(self, *shape: int, spread: float = 1.0, around: float = 0.0) -> str:
        name = f"w{len(self.weights)}"
        values = np.random.default_rng(len(self.weights)).standard_normal(shape) * spread + around
        self.weights[name] = values.astype(np.float32)
        return name

    def described(self, name: str) -> onnx.ValueInfoProto:
        channels, size = self.maps[name]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, size, size])

    def pick(self) -> str:
        """A tensor to go on from: often the newest."""
        names = list(self.maps)
        return names[-1] if self.draw(st.integers(0, self.newest)) else self.draw(st.sampled_from(names))


def grow_convolution(graph: Growing) -> None:
    draw, source = graph.draw, graph.pick()
    channels, size = graph.maps[source]
    groups = draw(st.sampled_from([g for g in (1, 1, 1, 2, channels) if channels % g == 0]))
    filters = groups * draw(st.integers(2, 6)) if groups < channels else channels
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (1, 3), (3, 1), (2, 2)]))
    dilation = draw(st.sampled_from([1, 1, 2]))
    stride = draw(st.sampled_from([1, 1, 2])) if size > 4 else 1
    reach = [(k - 1) * dilation + 1 for k in kernel]
    pads = [r // 2 for r in reach] + [(r - 1) // 2 for r in reach]
    alike = [name for name, w in graph.weights.items() if w.shape == (filters, channels // groups, *kernel)]
    reused = alike and draw(st.booleans())
    spread = (channels // groups * kernel[0] * kernel[1]) ** -0.5
    weight = alike[0] if reused else graph.weight(filters, channels // groups, *kernel, spread=spread)
    read = [source, weight] + ([graph.weight(filters)] if draw(st.booleans()) else [])
    attributes = {"pads": pads, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": groups}
    name = graph.add("Conv", read, (filters, -(-size // stride)), **attributes)
    if draw(st.booleans()):
        parts = [graph.weight(filters, spread=0.2, around=around) for around in (1, 0, 0)]
        graph.weights["v" + name] = np.full(filters, 0.7, np.float32)
        graph.add("BatchNormalization", [name, *parts, "v" + name], graph.maps[name])


def grow_activation(graph: Growing) -> None:
    source = graph.pick()
    shape = graph.maps[source]
    match graph.draw(st.sampled_from(ACTIVATIONS)):
        case "Silu":
            graph.add("Mul", [source, graph.add("Sigmoid", [source], shape)], shape)
        case "PRelu":
            graph.add("PRelu", [source, graph.weight(shape[0], 1, 1, spread=0.3)], shape)
        case "Clip":
            graph.weights |= {"low": np.float32(0), "high": np.float32(6)}
            graph.add("Clip", [source, "low", "high"], shape)
        case "none":
            graph.add("Identity", [source], shape)
        case op:
            graph.add(op, [source], shape)


def grow_sum(graph: Growing) -> None:
    first = graph.pick()
    alike = [name for name, shape in graph.maps.items() if shape == graph.maps[first] and name != first]
    if alike:
        graph.add("Add", [first, graph.draw(st.sampled_from(alike))], graph.maps[first])


def grow_concatenation(graph: Growing) -> None:
    first = graph.pick()
    channels, size = graph.maps[first]
    alike = [name for name, shape in graph.maps.items() if shape[1] == size and name != first]
    if alike:
        other = graph.draw(st.sampled_from(alike))
        graph.add("Concat", [first, other], (channels + graph.maps[other][0], size), axis=1)


def grow_pool(graph: Growing) -> None:
    source = graph.pick()
    channels, size = graph.maps[source]
    if size >= 4:
        op = graph.draw(st.sampled_from(["MaxPool", "AveragePool"]))
        graph.add(op, [source], (channels, size // 2), kernel_shape=[2, 2], strides=[2, 2])


def grow_gate(graph: Growing) -> None:
    """Squeeze-and-excitation."""
    source = graph.pick()
    channels, size = graph.maps[source]
    few = graph.draw(st.integers(1, 4))
    pooled = graph.add("GlobalAveragePool", [source], (channels, 1))
    squeezed = graph.add("Conv", [pooled, graph.weight(few, channels, 1, 1, spread=channels**-0.5)], (few, 1))
    bent = graph.add(graph.draw(st.sampled_from(["Relu", "HardSwish"])), [squeezed], (few, 1))
    opened = graph.add("Conv", [bent, graph.weight(channels, few, 1, 1), graph.weight(channels)], (channels, 1))
    gate = graph.add(graph.draw(st.sampled_from(["Sigmoid", "HardSigmoid"])), [opened], (channels, 1))
    graph.add("Mul", [source, gate], (channels, size))


def grow_parts(graph: Growing) -> None:
    """Take a tensor apart, in two or three equal or unequal parts, or cut one out of it."""
    source = graph.pick()
    channels, size = graph.maps[source]
    if channels < 3:
        return
    first = graph.draw(st.integers(1, channels - 1))
    if graph.draw(st.booleans()):
        bounds = {"from": [0, first], "to": [first, np.iinfo(np.int64).max], "axis": [1]}
        for number in graph.draw(st.sampled_from([[0], [1], [0, 1]])):
            names = [f"{key}{len(graph.nodes)}" for key in bounds]
            graph.weights |= {
                name: np.array([values[number if len(values) > 1 else 0]])
                for name, values in zip(names, bounds.values(), strict=True)
            }
            graph.add("Slice", [source, *names], ((first, channels - first)[number], size))
        return
    equal = channels % 2 == 0 and graph.draw(st.booleans())
    sizes = [channels // 2] * 2 if equal else [first, channels - first]
    made = [f"t{len(graph.nodes)}.{number}" for number in range(2)]
    read = [source]
    if not equal or graph.draw(st.booleans()):
        graph.weights[f"sizes{len(graph.nodes)}"] = np.array(sizes)
        read.append(f"sizes{len(graph.nodes)}")
    graph.nodes.append(helper.make_node("Split", read, made, axis=1))
    graph.maps |= {name: (count, size) for name, count in zip(made, sizes, strict=True)}
    graph.unread = (graph.unread - {source}) | set(made)


def grow_transposed(graph: Growing) -> None:
    source = graph.pick()
    channels, size = graph.maps[source]
    if size <= SIZE // 2:
        filters = graph.draw(st.integers(2, 6))
        weight = graph.weight(channels, filters, 2, 2, spread=channels**-0.5)
        graph.add("ConvTranspose", [source, weight], (filters, 2 * size), strides=[2, 2])


def grow_stage(graph: Growing) -> None:
    """Two layers beside each other, joined and read by a third."""
    source = graph.pick()
    channels, size = graph.maps[source]
    beside = []
    for _ in range(2):
        filters = graph.draw(st.integers(2, 5))
        weight = graph.weight(filters, channels, 1, 1, spread=channels**-0.5)
        beside.append(graph.add("Conv", [source, weight], (filters, size)))
    total = sum(graph.maps[name][0] for name in beside)
    joined = graph.add("Concat", beside, (total, size), axis=1)
    filters = graph.draw(st.integers(2, 6))
    graph.add("Conv", [joined, graph.weight(filters, total, 1, 1, spread=total**-0.5)], (filters, size))


Step = Callable[[Growing], None]
STEPS = (grow_convolution, grow_convolution, grow_activation, grow_activation, grow_sum, grow_concatenation, grow_pool)


# More that channels go through on their way from layer to layer.
CHANNEL_STEPS = (*STEPS, grow_gate, grow_gate, grow_parts, grow_parts, grow_stage, grow_stage, grow_transposed)


@st.composite
def networks(draw: st.DrawFn, steps: Sequence[Step] = STEPS, newest: int = 1) -> onnx.ModelProto:
    """A network of up to a dozen steps; whatever nothing reads is an output, and sometimes an inner tensor is too."""
    graph = Growing(draw, newest, maps={"x": (3, SIZE)})
    grow_convolution(graph)
    for _ in range(draw(st.integers(1, 12))):
        draw(st.sampled_from(steps))(graph)
    grow_convolution(graph)
    outputs = graph.unread | ({draw(st.sampled_from(list(graph.maps)[1:]))} if draw(st.booleans()) else set())
    used = {name for node in graph.nodes for name in node.input}
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "random",
            [graph.described("x")],
            [graph.described(name) for name in sorted(outputs)],
            [numpy_helper.from_array(values, name) for name, values in graph.weights.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
