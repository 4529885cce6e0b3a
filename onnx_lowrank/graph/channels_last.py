"""Move what scales and shifts channels before the Transpose behind a convolution, where it is folded into the layer.

Keras computes with the channels last, and its exporters write Conv, Transpose, Mul, Add, Relu for a convolution with
BatchNormalization and an activation. Elementwise operators give the same numbers, bit by bit, on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_lowrank.graph.extract import MIN_FREE_INITIALIZERS_IR, initializer_input, remove_orphans
from onnx_lowrank.graph.fold import AFFINE_OPERATORS
from onnx_lowrank.graph.index import CONVOLUTIONS, STANDARD_DOMAINS, GraphIndex, attribute, fresh_name, names_in_use


@dataclass(frozen=True, eq=False)
class _Move:
    """Nodes that go before a Transpose.

    Attributes:
        transpose: output of the Transpose.
        nodes: outputs of the nodes behind it, in order, the last one an affine one.
        casts: those of them that convert to the type that the tensor has already.
        constants: by output of an affine node its constant with one number per channel, shape (d, 1, ..., 1).
    """

    transpose: str
    nodes: tuple[str, ...]
    casts: frozenset[str]
    constants: dict[str, NDArray[Any]]


def affine_before_transpose(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the constants of channels before the Transposes that follow its convolutions.

    Args:
        model: not changed; returned itself where there is nothing to move.
    """
    index = GraphIndex(model)
    moves = [move for node in model.graph.node if (move := _move(index, node)) is not None]
    if not moves:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    taken = names_in_use(changed)
    for move in moves:
        _apply(changed, move, taken)
    return changed


def _move(index: GraphIndex, node: onnx.NodeProto) -> _Move | None:
    """Return what to move behind a node; None where it is no convolution, or nothing can be moved."""
    if node.op_type not in CONVOLUTIONS or node.domain not in STANDARD_DOMAINS:
        return None
    if not node.output or len(node.input) < 2:  # nobody has checked the model yet
        return None
    transpose = index.only_consumer(node.output[0])
    if transpose is None or transpose.op_type != "Transpose" or not transpose.output:
        return None
    perm, kind = attribute(transpose, "perm") or (), _float_type(index, node.input[1])
    if kind is None or len(perm) < 2 or sorted(perm) != list(range(len(perm))):
        return None
    nodes: list[str] = []
    casts, constants, affine = set(), {}, 0
    tensor = transpose.output[0]
    while (follower := index.only_consumer(tensor)) is not None and follower.output:
        output = follower.output[0]
        if follower.op_type == "Cast" and attribute(follower, "to") == kind:
            casts.add(output)
        elif (value := _channel_constant(index, follower, tensor, perm)) is not None:
            constants[output] = value
            affine = len(nodes) + 1
        else:
            break
        nodes.append(output)
        tensor = output
    return _Move(transpose.output[0], tuple(nodes[:affine]), frozenset(casts), constants) if affine else None


def _float_type(index: GraphIndex, weight: str) -> int | None:
    """Return the type that a weight is stored in; None where it is none, or not known."""
    kinds = {int(root.data_type) for root in index.roots(weight) or ()}
    floats = {kind for kind in kinds if np.issubdtype(helper.tensor_dtype_to_np_dtype(kind), np.floating)}
    return floats.pop() if len(floats) == 1 else None


def _channel_constant(index: GraphIndex, node: onnx.NodeProto, tensor: str, perm: Sequence[int]) -> NDArray[Any] | None:
    """Return the constant of an affine node as it is before the Transpose; None where it is not one per channel."""
    others = [name for name in node.input if name != tensor]
    if node.op_type not in AFFINE_OPERATORS or len(node.input) != 2 or len(others) != 1:
        return None
    value = index.constant(others[0])
    if value is None or value.ndim > len(perm):
        return None
    wide = value.reshape(*[1] * (len(perm) - value.ndim), *value.shape)
    first = wide.transpose(np.argsort(perm))  # with the axes in the order before the Transpose
    return first.reshape(first.shape[1:]) if first.size == first.shape[1] else None


def _apply(model: onnx.ModelProto, move: _Move, taken: set[str]) -> None:
    """Move nodes before a Transpose, in place; names that are added join ``taken``."""
    graph = model.graph
    places = {node.output[0]: place for place, node in enumerate(graph.node) if node.output}
    transpose, last = graph.node[places[move.transpose]], graph.node[places[move.nodes[-1]]]
    tensor, replaced = transpose.input[0], []
    previous = move.transpose
    for output in move.nodes:
        node = graph.node[places[output]]
        if output not in move.casts:
            for position, name in enumerate(node.input):
                if name == previous:
                    node.input[position] = tensor
                else:
                    replaced.append(name)
                    node.input[position] = _stored(model, move.constants[output], f"{name}/channels", taken)
            tensor = output
        previous = output
    result = last.output[0]
    last.output[0] = transpose.input[0] = fresh_name(f"{result}/before_transpose", taken)
    taken.add(last.output[0])
    transpose.output[0] = result
    moved = onnx.NodeProto()
    moved.CopyFrom(transpose)
    graph.node.insert(places[move.nodes[-1]] + 1, moved)
    for place in sorted(
        (places[move.transpose], *(places[output] for output in move.casts & {*move.nodes})), reverse=True
    ):
        del graph.node[place]
    stale = {move.transpose, *move.nodes[:-1]}  # their axes are in another order now
    for place in reversed(range(len(graph.value_info))):
        if graph.value_info[place].name in stale:
            del graph.value_info[place]
    remove_orphans(model, replaced)


def _stored(model: onnx.ModelProto, value: NDArray[Any], base: str, taken: set[str]) -> str:
    """Add an initializer, and return its name."""
    name = fresh_name(base, taken)
    taken.add(name)
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    model.graph.initializer.append(tensor)
    if model.ir_version < MIN_FREE_INITIALIZERS_IR:
        model.graph.input.append(initializer_input(tensor))
    return name
