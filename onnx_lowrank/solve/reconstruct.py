"""Which map of its inputs a layer gets: candidates compete on rows they were not solved with.

One fifth of the rows is held back. The ridge is the one whose linear solution does best there, and the nonlinear solver
stops where it does best there. What that settled is then solved once more on all rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.linalg.arrays import Array, in_float64
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.solve.nonlinear import PENALTIES, TURNS, Rows, activated_error, solve_nonlinear
from onnx_lowrank.solve.reduced_rank import RankFactors, ReducedRankSolver, fit_with

log = logging.getLogger(__name__)

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FEW_RIDGES = (0.001, 0.01, 0.1, 1.0)  # where what they lead to is refined
HELD_OUT = 5  # one row in this many is held out
FEWEST_ROWS = 2 * HELD_OUT  # with fewer there is nothing to solve on
_NOISE = 1e-5  # relative error that float32 makes of nothing


@dataclass(frozen=True, eq=False)
class Trial:
    """What the held-out rows settled.

    Attributes:
        ridge: pull toward the prior.
        turns: of each penalty; zeros where the linear solution does best.
        linear: the linear solution on the other rows alone.
        factors: the solution there, nonlinear where that does better.
        error: its relative error after the activation on the held-out rows.
    """

    ridge: float
    turns: tuple[int, ...]
    linear: RankFactors
    factors: RankFactors
    error: float


class Reconstruction:
    """The regression of a layer's responses on its inputs, at a given rank.

    Args:
        rows: inputs (n, p) and targets (n, d) of the layer, at least `FEWEST_ROWS`.
        prior: the map that is right if the converted prefix delivers what the original does, shape (d, p).
        rank: kept directions, at most d.

    Attributes:
        rows: all rows.
        train: those to solve on.
        held_out: those to judge by.
        whole: moments of all rows.
    """

    def __init__(self, rows: Rows, prior: Array, rank: int) -> None:
        cut = len(rows) - len(rows) // HELD_OUT
        self.rows, self.train, self.held_out = rows, rows.part(slice(0, cut)), rows.part(slice(cut, None))
        self._prior, self._rank = in_float64(prior, rows.inputs), rank
        self._part = Moments.of(self.train.inputs, self.train.responses)
        self.whole = self._part + Moments.of(self.held_out.inputs, self.held_out.responses)

    def settle(self, solver: str = "auto", ridges: Sequence[float] = RIDGES) -> Trial:
        """Choose ridge and turns by the held-out rows.

        Args:
            solver: ``auto``; or without competition ``linear``, or ``nonlinear`` with all turns.
            ridges: to choose from.
        """
        ridge, linear = self._best_ridge(ridges)
        error = activated_error(self.held_out, linear)
        if solver == "nonlinear":
            return Trial(ridge, (TURNS,) * len(PENALTIES), linear, linear, error)
        if solver == "linear" or self.rows.activation.name == "identity":
            return Trial(ridge, (0,) * len(PENALTIES), linear, linear, error)
        alternating = ReducedRankSolver(self._part.gram, ridge, self._prior)
        found = solve_nonlinear(self.train, self._part, linear, alternating, judge=self.held_out)
        return Trial(ridge, found.turns, linear, found.factors, found.error)

    def solve(self, trial: Trial) -> tuple[RankFactors, SolveErrors]:
        """Solve on all rows as settled: the factors, and their relative errors after the activation there."""
        solver = ReducedRankSolver(self.whole.gram, trial.ridge, self._prior)
        linear = fit_with(solver, self.whole, self._rank)
        solution = solve_nonlinear(self.rows, self.whole, linear, solver, turns=trial.turns)
        return solution.factors, SolveErrors(activated_error(self.rows, linear), solution.error)

    def _best_ridge(self, ridges: Sequence[float]) -> tuple[float, RankFactors]:
        """The ridge whose linear solution does best on held-out rows, and that solution.

        The error falls and rises again along the ridges, so it is followed downhill from the middle.
        """
        tried: dict[int, tuple[float, RankFactors]] = {}

        def error(position: int) -> float:
            if position not in tried:
                solver = ReducedRankSolver(self._part.gram, ridges[position], self._prior)
                solution = fit_with(solver, self._part, self._rank)
                tried[position] = activated_error(self.held_out, solution), solution
            return tried[position][0]

        best = len(ridges) // 2
        for direction in (-1, 1):
            while 0 <= best + direction < len(ridges) and error(best + direction) < error(best):
                best += direction
        error(best)
        return ridges[best], tried[best][1]


def reconstruct(
    rows: Rows, prior: Array, data_free: RankFactors, *, solver: str = "auto"
) -> tuple[RankFactors, SolveErrors]:
    """Solve the map from a layer's inputs to its responses, at the rank of the data-free one.

    Args:
        rows: inputs (n, p) and targets (n, d) of the layer.
        prior: the map that is right if the converted prefix delivers what the original does, shape (d, p).
        data_free: the solution to beat; it wins where the rows are too few.
        solver: ``auto``; or one solution without competition: ``nonlinear``, ``linear``, ``weights`` (data-free).

    Returns:
        The factors, and their relative errors after the activation on all rows.
    """
    if solver != "weights" and not too_few(rows):
        task = Reconstruction(rows, prior, data_free.P.shape[1])
        trial = task.settle(solver)
        if solver != "auto" or not loses(trial.error, activated_error(task.held_out, data_free)):
            return task.solve(trial)
    error = activated_error(rows, data_free)
    return data_free, SolveErrors(error, error)


def too_few(rows: Rows) -> bool:
    """Whether there is nothing to solve on, so that the data-free factors are all there is; said aloud."""
    if len(rows) >= FEWEST_ROWS:
        return False
    log.warning(
        "too few samples: %d rows, at least %d are wanted; the data-free factors are taken", len(rows), FEWEST_ROWS
    )
    return True


def loses(error: float, data_free: float) -> bool:
    """Whether the data-free factors do better on held-out rows; said aloud where they do."""
    if error <= max(data_free, _NOISE):
        return False
    log.warning("too few samples: the data-free factors do better on held-out rows and are taken")
    return True
