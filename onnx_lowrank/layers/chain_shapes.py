"""The convolutions that replace a layer, as planned: their shapes and geometries, without weights.

Ranks are those of one group: groups * rank channels run between two convolutions of a chain.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx_lowrank.layers.layer import Geometry, Layer, pointwise
from onnx_lowrank.layers.plan import LayerPlan, rank_kinds


class ConvolutionShape(NamedTuple):
    """One convolution of a planned chain.

    Attributes:
        weight: shape of its weight, (out, in / groups, kh, kw), with as many kernel axes as the layer has.
        geometry: strides, dilations, pads.
        groups: equal parts of the channels, each convolved separately.
        work_size: positions that the whole weight is multiplied at, (height, width): those of its output, or of its
            input where it is transposed.
    """

    weight: tuple[int, ...]
    geometry: Geometry
    groups: int
    work_size: tuple[int, ...]


def chain_shapes(layer: Layer, plan: LayerPlan) -> tuple[ConvolutionShape, ...]:
    """Return the convolutions of a layer as planned, in the order they run.

    Only the last one has a bias, since a bias before padding is wrong at the borders.

    Args:
        layer: the original layer.
        plan: its method and ranks.

    Returns:
        One convolution where the layer is kept or reads fewer channels, else two or three.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    geometry, groups, positions = layer.geometry, layer.groups, layer.positions
    filters, inputs, *kernel = layer.weight.shape
    if plan.method == "kept":
        return (ConvolutionShape(layer.weight.shape, geometry, groups, layer.work_size),)
    if plan.method == "width":
        return (ConvolutionShape((filters, _rank(plan.width), *kernel), geometry, groups, layer.work_size),)
    channel = _rank(plan.channel) if "channel" in rank_kinds(plan.method) else filters // groups
    single, alone = [1] * len(kernel), pointwise(len(kernel))
    last = ConvolutionShape((filters, channel, *single), alone, groups, positions)
    if plan.method == "channel":
        return ConvolutionShape((groups * channel, inputs, *kernel), geometry, groups, layer.work_size), last
    if "input" in rank_kinds(plan.method):
        mixed = _rank(plan.input)
        first = ConvolutionShape((groups * mixed, inputs, *single), alone, groups, layer.input_size)
        middle = ConvolutionShape((groups * channel, mixed, *kernel), geometry, groups, layer.work_size)
        return (first, middle) if plan.method == "input" else (first, middle, last)
    spatial = _rank(plan.spatial)
    height, width = kernel
    along_height, along_width = geometry.by_axis
    between = (positions[0], layer.input_size[1])
    work_sizes = (layer.input_size, between) if geometry.transposed else (between, positions)
    pair = (
        ConvolutionShape((groups * spatial, inputs, height, 1), along_height, groups, work_sizes[0]),
        ConvolutionShape((groups * channel, spatial, 1, width), along_width, groups, work_sizes[1]),
    )
    return pair if plan.method == "spatial" else (*pair, last)


def _rank(rank: int | None) -> int:
    if rank is None:
        raise ValueError("the plan of a factorized layer has no rank")
    return rank
