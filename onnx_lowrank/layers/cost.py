"""Multiply-adds and parameters of a layer's possible chains, bias not counted as multiply-adds.

Ranks are those of one group: what goes in or out of all groups together is c or d, what is between them groups * rank.
"""

from __future__ import annotations

from math import prod

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan


def chain_macs(layer: Layer, plan: LayerPlan) -> int:
    """Multiply-adds per image of a layer as planned.

    Args:
        layer: the original layer.
        plan: method and ranks.
    """
    if plan.method == "kept":
        return layer.macs
    pixels = prod(layer.positions)
    if plan.method == "channel":
        rank = _rank(plan.channel)
        return pixels * rank * (layer.channels * prod(layer.kernel) + layer.filters)
    spatial = _rank(plan.spatial)
    outputs = layer.filters // layer.groups if plan.method == "spatial" else _rank(plan.channel)
    vertical = layer.positions[0] * layer.input_size[1] * spatial * layer.channels * layer.kernel[0]
    horizontal = pixels * layer.groups * outputs * spatial * layer.kernel[1]
    last = 0 if plan.method == "spatial" else pixels * layer.filters * outputs
    return vertical + horizontal + last


def chain_parameters(layer: Layer, plan: LayerPlan) -> int:
    """Weights and biases of a layer as planned; only the last convolution of a chain has a bias."""
    if plan.method == "kept":
        return layer.parameters
    if plan.method == "channel":
        rank = _rank(plan.channel)
        return rank * (layer.channels * prod(layer.kernel) + layer.filters) + layer.filters
    spatial = _rank(plan.spatial)
    outputs = layer.filters // layer.groups if plan.method == "spatial" else _rank(plan.channel)
    last = 0 if plan.method == "spatial" else layer.filters * outputs
    thin = spatial * (layer.channels * layer.kernel[0] + layer.groups * outputs * layer.kernel[1])
    return thin + last + layer.filters


def _rank(rank: int | None) -> int:
    if rank is None:
        raise ValueError("the plan of a factorized layer has no rank")
    return rank
