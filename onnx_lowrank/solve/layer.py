"""The front door: a layer, its rows and its plan -> its chain."""

from __future__ import annotations

from onnx_lowrank.factors import Factors
from onnx_lowrank.layer import Layer
from onnx_lowrank.plan import LayerPlan
from onnx_lowrank.responses import Responses
from onnx_lowrank.solve.channel import solve_channel
from onnx_lowrank.solve.spatial_channel import solve_spatial


def solve_layer(
    layer: Layer, responses: Responses, plan: LayerPlan, solver: str = "auto", refinement: str = "fast"
) -> Factors:
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
    if plan.method == "channel" and plan.channel is not None:
        return solve_channel(layer, responses, plan.channel, solver=solver)
    if plan.method in ("spatial", "spatial-channel") and plan.spatial is not None:
        channel = plan.channel if plan.method == "spatial-channel" else None
        return solve_spatial(layer, responses, plan.spatial, channel, solver=solver, refinement=refinement)
    raise ValueError(f"{layer.op} '{layer.name}': nothing to solve for method {plan.method!r}")
