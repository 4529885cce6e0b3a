"""Attributes of a node as Python values."""

from __future__ import annotations

from typing import Any

import onnx

from onnx_lowrank.graph.index import attribute


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes by name: texts as ``str``, numbers, lists and tensors as `onnx.helper` returns them."""
    return {item.name: attribute(node, item.name) for item in node.attribute}
