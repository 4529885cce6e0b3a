"""Multiply-adds, parameters and storage of a layer as planned, counted over the convolutions of its chain."""

from __future__ import annotations

from math import prod

from onnx_lowrank.layers.chain_shapes import chain_shapes
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan


def chain_macs(layer: Layer, plan: LayerPlan) -> int:
    """Return the multiply-adds per image of a layer as planned, bias not counted.

    Args:
        layer: the original layer.
        plan: method and ranks.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    # Rank selection counts every option of every layer: unpacking is faster than attributes.
    return layer.maps * sum([prod(weight) * prod(size) for weight, _, _, size in chain_shapes(layer, plan)])


def chain_parameters(layer: Layer, plan: LayerPlan) -> int:
    """Return the number of weights and biases of a layer as planned; only the last convolution of a chain has a bias.

    Args:
        layer: the original layer.
        plan: method and ranks.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    if plan.method == "kept":
        return layer.parameters
    return sum([prod(weight) for weight, _, _, _ in chain_shapes(layer, plan)]) + layer.filters


def chain_storage(layer: Layer, plan: LayerPlan) -> float:
    """Return the storage of a layer as planned, in numbers of its own type: parameters, unless they are quantized.

    Factors are not quantized, so that they may need more than the weight that they replace.

    Args:
        layer: the original layer.
        plan: method and ranks.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    if plan.method == "kept":
        return layer.stored_bytes / layer.weight.itemsize
    return chain_parameters(layer, plan)
