"""Attributes of a node as Python values, all at once."""

from __future__ import annotations

from typing import Any

import onnx

from onnx_lowrank.graph.index import attribute


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name; texts as ``str``, numbers, lists and tensors as `onnx.helper` gives them."""
    return {each.name: attribute(node, each.name) for each in node.attribute}
