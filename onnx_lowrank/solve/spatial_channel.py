"""Spatial and spatial-channel decomposition: kh x 1, then 1 x kw, then (spatial-channel) 1 x 1.

    y' = P sum_j Q_j T g_j + offset,   g_j = V x_j          x_j: kernel column j of a patch

The vertical filters V are those that go best with the layer's filters on the columns that really arrive
(`vertical_basis`). All that follows them is one map from their features g to the responses, solved as the channel
decomposition solves its map between responses: the left factor P is the 1 x 1, the right one Q the 1 x kw. Its prior is
W in terms of the features. Finally all factors are refined together, T too: which mixtures of a larger basis are taken.

| code     | meaning                                     | shape            |
|----------|---------------------------------------------|------------------|
| basis    | V and as many more to mix from              | (k, kh c)        |
| features | g of every kernel column                    | (n, kw, k)       |
| prior    | W in terms of the features                  | (d, kw, k)       |
| T        | mixtures of the basis, the first d'' of it  | (d'', k)         |

Use the channel decomposition for kernels of one column or one row, and the spatial decomposition (no channel rank)
where the responses have no directions to spare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import Array, eye, in_float64, namespace
from onnx_lowrank.linalg.spatial_basis import (
    column_features,
    horizontal_map,
    vertical_basis,
    vertical_factors,
    vertical_moments,
)
from onnx_lowrank.linalg.symmetric import leading_directions
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.paper import solve_as_in_the_paper
from onnx_lowrank.solve.reconstruct import FEW_RIDGES, RidgeSelection, Selection, data_free_wins, too_few_rows
from onnx_lowrank.solve.reduced_rank import RankFactors
from onnx_lowrank.solve.refine import RefinementEffort, RidgePenalty, chain_error, refine
from onnx_lowrank.solve.spatial_factors import data_free_factors, error_on_patches, spatial_convolutions
from onnx_lowrank.solve.truncated_svd import truncated_spatial_svd

EFFORTS = {"none": RefinementEffort(0), "fast": RefinementEffort(8, 5e-3), "full": RefinementEffort(40)}
# In place of "fast" where the map of all features has more than `_LARGE_MAP` numbers, d * kw * k: such layers cost most
# and gain least by their last iterations. VGG-16 at 4x has three, which solve in 4.3 s instead of 5.0 each, and loses
# .0820 instead of .0816 on other images.
_LARGE_MAP = 800_000
_LARGE_EFFORT = RefinementEffort(8, 2e-2)
_BASIS_PER_FILTER = 1.5  # size of the basis that refinement mixes from, relative to the filters it takes
_MAX_EXTRA_BASIS = 128  # beside these: VGG-16 at 4x loses .0816 on other images, .0814 without a limit, .0826 with 64
_MIN_ROWS_PER_INPUT = 5  # inputs are numbers that a response is made from; with fewer rows data may mislead
_REFINEMENT_RIDGE_SHARE = 0.3  # of the ridge that is best for the linear solution; more mends less of earlier errors


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
        refinement: ``none``, ``fast`` or ``full``; of the solver ``auto`` only.

    Returns:
        The convolutions, their errors, and the reason where the data-free factors were taken.

    References:
        Zhang et al. 2015, arXiv:1505.06798, asymmetric (3d); weighing, joint map and refinement are ours.
    """
    rows = Rows.of(responses.targets, responses.targets.responses, layer.activation)
    data_free = solver == "weights" or (solver == "paper" and channel is None)
    reason = None if data_free else too_few_rows(rows)
    if data_free or reason:
        return data_free_factors(layer, truncated_spatial_svd(layer, spatial, channel), responses, rows, reason)
    if solver == "paper":
        return solve_as_in_the_paper(layer, responses, rows, spatial, channel or layer.filters)
    effort = EFFORTS[refinement if solver == "auto" else "none"]
    problem = _vertical_features(layer, responses, rows, spatial, channel, mixed=effort.iterations > 0)
    if effort == EFFORTS["fast"] and prod(problem.prior.shape) > _LARGE_MAP:
        effort = _LARGE_EFFORT
    return _solve_on_features(problem, responses, solver, effort)


@dataclass(frozen=True, eq=False)
class _FeatureProblem:
    """A layer whose responses are to be made from vertical features.

    Attributes:
        layer: the original layer.
        spatial: spatial rank d''.
        channel: channel rank d'; None without a 1 x 1.
        basis: V, shape (k, kh c).
        features: shape (n, kw, k).
        prior: shape (d, kw, k).
        rows: targets, to be made from the first d'' features, shape (n, kw d'').
    """

    layer: Layer
    spatial: int
    channel: int | None
    basis: Array
    features: Array
    prior: Array
    rows: Rows

    def ridge_selection(self) -> RidgeSelection:
        """Return the regression on the first d'' features."""
        prior = self.prior[:, :, : self.spatial].reshape(self.layer.filters, -1)
        return RidgeSelection(self.rows, prior, self.channel or self.layer.filters)

    def chain(self, factors: RankFactors) -> FactorMap:
        """Return the chain of a map of the first d'' features."""
        T = eye(self.spatial, len(self.basis), self.basis)
        if self.channel is None:
            return FactorMap(T, factors.P @ factors.Q, None, factors.offset)
        return FactorMap(T, factors.Q, factors.P, factors.offset)

    def refinement_penalty(self, ridge: float) -> RidgePenalty:
        """Return the penalty of refinement, given the ridge of the linear solution."""
        return RidgePenalty(self.prior.reshape(self.layer.filters, -1), _REFINEMENT_RIDGE_SHARE * ridge)


def _vertical_features(
    layer: Layer, responses: LayerSamples, rows: Rows, spatial: int, channel: int | None, *, mixed: bool
) -> _FeatureProblem:
    """Choose vertical filters, more than the rank where refinement mixes them, and apply them to the patches."""
    moments = vertical_moments(responses.patches, rows.responses)
    largest = min(int(_BASIS_PER_FILTER * spatial), spatial + _MAX_EXTRA_BASIS)
    size = min(len(moments), largest) if mixed else spatial
    if channel is None:
        basis, prior = vertical_factors(layer.weight, size, moments)
    else:
        basis = vertical_basis(_leading_filters(layer, rows, channel), size, moments)
        prior = horizontal_map(layer.weight, basis, moments)
    features = column_features(responses.patches, basis, rows.responses)
    regressed = rows.of_inputs(features[:, :, :spatial].reshape(len(rows), -1))
    return _FeatureProblem(layer, spatial, channel, basis, features, prior, regressed)


def _leading_filters(layer: Layer, rows: Rows, channel: int) -> Array:
    """Return the filters in the leading directions of the responses: those the vertical filters have to serve."""
    wide = in_float64(rows.responses, rows.responses)
    weight = in_float64(layer.weight, wide)
    centred = wide - namespace(wide).mean(wide, axis=0)
    directions = leading_directions(centred.T @ centred / (len(centred) - 1), channel)
    return (directions.T @ weight.reshape(len(weight), -1)).reshape(channel, *weight.shape[1:])


def _solve_on_features(
    problem: _FeatureProblem, responses: LayerSamples, solver: str, effort: RefinementEffort
) -> FactorChain:
    """Select the ridge, solve on all rows and refine; or take the data-free factors where few rows mislead."""
    layer, rows = problem.layer, problem.rows
    ridges = problem.ridge_selection()
    selection = ridges.select("linear", FEW_RIDGES) if effort.iterations else ridges.select(solver)
    penalty = problem.refinement_penalty(selection.ridge)
    if solver == "auto" and len(ridges.train) < _MIN_ROWS_PER_INPUT * rows.inputs.shape[1]:
        refined_error = _refined_error(problem, ridges, selection, effort, penalty)
        data_free = truncated_spatial_svd(layer, problem.spatial, problem.channel)
        data_free_error = error_on_patches(data_free, responses, rows, len(ridges.train))
        full = largest_ranks(layer)
        is_full = problem.spatial >= full["spatial"] and (problem.channel or full["channel"]) >= full["channel"]
        reason = data_free_wins(min(refined_error, selection.error), data_free_error, is_full=is_full)
        if reason:
            return data_free_factors(layer, data_free, responses, rows, reason)
        if effort.iterations and refined_error > selection.error:
            effort, selection = EFFORTS["none"], ridges.select(solver)
    if effort.iterations:
        linear, inner = problem.chain(ridges.fit(selection.ridge)), ridges.moments.gram / len(rows)
        refined = refine(linear, problem.features, rows, effort, ridge=penalty, inner=inner)
        chain, errors = refined.chain, refined.errors
    else:
        factors, errors = ridges.solve(selection)
        chain = problem.chain(factors)
    return FactorChain(spatial_convolutions(layer, replace(chain, T=chain.T @ problem.basis)), errors)


def _refined_error(
    problem: _FeatureProblem,
    ridges: RidgeSelection,
    selection: Selection,
    effort: RefinementEffort,
    penalty: RidgePenalty,
) -> float:
    """Return the error on held-out rows of what refinement on the other rows leads to."""
    features, cut = problem.features, len(ridges.train)
    chain = problem.chain(selection.factors)
    refined = refine(chain, features[:cut], ridges.train, effort, ridge=penalty)
    return chain_error(refined.chain, features[cut:], ridges.held_out)
