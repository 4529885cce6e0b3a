"""Inline the functions that a model defines itself where they contain layers, which cannot be replaced inside them."""

from __future__ import annotations

import onnx
from onnx import inliner

from onnx_lowrank.graph.find_layers import LAYER_OPERATORS
from onnx_lowrank.graph.index import inner_nodes


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with those of its functions inlined that contain a layer's operator; all others stay.

    Args:
        model: not changed.
    """
    with_layers: set[tuple[str, str]] = set()
    # Until a pass finds no further ones: a function may call another that has layers.
    while more := {_key(each) for each in model.functions if _has_layers(each, with_layers)} - with_layers:
        with_layers |= more
    return inliner.inline_selected_functions(model, sorted(with_layers)) if with_layers else model


def _key(function: onnx.FunctionProto) -> tuple[str, str]:
    return function.domain, function.name


def _has_layers(function: onnx.FunctionProto, with_layers: set[tuple[str, str]]) -> bool:
    """Return whether a function has layers, or calls one of those that have."""
    nodes = [each for node in function.node for each in (node, *inner_nodes(node))]
    return any(node.op_type in LAYER_OPERATORS or (node.domain, node.op_type) in with_layers for node in nodes)
