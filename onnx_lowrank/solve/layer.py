"""Solve a layer as its plan says; groups are solved one by one, and their filters put side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import hypot

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan, largest_ranks, rank_kinds
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import namespace, squares
from onnx_lowrank.solve.balance import balanced
from onnx_lowrank.solve.channel import solve_channel
from onnx_lowrank.solve.depthwise import solve_depthwise
from onnx_lowrank.solve.spatial_channel import solve_spatial
from onnx_lowrank.solve.tucker import solve_tucker
from onnx_lowrank.solve.width import FULL_EFFORT, WidthEffort, solve_width


def solve_layer(
    layer: Layer,
    responses: LayerSamples,
    plan: LayerPlan,
    solver: str = "auto",
    refinement: str = "fast",
    kept: NDArray[np.int64] | None = None,
    effort: WidthEffort = FULL_EFFORT,
) -> FactorChain:
    """Solve one layer as planned.

    Use `solve_channel`, `solve_spatial` or `solve_tucker` directly for a layer without groups whose method is known.

    Args:
        layer: the original layer.
        responses: its sampled rows.
        plan: method and ranks; ``kept`` to solve the layer anew as it is.
        solver: see `onnx_lowrank.solve.reconstruct`.
        refinement: ``none``, ``fast`` or ``full``, of all chains but channel ones.
        kept: channels of its input that are not left out, ascending; None where all stay.
        effort: how much is tried for a layer that keeps its shape, or loses channels alone.

    Raises:
        ValueError: the plan's method does not factorize.
    """
    if plan.method == "kept" and layer.groups > 1:
        return solve_depthwise(layer, responses)
    if plan.method in {"kept", "width"}:
        return solve_width(layer, responses, np.arange(layer.channels) if kept is None else kept, effort)
    if kept is not None:
        return _of_fewer_channels(layer, responses, plan, kept, solver=solver, refinement=refinement)
    if layer.groups > 1:
        return _grouped(layer, responses, plan, solver, refinement)
    if plan.method == "channel" and plan.channel is not None:
        return balanced(solve_channel(layer, responses, plan.channel, solver=solver), responses.patches)
    kinds = rank_kinds(plan.method)
    channel = plan.channel if "channel" in kinds else None
    if "spatial" in kinds and plan.spatial is not None:
        chain = solve_spatial(layer, responses, plan.spatial, channel, solver=solver, refinement=refinement)
        return balanced(chain, responses.patches)
    if "input" in kinds and plan.input is not None:
        chain = solve_tucker(layer, responses, plan.input, channel, solver=solver, refinement=refinement)
        return balanced(chain, responses.patches)
    raise ValueError(f"{layer.op} '{layer.name}': nothing to solve for method {plan.method!r}")


def _of_fewer_channels(
    layer: Layer, responses: LayerSamples, plan: LayerPlan, kept: NDArray[np.int64], *, solver: str, refinement: str
) -> FactorChain:
    """Factorize a layer without groups of whose input other layers leave channels out; its weights are 0 on these."""
    (whole,) = solve_width(layer, responses, kept).convolutions
    bias = layer.bias if whole.bias is None else whole.bias.astype(layer.bias.dtype)
    narrow = replace(layer, weight=whole.weight[:, kept].astype(layer.weight.dtype), bias=bias)
    largest, planned = largest_ranks(narrow), plan.input or plan.spatial or 0
    spatial = None if plan.spatial is None else min(plan.spatial, largest["spatial"])
    mixed = None if plan.input is None else min(plan.input, largest["input"])
    fitting = replace(plan, spatial=spatial, input=mixed)
    chain = solve_layer(narrow, responses.part(kept, slice(None)), fitting, solver, refinement)
    first, *others = chain.convolutions
    weight = np.zeros((len(first.weight), layer.channels, *first.weight.shape[2:]))
    weight[:, kept] = first.weight
    first = replace(first, weight=weight)
    if (missing := planned - len(weight)) > 0:  # as many as planned, of no effect
        second, *rest = others
        first = replace(first, weight=_padded(weight, 0, missing))
        others = [replace(second, weight=_padded(second.weight, 1, missing)), *rest]
    return replace(chain, convolutions=(first, *others))


def _padded(weight: NDArray[np.float64], axis: int, count: int) -> NDArray[np.float64]:
    """Return a weight with zeros added at the end of an axis."""
    pads = [(0, count if number == axis else 0) for number in range(weight.ndim)]
    padded: NDArray[np.float64] = np.pad(weight, pads)
    return padded


def _grouped(layer: Layer, responses: LayerSamples, plan: LayerPlan, solver: str, refinement: str) -> FactorChain:
    """Solve every group by itself at the same ranks, and return grouped convolutions of all of them."""
    chains, sizes = [], []
    for part, inputs, outputs in layer.parts:
        rows = responses.part(inputs, outputs)
        chains.append(solve_layer(part, rows, plan, solver, refinement))
        targets = rows.targets
        response = targets.responses if targets.residual is None else targets.responses + targets.residual
        sizes.append(float(namespace(response).sqrt(squares(part.activation(response)))))
    steps = zip(*(chain.convolutions for chain in chains), strict=True)
    reasons = [f"group {number}: {chain.reason}" for number, chain in enumerate(chains) if chain.reason]
    errors = _of_all([chain.errors for chain in chains], sizes)
    return FactorChain(tuple(map(_side_by_side, steps)), errors, "; ".join(reasons) or None)


def _side_by_side(parts: Sequence[Convolution]) -> Convolution:
    """Return the grouped convolution of one step of all groups."""
    biases = [part.bias for part in parts if part.bias is not None]
    bias = np.concatenate(biases) if biases else None
    return Convolution(np.concatenate([part.weight for part in parts]), bias, parts[0].geometry, len(parts))


def _of_all(errors: Sequence[SolveErrors], sizes: Sequence[float]) -> SolveErrors:
    """Return relative errors of all groups together, given those of each and the norm of its targets.

    A group without any response has no size to weigh its error with, which may be infinite, and does not count.
    """
    whole = hypot(*sizes) or 1.0
    parts = [(error, size) for error, size in zip(errors, sizes, strict=True) if size]
    linear = hypot(*(error.linear * size for error, size in parts))
    return SolveErrors(linear / whole, hypot(*(error.solved * size for error, size in parts)) / whole)
