"""Functions that a model defines itself, written out where they hide layers: inside them nothing can be replaced."""

from __future__ import annotations

import onnx
from onnx import inliner

from onnx_lowrank.graph.find_layers import COUNTED
from onnx_lowrank.graph.index import inner_nodes


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with those of its own functions written out that hold a Conv, Gemm or MatMul; all others stay.

    Args:
        model: not changed.
    """
    hidden: set[tuple[str, str]] = set()
    while more := {(each.domain, each.name) for each in model.functions if _holds_layers(each, hidden)} - hidden:
        hidden |= more
    return inliner.inline_selected_functions(model, sorted(hidden)) if hidden else model


def _holds_layers(function: onnx.FunctionProto, hidden: set[tuple[str, str]]) -> bool:
    """Whether a function has layers, or calls a function that has."""
    nodes = [each for node in function.node for each in (node, *inner_nodes(node))]
    return any(node.op_type in COUNTED or (node.domain, node.op_type) in hidden for node in nodes)
