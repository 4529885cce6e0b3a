"""Recognize the activation that follows a response: one operator, or the small pattern that an exporter writes for it.

How to add an activation is said in `onnx_lowrank.layers.activation`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from onnx_lowrank.graph.fold import ChannelAxis
from onnx_lowrank.graph.index import GraphIndex, attribute
from onnx_lowrank.layers import activation as act
from onnx_lowrank.layers.activation import Activation

# Operators that leave every element as it is, so that an activation may follow them.
_PASS_THROUGH_OPERATORS = frozenset({"Identity", "Dropout", "Transpose"})
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_RELATIVE_TOLERANCE = 1e-3  # constants such as 1/6 and sqrt(2) are exported with few digits by some tools
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def find_activation(index: GraphIndex, tensor: str, axis: ChannelAxis) -> Activation:
    """Return the activation that is applied to ``tensor``; identity where none is recognized.

    Args:
        index: the model's graph.
        tensor: a response, or the sum of a response and a residual.
        axis: its channel axis.
    """
    transposed = False
    while (node := index.only_consumer(tensor)) is not None and _passes_through(node):
        transposed |= node.op_type == "Transpose"
        tensor = node.output[0]
    if node is not None:
        activation = _single_operator(index, node, axis, transposed=transposed)
    elif tensor in index.outputs:
        activation = None
    else:
        activation = _pattern(index, tensor)
    return activation or act.identity()


def _passes_through(node: onnx.NodeProto) -> bool:
    """Return whether a node leaves every element as it is, but for rounding to another floating-point type."""
    to_float = node.op_type == "Cast" and attribute(node, "to") in _FLOAT_TYPES
    return to_float or node.op_type in _PASS_THROUGH_OPERATORS


def _single_operator(
    index: GraphIndex, node: onnx.NodeProto, axis: ChannelAxis, *, transposed: bool
) -> Activation | None:
    """Return the activation of a node that is the only one to read the response; None for any other operator."""
    match node.op_type:
        case "Relu":
            return act.relu()
        case "LeakyRelu":
            return act.leaky_relu(attribute(node, "alpha", 0.01))
        case "PRelu":
            return _prelu(index, node, axis, transposed=transposed)
        case "Clip":
            low, high = _clip_bounds(index, node)
            return None if low is None or high is None else act.clip(low, high)
        case "HardSigmoid":
            return act.hard_sigmoid(attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5))
        case "Sigmoid":
            return act.sigmoid()
        case "Tanh":
            return act.tanh()
        case "HardSwish":
            return act.hard_swish()
        case "Swish" if attribute(node, "alpha", 1.0) == 1.0:
            return act.silu()
        case "Softplus":
            return act.softplus()
        case "Gelu":
            return act.gelu_tanh() if attribute(node, "approximate", "none") == "tanh" else act.gelu()
    return None


def _prelu(index: GraphIndex, node: onnx.NodeProto, axis: ChannelAxis, *, transposed: bool) -> Activation | None:
    """Return a PRelu with one constant slope, or one for each channel; None for any other."""
    slope = index.constant(node.input[1])
    if slope is None:
        return None
    if slope.size == 1:
        return act.prelu(float(slope.reshape(())))
    if axis.fits(slope) and not transposed:
        return act.prelu(slope.astype(np.float64).reshape(-1))
    return None


def _clip_bounds(index: GraphIndex, node: onnx.NodeProto) -> tuple[float | None, float | None]:
    """Return the bounds of a Clip: attributes (opset < 11) or constant inputs; None for one computed at run time.

    The largest float32, which some exporters write where there is no bound, counts as infinite.
    """
    bounds: list[float | None] = []
    for position, (name, open_end) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        if len(node.input) > position and node.input[position]:
            value = index.constant(node.input[position])
            bounds.append(None if value is None else float(value.reshape(())))
        else:
            bounds.append(float(attribute(node, name, open_end)))
    low, high = (np.sign(bound) * np.inf if bound and abs(bound) >= _FLOAT32_MAX else bound for bound in bounds)
    return low, high


def _pattern(index: GraphIndex, tensor: str) -> Activation | None:
    """Return an activation that is written as several nodes, recognized by the nodes that read the response."""
    nodes = [_after_times_one(index, node) for node in index.consumers.get(tensor, [])]
    readers = {node.op_type: node for node in nodes}
    if len(readers) != len(nodes) or "Mul" not in readers:
        return None
    product = readers.pop("Mul")
    if len(readers) != 1:
        return None
    ((kind, branch),) = readers.items()
    if kind == "Sigmoid" and _multiplies(index, product, branch):
        return act.silu()
    if kind == "HardSigmoid" and _multiplies(index, product, branch):
        slope, offset = attribute(branch, "alpha", 0.2), attribute(branch, "beta", 0.5)
        return act.hard_swish() if _near(slope, 1 / 6) and _near(offset, 0.5) else None
    if kind == "Add":
        return _hard_swish(index, product, branch)
    if kind in {"Div", "Erf"}:
        return _gelu(index, product, branch)
    return None


def _after_times_one(index: GraphIndex, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the node after a product with 1, which Paddle writes for the slope of its Swish; else the node itself."""
    if node.op_type == "Mul" and _constant_operand(index, node) == 1:
        return index.only_consumer(node.output[0]) or node
    return node


def _multiplies(index: GraphIndex, product: onnx.NodeProto, branch: onnx.NodeProto) -> bool:
    """Return whether a product reads a branch, and nothing else does."""
    return branch.output[0] in product.input and index.only_consumer(branch.output[0]) is product


def _hard_swish(index: GraphIndex, product: onnx.NodeProto, add: onnx.NodeProto) -> Activation | None:
    """Recognize ``x * clip(x + 3, 0, 6) / 6``, the division before or after the product."""
    clip = index.only_consumer(add.output[0])
    if clip is None or clip.op_type != "Clip" or not _near(_constant_operand(index, add), 3.0):
        return None
    if _clip_bounds(index, clip) != (0.0, 6.0):
        return None
    division = index.only_consumer(clip.output[0])
    if division is product:
        division = index.only_consumer(product.output[0])
    elif division is None or not _multiplies(index, product, division):
        return None
    return act.hard_swish() if division is not None and _divides_by(index, division, 6.0) else None


def _gelu(index: GraphIndex, product: onnx.NodeProto, branch: onnx.NodeProto) -> Activation | None:
    """Recognize ``x * (1 + erf(x / sqrt(2))) * 0.5``, the factor 0.5 before or after the product."""
    if branch.op_type != "Div" or not _near(_constant_operand(index, branch), np.sqrt(2.0)):
        return None
    erf = index.only_consumer(branch.output[0])
    add = index.only_consumer(erf.output[0]) if erf is not None and erf.op_type == "Erf" else None
    if add is None or add.op_type != "Add" or not _near(_constant_operand(index, add), 1.0):
        return None
    if index.only_consumer(add.output[0]) is product:
        half = index.only_consumer(product.output[0])
        return act.gelu() if half is not None and _divides_by(index, half, 2.0) else None
    last = index.only_consumer(product.output[0])
    halved = _near(_constant_operand(index, product), 0.5)
    return act.gelu() if halved and last is not None and index.only_consumer(add.output[0]) is last else None


def _divides_by(index: GraphIndex, node: onnx.NodeProto, divisor: float) -> bool:
    value = _constant_operand(index, node)
    if node.op_type == "Div":
        return _near(value, divisor)
    return node.op_type == "Mul" and _near(value, 1 / divisor)


def _constant_operand(index: GraphIndex, node: onnx.NodeProto) -> float | None:
    """Return the number that a binary node adds, multiplies or divides by; None where that is no single constant."""
    names = node.input[1:] if node.op_type == "Div" else node.input
    values = [value for name in names if (value := index.constant(name)) is not None]
    return float(values[0].reshape(())) if len(values) == 1 and values[0].size == 1 else None


def _near(value: float | None, expected: float) -> bool:
    return value is not None and abs(value - expected) <= _RELATIVE_TOLERANCE * abs(expected)
