"""Random networks with what those in the wild have, combined: views, quantized weights, states, odd names, draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
SAMPLES, FRESH, SIZE = 24, 6, 8
OPSET, IR = 21, 10  # the first with int4
NAMES = ("{}", "gpu_0/{}:0", "a=b/{}", "[{}]")
WEIGHTS = ("plain", "plain", "shared", "normalized", "int8", "int4", "transposed", "Constant", "input")
INPUTS = ("maps", "maps", "views", "pairs", "one", "channels last")
SPICES = ("dropout", "noise", "state", "scalar", "text", "stale", "joined", "float16")


@dataclass
class Wild:
    """A network that grows node by node along one path.

    Attributes:
        draw: of hypothesis.
        name: form of the names of inputs and layers.
        dtype: of weights and maps.
        nodes: in order.
        stored: initializers.
        inputs: of the graph.
        data: samples to calibrate with and fresh ones behind them, by input name, as `convert` takes them.
        constants: values of inputs that are weights.
        spices: what the network has.
    """

    draw: st.DrawFn
    name: str
    dtype: Any
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: dict[str, onnx.TensorProto] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    data: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    spices: set[str] = field(default_factory=set)

    @property
    def kind(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def random(self, *shape: int) -> Array:
        return np.random.default_rng(len(self.nodes) + 100 * len(self.stored)).standard_normal(shape)

    def add(self, op: str, *read: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        made = [f"t{len(self.nodes)}{'' if number == 0 else f'.{number}'}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, list(read), made, name=name, **attributes))
        return made[0]

    def hold(self, values: Any) -> str:
        name = f"k{len(self.stored)}"
        self.stored[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def read(self, name: str, values: Array, shape: list[Any]) -> str:
        name = self.name.format(name)
        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), shape))
        self.data[name] = values
        return name


def smooth(wild: Wild, *shape: int) -> Array:
    """Random maps of which neighbours are alike."""
    noise = wild.random(SAMPLES + FRESH, *shape)
    return ((noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2)) / 2).astype(wild.dtype)


def start(wild: Wild) -> tuple[str, int]:
    """Add the first input; return the tensor of maps and the number of maps of a sample."""
    kind = wild.draw(st.sampled_from(INPUTS))
    wild.spices.add(kind)
    size: list[Any] = ["H", "W"] if "stale" in wild.spices and kind != "channels last" else [SIZE, SIZE]
    match kind:
        case "views" | "pairs":
            x = wild.read("x", smooth(wild, 3, 3, SIZE, SIZE), ["N", 3, 3, *size])
            first = wild.add("Transpose", x, perm=[1, 0, 2, 3, 4]) if kind == "pairs" else x
            return wild.add("Reshape", first, wild.hold(np.array([-1, 3, SIZE, SIZE]))), 3
        case "one":
            x = wild.read("x", smooth(wild, 3, SIZE, SIZE), [3, *size])
            return wild.add("Unsqueeze", x, wild.hold(np.array([0]))), 1
        case "channels last":
            x = wild.read("x", smooth(wild, SIZE, SIZE, 3), ["N", *size, 3])
            return wild.add("Transpose", x, perm=[0, 3, 1, 2]), 1
    return wild.read("x", smooth(wild, 3, SIZE, SIZE), ["N", 3, *size]), 1


def weight(wild: Wild, *shape: int) -> str:
    """Add a weight, stored in one way or another."""
    values = (wild.random(*shape) / np.sqrt(np.prod(shape[1:]))).astype(wild.dtype)
    kind = wild.draw(st.sampled_from(WEIGHTS))
    wild.spices.add(kind)
    match kind:
        case "shared":
            same = [name for name, tensor in wild.stored.items() if tensor.data_type == wild.kind]
            alike = [name for name in same if tuple(wild.stored[name].dims) == shape]
            return alike[0] if alike else wild.hold(values)
        case "normalized":
            norm = wild.add("ReduceL2", wild.hold(values), wild.hold(np.arange(1, len(shape))), keepdims=1)
            return wild.add("Div", next(reversed([*wild.stored][:-1])), norm)
        case "int8" | "int4":
            wild.spices |= {"quantized matrix"} if len(shape) == 2 else set()
            kind_of = TensorProto.INT8 if kind == "int8" else TensorProto.INT4
            whole = np.clip(np.rint(values.astype(np.float64) * 8), -7, 7).astype(np.int8)
            name = f"q{len(wild.stored)}"
            wild.stored[name] = helper.make_tensor(name, kind_of, shape, whole.ravel().tolist())
            return wild.add("DequantizeLinear", name, wild.hold(wild.dtype(0.125)))
        case "transposed":
            axes = list(range(len(shape)))[::-1]
            return wild.add("Transpose", wild.hold(values.transpose(axes).copy()), perm=axes)
        case "Constant":
            return wild.add("Constant", value=numpy_helper.from_array(values))
        case "input":
            name = wild.name.format(f"p{len(wild.inputs)}")
            wild.inputs.append(helper.make_tensor_value_info(name, wild.kind, shape))
            wild.constants[name] = values
            return name
    return wild.hold(values)


def layer(wild: Wild, tensor: str, channels: int) -> tuple[str, int]:
    """Add a convolution or a transposed one, a bias and an activation."""
    filters = wild.draw(st.sampled_from([4, 6, 8]))
    name = wild.name.format(f"conv{len(wild.nodes)}")
    if wild.draw(st.integers(0, 4)) == 0:
        made = wild.add("ConvTranspose", tensor, weight(wild, channels, filters, 3, 3), name=name, pads=[1] * 4)
    else:
        kernel = wild.draw(st.sampled_from([1, 3]))
        bias = [wild.hold(wild.random(filters).astype(wild.dtype))] if wild.draw(st.booleans()) else []
        read = (tensor, weight(wild, filters, channels, kernel, kernel), *bias)
        made = wild.add("Conv", *read, name=name, pads=[kernel // 2] * 4)
    return wild.add(wild.draw(st.sampled_from(["Relu", "Sigmoid", "Identity"])), made), filters


def dropout(wild: Wild, tensor: str, channels: int) -> str:
    return wild.add("Dropout", tensor, wild.hold(np.float32(0.5)), wild.hold(np.bool_(True)))


def noise(wild: Wild, tensor: str, channels: int) -> str:
    return wild.add("Add", tensor, wild.add("RandomNormalLike", tensor))


def state(wild: Wild, tensor: str, channels: int) -> str:
    """Add an input with samples on its second axis, which has one map for each of the first."""
    values = np.moveaxis(smooth(wild, 2, channels), 0, 1)
    read = wild.read("state", values, [2, "N", channels])
    first = wild.add("Gather", read, wild.hold(np.array(1)), axis=0)
    return wild.add("Add", tensor, wild.add("Unsqueeze", first, wild.hold(np.array([2, 3]))))


def scalar(wild: Wild, tensor: str, channels: int) -> str:
    return wild.add("Mul", tensor, wild.read("rate", np.asarray(0.5, wild.dtype), []))


INSIDE: dict[str, Callable[[Wild, str, int], str]] = {
    "dropout": dropout,
    "noise": noise,
    "state": state,
    "scalar": scalar,
}


def end(wild: Wild, tensor: str, channels: int, maps: int) -> list[onnx.ValueInfoProto]:
    """Add the outputs: maps, scores of a classifier, a text."""
    outputs = [helper.make_tensor_value_info(tensor, wild.kind, None)]
    if "stale" in wild.spices:
        outputs = [helper.make_tensor_value_info(tensor, wild.kind, ["N", channels, 5 * SIZE, 7 * SIZE])]
    if wild.draw(st.booleans()):
        flat = wild.add("Flatten", wild.add("GlobalAveragePool", tensor))
        scores = wild.add("MatMul", flat, weight(wild, channels, 2), name=wild.name.format("scores"))
        if "joined" in wild.spices:
            scores = wild.add("Reshape", scores, wild.hold(np.array([1, -1])))
        outputs.append(helper.make_tensor_value_info(scores, wild.kind, None))
    if "text" in wild.spices:
        text = wild.add("Constant", value_strings=["cat", "dog"])
        outputs.append(helper.make_tensor_value_info(text, TensorProto.STRING, [2]))
    return outputs


@dataclass(frozen=True)
class Case:
    """A network and all that it takes to convert it."""

    model: onnx.ModelProto
    data: dict[str, Array]
    fresh: list[dict[str, Array]]
    constants: dict[str, Array]
    spices: frozenset[str]

    def __repr__(self) -> str:
        return f"Case({', '.join(sorted(self.spices))})"


@st.composite
def wild_networks(draw: st.DrawFn) -> Case:
    """A network of two to four convolutions with some of what networks in the wild have."""
    spices = draw(st.sets(st.sampled_from(SPICES), max_size=3))
    wild = Wild(draw, draw(st.sampled_from(NAMES)), np.float16 if "float16" in spices else np.float32, spices=spices)
    tensor, maps = start(wild)
    if maps > 1 or "one" in wild.spices:
        wild.spices -= {"state"}
    channels = 3
    inside = sorted(wild.spices & INSIDE.keys())
    for number in range(draw(st.integers(2, 4))):
        tensor, channels = layer(wild, tensor, channels)
        if number < len(inside):
            tensor = INSIDE[inside[number]](wild, tensor, channels)
    wild.spices -= set(inside[number + 1 :])
    if "float16" in wild.spices:
        tensor = wild.add("Mul", tensor, wild.hold(np.float16(1 / 64)))
    outputs = end(wild, tensor, channels, maps)
    graph = helper.make_graph(wild.nodes, "wild", wild.inputs, outputs, list(wild.stored.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return Case(model, *_divided(wild), wild.constants, frozenset(wild.spices))


def _divided(wild: Wild) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """Return the samples to calibrate with, and fresh ones one by one as the model takes them."""
    data, fresh = {}, [dict(wild.constants) for _ in range(FRESH)]
    for name, values in wild.data.items():
        axis = 1 if name == wild.name.format("state") else 0
        data[name] = values if not values.ndim else np.take(values, range(SAMPLES), axis)
        for number, feeds in enumerate(fresh):
            place = SAMPLES + number
            one = values if not values.ndim else np.take(values, [place], axis)
            feeds[name] = one[0] if "one" in wild.spices and values.ndim else one
    return data, fresh
