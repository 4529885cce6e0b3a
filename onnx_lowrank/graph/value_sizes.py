"""Find the tensors whose size depends on the values of the inputs, as that of a list of detected objects does."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from onnx_lowrank.graph.index import inner_nodes, tensors_read
from onnx_lowrank.graph.tensors import subgraphs

# Operators whose outputs are as long as their inputs' values say.
_SELECTING = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique", "StringSplit"})
# Operators with operands that are sizes, and the first of these operands.
_SIZED = {
    **dict.fromkeys(("ConstantOfShape", "Range", "HannWindow", "HammingWindow", "BlackmanWindow", "If"), 0),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Slice", "Resize", "Upsample", "TopK", "Pad", "OneHot", "Split"), 1),
    **dict.fromkeys(("CenterCropPad", "SplitToSequence", "AffineGrid", "Col2Im", "DFT", "STFT", "SequenceAt"), 1),
    "MaxUnpool": 2,
}
_MEASURING = frozenset({"Shape", "Size", "SequenceLength"})


def sized_by_values(model: onnx.ModelProto, inputs: Collection[str]) -> set[str]:
    """Return the names of tensors whose size may depend on the values of some inputs, not only on their shapes.

    Args:
        model: the network.
        inputs: names of the inputs whose values change from sample to sample.
    """
    with_values, sized = set(inputs), set[str]()
    for node in model.graph.node:
        read, outputs = set(tensors_read(node)), {name for name in node.output if name}
        if node.op_type in _MEASURING:
            with_values |= outputs if not read.isdisjoint(sized) else set()
            continue
        if not read.isdisjoint(sized) or _sizes_by_values(node, read, with_values):
            sized |= outputs
        if not read.isdisjoint(with_values):
            with_values |= outputs
    return sized


def _sizes_by_values(node: onnx.NodeProto, read: set[str], with_values: set[str]) -> bool:
    """Return whether values say how long a node's outputs are."""
    if read.isdisjoint(with_values):
        return False
    if node.op_type in _SELECTING or any(inner.op_type in _SELECTING for inner in inner_nodes(node)):
        return True
    if node.op_type == "Loop":  # a Scan has as many turns as its input is long
        return not with_values.isdisjoint(node.input[:2]) or not _goes_on_as_it_began(node)
    first = _SIZED.get(node.op_type)
    # ROIs of Resize are coordinates, and only count where it crops, which does not change its size either.
    return first is not None and not with_values.isdisjoint(node.input[first : 1 if node.op_type == "If" else None])


def _goes_on_as_it_began(loop: onnx.NodeProto) -> bool:
    """Return whether a Loop's condition never changes, so that the number of turns alone says when it ends."""
    (body,) = subgraphs(loop)
    producers = {name: inner for inner in body.node for name in inner.output}
    condition = body.output[0].name
    while condition in producers and producers[condition].op_type == "Identity":
        condition = producers[condition].input[0]
    if condition in producers:
        return bool(producers[condition].op_type == "Constant")
    return condition in {body.input[1].name, *(tensor.name for tensor in body.initializer)}
