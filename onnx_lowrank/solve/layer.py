"""The front door: a layer, its rows and its plan -> its chain. Groups are solved one by one, and put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

import numpy as np

from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import namespace, squares
from onnx_lowrank.solve.channel import solve_channel
from onnx_lowrank.solve.spatial_channel import solve_spatial


def solve_layer(
    layer: Layer, responses: LayerSamples, plan: LayerPlan, solver: str = "auto", refinement: str = "fast"
) -> FactorChain:
    """Solve one layer as planned.

    Args:
        layer: the original layer.
        responses: its sampled rows.
        plan: method and ranks; not ``kept``.
        solver: see `onnx_lowrank.solve.reconstruct`.
        refinement: ``none``, ``fast`` or ``full``, of spatial and spatial-channel chains.

    Raises:
        ValueError: the plan's method does not factorize.
    """
    if layer.groups > 1:
        return _grouped(layer, responses, plan, solver, refinement)
    if plan.method == "channel" and plan.channel is not None:
        return solve_channel(layer, responses, plan.channel, solver=solver)
    if plan.method in ("spatial", "spatial-channel") and plan.spatial is not None:
        channel = plan.channel if plan.method == "spatial-channel" else None
        return solve_spatial(layer, responses, plan.spatial, channel, solver=solver, refinement=refinement)
    raise ValueError(f"{layer.op} '{layer.name}': nothing to solve for method {plan.method!r}")


def _grouped(layer: Layer, responses: LayerSamples, plan: LayerPlan, solver: str, refinement: str) -> FactorChain:
    """Every group solved by itself at the same ranks; grouped convolutions of all of them."""
    chains, sizes = [], []
    for part, read, made in layer.parts:
        rows = responses.part(read, made)
        chains.append(solve_layer(part, rows, plan, solver, refinement))
        targets = rows.targets
        wanted = targets.responses if targets.residual is None else targets.responses + targets.residual
        sizes.append(float(namespace(wanted).sqrt(squares(part.activation(wanted)))))
    steps = zip(*(chain.convolutions for chain in chains), strict=True)
    return FactorChain(tuple(map(_side_by_side, steps)), _of_all([chain.errors for chain in chains], sizes))


def _side_by_side(parts: Sequence[Convolution]) -> Convolution:
    biases = [part.bias for part in parts if part.bias is not None]
    bias = np.concatenate(biases) if biases else None
    return Convolution(np.concatenate([part.weight for part in parts]), bias, parts[0].geometry, len(parts))


def _of_all(errors: Sequence[SolveErrors], sizes: Sequence[float]) -> SolveErrors:
    """Relative errors of all groups together, from those of each and the size of what it makes."""
    whole = hypot(*sizes) or 1.0
    parts = list(zip(errors, sizes, strict=True))
    linear = hypot(*(error.linear * size for error, size in parts))
    return SolveErrors(linear / whole, hypot(*(error.solved * size for error, size in parts)) / whole)
