"""Chains of the right shape with random weights: as fast as the solved ones, before anything is solved."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from onnx_lowrank.layers.chain_shapes import chain_shapes
from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan

_NOISE_PERIOD = 1009  # numbers; repeated, since fresh ones take longer than the timing; archives compress these well


def random_factors(layer: Layer, plan: LayerPlan) -> FactorChain:
    """Return a chain with the shapes and geometries of a layer as planned; one convolution where it is kept.

    Args:
        layer: the layer.
        plan: method and ranks.

    Returns:
        The same weights every time; the errors are 0 and mean nothing.

    Raises:
        ValueError: the plan lacks a rank that its method needs.
    """
    noise = np.random.default_rng(0).normal(size=_NOISE_PERIOD)
    convolutions = []
    for weight_shape, geometry, groups, _ in chain_shapes(layer, plan):
        # This variance (He et al. 2015, arXiv:1502.01852) keeps the scale of what passes through a rectifier: numbers
        # that fade away become subnormal, and slow, before they are 0.
        weight = np.resize(noise * (2 / prod(weight_shape[1:])) ** 0.5, weight_shape)
        convolutions.append(Convolution(weight, None, geometry, groups))
    convolutions[-1] = replace(convolutions[-1], bias=np.zeros(layer.filters))
    return FactorChain(tuple(convolutions), SolveErrors(0.0, 0.0))
