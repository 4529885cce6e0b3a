"""Choose and solve the map from a layer's inputs to its responses: candidates compete on held-out rows.

One fifth of the rows is held out. The ridge is the one whose linear solution does best there, and the nonlinear solver
stops where it does best there. What they select is then solved once more on all rows.

| code      | meaning                                                   | shape     |
|-----------|-----------------------------------------------------------|-----------|
| inputs    | X, what the responses are made from                       | (n, p)    |
| responses | Y, of the original network before the activation          | (n, d)    |
| prior     | A, the map if the prefix delivered what the original does | (d, p)    |
| ridge     | rho, relative to the mean diagonal of X^T X               | scalar    |

Equations: linear solution, see `onnx_lowrank.solve.reduced_rank`; nonlinear one, see `onnx_lowrank.solve.nonlinear`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.linalg.arrays import Array, in_float64
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.search import lowest
from onnx_lowrank.solve.nonlinear import MAX_TURNS, PENALTIES, Rows, activated_error, solve_nonlinear
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver, fit_with

log = logging.getLogger(__name__)

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FEW_RIDGES = (0.001, 0.01, 0.1, 1.0)  # for a solution that is refined afterwards
ROWS_PER_HELD_OUT_ROW = 5
MIN_ROWS = 2 * ROWS_PER_HELD_OUT_ROW  # with fewer there is nothing to solve on
_ROUNDING_ERROR = 1e-5  # relative error of an exact solution in float32
_ALL_TURNS, _NO_TURNS = (MAX_TURNS,) * len(PENALTIES), (0,) * len(PENALTIES)


@dataclass(frozen=True, eq=False)
class Selection:
    """Ridge and turns that do best on held-out rows.

    Attributes:
        ridge: pull toward the prior.
        turns: of each penalty; zeros where the linear solution does best.
        factors: the solution on the other rows, nonlinear where that does better.
        error: its relative error after the activation on the held-out rows.
    """

    ridge: float
    turns: tuple[int, ...]
    factors: RankFactors
    error: float


class RidgeSelection:
    """Regression of a layer's responses on its inputs at a given rank, with the ridge selected on held-out rows.

    Args:
        rows: inputs (n, p) and targets (n, d) of the layer, at least `MIN_ROWS`.
        prior: the map that is right if the converted prefix delivers what the original does, shape (d, p).
        rank: kept directions, at most d.

    Attributes:
        rows: all rows.
        train: those to solve on.
        held_out: those to judge by.
        moments: of all rows.
    """

    def __init__(self, rows: Rows, prior: Array, rank: int) -> None:
        cut = len(rows) - len(rows) // ROWS_PER_HELD_OUT_ROW
        self.rows, self.train, self.held_out = rows, rows.part(slice(0, cut)), rows.part(slice(cut, None))
        self._prior, self._rank = in_float64(prior, rows.inputs), rank
        train, held_out = (Moments.of(part.inputs, part.responses, single=True) for part in (self.train, self.held_out))
        self._train_moments, self.moments = train, train + held_out

    def select(self, solver: str = "auto", ridges: Sequence[float] = RIDGES) -> Selection:
        """Select ridge and turns by the error on held-out rows.

        Args:
            solver: ``auto``; or without competition ``linear``, or ``nonlinear`` with all turns.
            ridges: to choose from, ascending.
        """
        ridge, linear = self._best_ridge(ridges)
        error = activated_error(self.held_out, linear)
        if solver == "nonlinear":
            return Selection(ridge, _ALL_TURNS, linear, error)
        if solver == "linear" or self.rows.activation.name == "identity":
            return Selection(ridge, _NO_TURNS, linear, error)
        regression = ReducedRankSolver(self._train_moments.gram, ridge, self._prior)
        solution = solve_nonlinear(self.train, self._train_moments, linear, regression, judge=self.held_out)
        return Selection(ridge, solution.turns, solution.factors, solution.error)

    def solve(self, selection: Selection) -> tuple[RankFactors, SolveErrors]:
        """Solve on all rows with what was selected; return factors, and relative errors after the activation there."""
        regression = self._on_all_rows(selection.ridge)
        linear = fit_with(regression, self.moments, self._rank)
        error = activated_error(self.rows, linear)
        if not any(selection.turns):
            return linear, SolveErrors(error, error)
        solution = solve_nonlinear(self.rows, self.moments, linear, regression, turns=selection.turns)
        return solution.factors, SolveErrors(error, solution.error)

    def fit(self, ridge: float) -> RankFactors:
        """Return the linear solution on all rows with a ridge."""
        return fit_with(self._on_all_rows(ridge), self.moments, self._rank)

    def _on_all_rows(self, ridge: float) -> ReducedRankSolver:
        return ReducedRankSolver(self.moments.gram, ridge, self._prior)

    def _best_ridge(self, ridges: Sequence[float]) -> tuple[float, RankFactors]:
        """Return the ridge whose linear solution does best on held-out rows, and that solution."""

        def attempt(ridge: float) -> tuple[float, RankFactors]:
            regression = ReducedRankSolver(self._train_moments.gram, ridge, self._prior)
            solution = fit_with(regression, self._train_moments, self._rank)
            return activated_error(self.held_out, solution), solution

        found = lowest(attempt, ridges)
        return found.value, found.result


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A solved map of a layer's inputs.

    Attributes:
        factors: the map.
        errors: relative errors after the activation on all rows.
        reason: why the data-free factors were taken; None where the map was solved as asked for.
    """

    factors: RankFactors
    errors: SolveErrors
    reason: str | None = None


def reconstruct(rows: Rows, prior: Array, data_free: RankFactors, *, solver: str = "auto") -> Reconstruction:
    """Solve the map from a layer's inputs to its responses, at the rank of the data-free one.

    Use `RidgeSelection` to refine what was selected before it is solved on all rows, and `solve_nonlinear` or
    `reduced_rank_regression` where the ridge is known.

    Args:
        rows: inputs (n, p) and targets (n, d) of the layer.
        prior: the map that is right if the converted prefix delivers what the original does, shape (d, p).
        data_free: the solution to beat; it is taken where the rows are too few.
        solver: ``auto``; or one solution without competition: ``nonlinear``, ``linear``, ``weights`` (data-free).
    """
    if solver == "weights":
        return _data_free(rows, data_free, None)
    reason = too_few_rows(rows)
    if reason:
        return _data_free(rows, data_free, reason)
    ridges = RidgeSelection(rows, prior, data_free.P.shape[1])
    selection = ridges.select(solver)
    if solver == "auto":
        is_full = data_free.P.shape[1] >= min(prior.shape)
        reason = data_free_wins(selection.error, activated_error(ridges.held_out, data_free), is_full=is_full)
    return _data_free(rows, data_free, reason) if reason else Reconstruction(*ridges.solve(selection))


def _data_free(rows: Rows, factors: RankFactors, reason: str | None) -> Reconstruction:
    error = activated_error(rows, factors)
    return Reconstruction(factors, SolveErrors(error, error), reason)


def too_few_rows(rows: Rows) -> str | None:
    """Return why there is nothing to solve on, so that the data-free factors are taken, and log it as a warning."""
    if len(rows) >= MIN_ROWS:
        return None
    log.warning(
        "too few samples: %d rows, at least %d are wanted; the data-free factors are taken", len(rows), MIN_ROWS
    )
    return f"too few rows: {len(rows)}, at least {MIN_ROWS} are needed"


def data_free_wins(error: float, data_free_error: float, *, is_full: bool) -> str | None:
    """Return why the data-free factors are taken, where they do better on held-out rows; warn if rows are to blame.

    Args:
        error: relative error of the solution on held-out rows.
        data_free_error: that of the data-free factors.
        is_full: whether the rank is full, so that these do what the layer does.
    """
    if error <= max(data_free_error, _ROUNDING_ERROR):
        return None
    compared = f"relative error {data_free_error:.4f}, {error:.4f} when solved on data"
    if is_full:
        return f"full rank: the layer's own weights did better on held-out rows: {compared}"
    log.warning("too few samples: the data-free factors do better on held-out rows and are taken")
    return f"data-free won on held-out rows: {compared}"
