"""Which map of responses a layer gets: candidates compete on rows they were not solved with.

One fifth of the rows is held back. The ridge is the one whose linear solution does best there. The nonlinear solver
stops where it does best there. The data-free map is the last resort. The winner is solved once more on all rows.
"""

from __future__ import annotations

import logging

from onnx_lowrank.factors import SolveErrors
from onnx_lowrank.solve.moments import Float64, Moments
from onnx_lowrank.solve.nonlinear import PENALTIES, TURNS, Rows, activated_error, solve_nonlinear
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver, fit_with

log = logging.getLogger(__name__)

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_HELD_OUT = 5  # one row in this many is held out


def reconstruct(
    rows: Rows, prior: Float64, data_free: RankFactors, *, solver: str = "auto"
) -> tuple[RankFactors, SolveErrors]:
    """Solve the map from a layer's inputs to its responses, at the rank of the data-free one.

    Args:
        rows: inputs (n, p) and targets (n, d) of the layer.
        prior: the map that is right if the converted prefix delivers what the original does, shape (d, p).
        data_free: the solution to beat.
        solver: ``auto``; or one solution without competition: ``nonlinear``, ``linear``, ``weights`` (data-free).

    Returns:
        The factors, and their relative errors after the activation on all rows.
    """
    rank = data_free.P.shape[1]
    if solver == "weights" or len(rows) < 2 * _HELD_OUT:
        error = activated_error(rows, data_free)
        return data_free, SolveErrors(error, error)
    cut = len(rows) - len(rows) // _HELD_OUT
    train, held_out = rows.part(slice(0, cut)), rows.part(slice(cut, None))
    part = Moments.of(train.inputs, train.responses)
    whole = part + Moments.of(held_out.inputs, held_out.responses)

    ridge, tried = _best_ridge(part, prior, held_out, rank)
    error = activated_error(held_out, tried)
    turns = (0,) * len(PENALTIES)
    if solver == "nonlinear":
        turns = (TURNS,) * len(PENALTIES)
    elif solver == "auto" and rows.activation.name != "identity":
        found = solve_nonlinear(train, part, tried, ReducedRankSolver(part.gram, ridge, prior), judge=held_out)
        error, turns = found.error, found.turns
    if solver == "auto" and activated_error(held_out, data_free) < error:
        log.warning("too few samples: the data-free factors do better on held-out rows and are taken")
        error = activated_error(rows, data_free)
        return data_free, SolveErrors(error, error)
    final = ReducedRankSolver(whole.gram, ridge, prior)
    linear = fit_with(final, whole, rank)
    solution = solve_nonlinear(rows, whole, linear, final, turns=turns)
    return solution.factors, SolveErrors(activated_error(rows, linear), solution.error)


def _best_ridge(moments: Moments, prior: Float64, held_out: Rows, rank: int) -> tuple[float, RankFactors]:
    """The ridge whose linear solution does best on held-out rows, and that solution.

    The error falls and rises again along the ridges, so it is followed downhill from the middle.
    """
    tried: dict[int, tuple[float, RankFactors]] = {}

    def error(position: int) -> float:
        if position not in tried:
            solution = fit_with(ReducedRankSolver(moments.gram, RIDGES[position], prior), moments, rank)
            tried[position] = activated_error(held_out, solution), solution
        return tried[position][0]

    best = len(RIDGES) // 2
    for direction in (-1, 1):
        while 0 <= best + direction < len(RIDGES) and error(best + direction) < error(best):
            best += direction
    return RIDGES[best], tried[best][1]
