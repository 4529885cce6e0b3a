"""Which map of responses a layer gets: candidates compete on rows they were not solved with.

One fifth of the rows is held back. The ridge is the one whose linear solution does best there; the nonlinear solution
and, as a last resort, the data-free one replace the linear where they do better there. The winner is then solved once
more on all rows.
"""

from __future__ import annotations

import logging
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factors import SolveErrors
from onnx_lowrank.solve.moments import Moments
from onnx_lowrank.solve.nonlinear import Rows, activated_error, solve_nonlinear
from onnx_lowrank.solve.reduced_rank import RankFactors, fit
from onnx_lowrank.solve.truncated_svd import truncated_svd

log = logging.getLogger(__name__)

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SOLVERS = ("auto", "nonlinear", "linear", "weights")
_HELD_OUT = 5  # one row in this many is held out


def reconstruct(
    rows: Rows, weight: NDArray[Any], bias: NDArray[Any], rank: int, *, solver: str = "auto"
) -> tuple[RankFactors, SolveErrors]:
    """Solve the map of one layer's responses.

    Args:
        rows: inputs and targets of the layer.
        weight: the layer's filters, shape (d, ...), for the data-free solution.
        bias: shape (d,).
        rank: directions to keep.
        solver: ``auto``; or one solution without competition: ``nonlinear``, ``linear``, ``weights`` (data-free).

    Returns:
        The factors, and their relative errors after the activation on all rows.
    """
    data_free = truncated_svd(weight, bias, rank)
    if solver == "weights" or len(rows) < 2 * _HELD_OUT:
        error = activated_error(rows, data_free)
        return data_free, SolveErrors(error, error)
    cut = len(rows) - len(rows) // _HELD_OUT
    train, held_out = rows.part(slice(0, cut)), rows.part(slice(cut, None))
    train_moments = Moments.of(train.inputs, train.responses)
    moments = train_moments + Moments.of(held_out.inputs, held_out.responses)

    ridge, tried, error = _best_ridge(train_moments, held_out, rank)
    linear = fit(moments, rank, ridge=ridge)
    linear_error = activated_error(rows, linear)
    if solver == "linear" or rows.activation.name == "identity":
        best, best_error = linear, linear_error
    else:
        better = solver == "nonlinear"
        if not better:
            nonlinear, _ = solve_nonlinear(train, train_moments, tried, ridge=ridge)
            nonlinear_error = activated_error(held_out, nonlinear)
            better, error = nonlinear_error < error, min(error, nonlinear_error)
        best, best_error = (
            solve_nonlinear(rows, moments, linear, ridge=ridge) if better else (linear, linear_error)
        )
    if solver == "auto" and activated_error(held_out, data_free) < error:
        log.warning("too few samples: the data-free factors do better on held-out rows and are taken")
        best, best_error = data_free, activated_error(rows, data_free)
    return best, SolveErrors(linear_error, best_error)


def _best_ridge(moments: Moments, held_out: Rows, rank: int) -> tuple[float, RankFactors, float]:
    """The ridge whose linear solution does best on held-out rows, that solution, and its error there."""
    solutions = [(ridge, fit(moments, rank, ridge=ridge)) for ridge in RIDGES]
    errors = [activated_error(held_out, solution) for _, solution in solutions]
    best = min(range(len(errors)), key=errors.__getitem__)
    return *solutions[best], errors[best]
