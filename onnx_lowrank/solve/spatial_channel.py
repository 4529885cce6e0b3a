"""Spatial and spatial-channel decomposition: kh x 1, then 1 x kw, then (spatial-channel) 1 x 1.

The vertical filters V are those that go best with the layer's filters on the columns that really arrive
(`vertical_basis`). Everything behind them is one map from their features to the responses, solved as the channel
decomposition solves its map between responses: the left factor is the 1 x 1, the right one the 1 x kw. Its prior is
the map that the weights say. At last all factors are refined together.

| code     | meaning                                     | shape            |
|----------|---------------------------------------------|------------------|
| basis    | V and as many more to mix from              | (k, kh c)        |
| features | what the basis makes of every kernel column | (n, kw, k)       |
| prior    | W in terms of the first d'' features        | (d, kw d'')      |
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_lowrank.layers.factors import Convolution, FactorChain, SolveErrors
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import Array, eye, in_float64, like, namespace
from onnx_lowrank.linalg.spatial_basis import column_features, horizontal_map, vertical_basis, vertical_moments
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.channel import input_responses
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.reconstruct import FEW_RIDGES, Reconstruction, loses, reconstruct, too_few
from onnx_lowrank.solve.reduced_rank import RankFactors
from onnx_lowrank.solve.refine import Pull, chain_error, refine
from onnx_lowrank.solve.truncated_svd import truncated_svd

ITERATIONS = {"none": 0, "fast": 8, "full": 40}
_WIDER = 1.5  # the basis that refinement mixes from, relative to the filters it takes
_AMPLE = 5  # rows per number that a response is made from: with so many, data-free factors do not do better
_PULL = 0.3  # of the ridge that is best for the linear solution; more mends less of the errors of layers before


def solve_spatial(
    layer: Layer,
    responses: LayerSamples,
    spatial: int,
    channel: int | None,
    *,
    solver: str = "auto",
    refinement: str = "fast",
) -> FactorChain:
    """Solve a layer as kh x 1 with ``spatial`` filters, 1 x kw, and 1 x 1 where there is a channel rank.

    Args:
        layer: the original layer.
        responses: its sampled rows.
        spatial: spatial rank d''.
        channel: channel rank d'; None for the spatial decomposition, without a 1 x 1.
        solver: see `reconstruct`; also ``paper``: spatial pair from the weights, only the last 1 x 1 from data.
        refinement: ``none``, ``fast`` or ``full``.

    References:
        Zhang et al. 2015, arXiv:1505.06798, asymmetric (3d); weighing, joint map and refinement are ours.
    """
    rows = Rows.of(responses.targets, responses.targets.responses, layer.activation)
    if solver == "weights" or (solver == "paper" and channel is None) or too_few(rows):
        return _unsolved(layer, _from_weights(layer, spatial, channel), responses, rows)
    if solver == "paper":
        return _as_in_the_paper(layer, responses, rows, spatial, channel or layer.filters)

    moments = vertical_moments(responses.patches, rows.responses)
    most = ITERATIONS[refinement] if solver == "auto" else 0
    width = min(len(moments), int(_WIDER * spatial)) if most else spatial
    basis = vertical_basis(_leading_filters(layer, rows, channel), width, moments)
    features = column_features(responses.patches, basis, rows.responses)
    regressed = rows.of_inputs(features[:, :, :spatial].reshape(len(rows), -1))
    prior = horizontal_map(layer.weight, basis, moments)
    task = Reconstruction(regressed, prior[:, :, :spatial].reshape(layer.filters, -1), channel or layer.filters)
    trial = task.settle("linear", FEW_RIDGES) if most else task.settle(solver)
    cut = len(task.train)
    pull = Pull(prior.reshape(layer.filters, -1), _PULL * trial.ridge)
    mixture = eye(spatial, width, basis)
    if solver == "auto" and cut < _AMPLE * regressed.inputs.shape[1]:
        # So few rows may mislead: what they lead to has to do better on those held out.
        tried = refine(_chain(mixture, trial.factors, channel), features[:cut], task.train, most, pull=pull)
        error = chain_error(tried, features[cut:], task.held_out)
        from_weights = _from_weights(layer, spatial, channel)
        if loses(min(error, trial.error), _error(from_weights, responses, rows, cut)):
            return _unsolved(layer, from_weights, responses, rows)
        if most and error > trial.error:
            most, trial = 0, task.settle(solver)
    factors, errors = task.solve(trial)
    chain, inner = _chain(mixture, factors, channel), task.whole.gram / len(rows)
    if most:
        chain = refine(chain, features, regressed, most, pull=pull, inner=inner)
        errors = SolveErrors(errors.linear, chain_error(chain, features, regressed))
    return FactorChain(_convolutions(layer, replace(chain, T=chain.T @ basis)), errors)


def _leading_filters(layer: Layer, rows: Rows, channel: int | None) -> Array:
    """The filters in the leading directions of the responses: those the vertical filters have to serve."""
    wide = in_float64(rows.responses, rows.responses)
    weight = in_float64(layer.weight, wide)
    if channel is None:
        return weight
    centred = wide - namespace(wide).mean(wide, axis=0)
    directions = leading_directions(centred.T @ centred / (len(centred) - 1), channel)
    return (directions.T @ weight.reshape(len(weight), -1)).reshape(channel, *weight.shape[1:])


def _chain(mixture: Array, factors: RankFactors, channel: int | None) -> FactorMap:
    if channel is None:
        return FactorMap(mixture, factors.P @ factors.Q, None, factors.offset)
    return FactorMap(mixture, factors.Q, factors.P, factors.offset)


def _from_weights(layer: Layer, spatial: int, channel: int | None) -> FactorMap:
    """The chain that knows no data, on whole columns."""
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    P = None
    if channel is not None:
        P = truncated_svd(weight, bias, channel).P
        weight = np.einsum("dr,dchw->rchw", P, weight, optimize=True)
    basis = vertical_basis(weight, spatial)
    return FactorMap(basis, horizontal_map(weight, basis).reshape(len(weight), -1), P, bias)


def _unsolved(layer: Layer, chain: FactorMap, responses: LayerSamples, rows: Rows) -> FactorChain:
    error = _error(chain, responses, rows)
    return FactorChain(_convolutions(layer, chain), SolveErrors(error, error))


def _error(chain: FactorMap, responses: LayerSamples, rows: Rows, first: int = 0) -> float:
    """Relative error after the activation of a chain on whole columns, from row ``first`` on."""
    features = column_features(responses.patches, chain.T, rows.responses, first)
    return chain_error(replace(chain, T=np.eye(len(chain.T))), features, rows.part(slice(first, None)))


def _as_in_the_paper(layer: Layer, responses: LayerSamples, rows: Rows, spatial: int, channel: int) -> FactorChain:
    """Channel decomposition, its filters split by their weights alone, then the last 1 x 1 solved again."""
    rows = rows.of_inputs(input_responses(layer, responses))
    found, _ = reconstruct(rows, np.eye(layer.filters), truncated_svd(layer.weight, layer.bias, channel))
    first = found.on_host()
    filters = np.einsum("rd,dchw->rchw", first.Q, np.asarray(layer.weight, np.float64), optimize=True)
    basis = vertical_basis(filters, spatial)
    Q = horizontal_map(filters, basis).reshape(channel, -1)
    features = column_features(responses.patches, basis, rows.responses)
    inner = features.reshape(len(rows), -1) @ like(Q, features).T
    bias = first.offset + first.P @ (first.Q @ np.asarray(layer.bias, np.float64))
    unsolved = RankFactors(first.P, np.eye(channel), bias)
    found, errors = reconstruct(rows.of_inputs(inner), first.P, unsolved)
    last = found.on_host()
    return FactorChain(_convolutions(layer, FactorMap(basis, Q, last.P @ last.Q, last.offset)), errors)


def _convolutions(layer: Layer, chain: FactorMap) -> tuple[Convolution, ...]:
    """A chain on whole columns as convolutions; all bias sits in the last."""
    chain = chain.on_host()
    height, width = layer.kernel
    first, second = layer.geometry.by_axis
    vertical = chain.T.reshape(-1, height, layer.channels).transpose(0, 2, 1)[:, :, :, None]
    horizontal = chain.Q.reshape(len(chain.Q), width, -1).transpose(0, 2, 1)[:, :, None, :]
    if chain.P is None:
        return Convolution(vertical, None, first), Convolution(horizontal, chain.offset, second)
    last = Convolution(chain.P[:, :, None, None], chain.offset, pointwise(2))
    return Convolution(vertical, None, first), Convolution(horizontal, None, second), last
