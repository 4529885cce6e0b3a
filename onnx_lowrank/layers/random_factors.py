"""Chains of the right shape with random weights: as fast as the solved ones, and there before anything is solved."""

from __future__ import annotations

from math import prod

import numpy as np

from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Geometry, Layer, pointwise
from onnx_lowrank.layers.plan import LayerPlan

_PERIOD = 9973  # of the noise, repeated: fresh numbers for millions of weights would take longer than the timing

_Shape = tuple[tuple[int, ...], Geometry]  # of the weights, and how they move


def random_factors(layer: Layer, plan: LayerPlan) -> FactorChain:
    """A chain with the shapes and geometries of a layer as planned; one convolution where it is kept.

    Args:
        layer: the layer.
        plan: method and ranks.
    """
    noise = np.random.default_rng(0).normal(size=_PERIOD)
    shapes = _shapes(layer, plan)
    convolutions = []
    for number, (shape, geometry) in enumerate(shapes):
        # Keeps the size of what passes through a rectifier: numbers that fade away get slow before they are 0.
        weight = np.resize(noise * (2 / prod(shape[1:])) ** 0.5, shape)
        bias = np.zeros(layer.filters) if number == len(shapes) - 1 else None
        convolutions.append(Convolution(weight, bias, geometry, layer.groups))
    return FactorChain(tuple(convolutions), SolveErrors(0.0, 0.0))


def _shapes(layer: Layer, plan: LayerPlan) -> list[_Shape]:
    groups, axes = layer.groups, len(layer.kernel)
    d, c = layer.filters, layer.channels // groups
    channel, spatial = plan.channel or d // groups, plan.spatial or 0
    if plan.method == "kept":
        return [((d, c, *layer.kernel), layer.geometry)]
    last: _Shape = ((d, channel, *[1] * axes), pointwise(axes))
    if plan.method == "channel":
        return [((groups * channel, c, *layer.kernel), layer.geometry), last]
    kh, kw = layer.kernel
    pair: list[_Shape] = [
        ((groups * spatial, c, kh, 1), layer.geometry.along(0)),
        ((groups * channel, spatial, 1, kw), layer.geometry.along(1)),
    ]
    return pair if plan.method == "spatial" else [*pair, last]
