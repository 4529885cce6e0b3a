"""Predict what a speedup loses, before anything is solved, and the largest speedup that loses little.

Rank selection has measured what every layer loses at the ranks that a speedup leaves it. The predicted error puts these
together as if they were independent and reached the output unchanged::

    predicted = sqrt( sum_l error_l^2 )

Networks of thin layers come out at about that, others at a fraction of it: what is measured is truncated, not solved,
and layers make good for those before them. Figures are in tools/docs/choosing.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, inf, sqrt
from typing import Any

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.ranks.search import MIN_SPEEDUP
from onnx_lowrank.settings import Settings

log = logging.getLogger(__name__)

COMMON_SPEEDUPS = (1.2, 1.5, 2.0, 3.0, 4.0)
# Of the networks in tools/docs/choosing.md, all kept 95 % of their top classes or more below the first one.
SMALL_ERROR, LARGE_ERROR = 0.25, 0.5
ZEROS_ERROR = 1.0  # that an output of zeros would have
_RATIO = 1.01  # of the smallest speedup that loses too much to the largest that does not, at the end


@dataclass(frozen=True)
class LossEstimate:
    """What a speedup is predicted to lose.

    Attributes:
        speedup: the target.
        error: predicted relative error of the outputs; None where the target is out of reach.
        worst_layer: name of the layer that loses most; None where none loses anything.
        worst_error: its predicted relative error after the activation.
    """

    speedup: float
    error: float | None = None
    worst_layer: str | None = None
    worst_error: float = 0.0

    @property
    def verdict(self) -> str:
        """The error in a word: ``little``, ``some``, ``much``; or ``out of reach``."""
        if self.error is None:
            return "out of reach"
        return verdict(self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``estimates`` in JSON."""
        return {
            "speedup": self.speedup,
            "predicted_error": self.error,
            "verdict": self.verdict,
            "worst_layer": self.worst_layer,
            "worst_error": self.worst_error,
        }


def verdict(error: float) -> str:
    """Return a predicted error in a word.

    >>> verdict(0.2), verdict(0.3), verdict(0.8)
    ('little', 'some', 'much')
    """
    return "little" if error <= SMALL_ERROR else "some" if error <= LARGE_ERROR else "much"


def log_prediction(choose: Callable[[Settings], RankPlan], plan: RankPlan, settings: Settings) -> None:
    """Log what a plan is predicted to lose, before the network is solved for long; a warning where that is nearly all.

    No more than a warning, since layers that are solved may lose a fraction of what is predicted.

    Args:
        choose: chooses ranks for settings.
        plan: the ranks that it has chosen.
        settings: for these.
    """
    if settings.selection == "energy":
        return
    error = predicted_error(plan)
    log.info("predicted error %.2g (%s)", error, verdict(error))
    if error > ZEROS_ERROR:
        log.warning(
            "predicted error %.2g, and zeros would have %g: the result may be refused in the end: %s",
            error, ZEROS_ERROR, _remedy(choose, settings),
        )  # fmt: skip


def _remedy(choose: Callable[[Settings], RankPlan], settings: Settings) -> str:
    """Return what to do about a prediction that is too large."""
    if settings.plan is not None:
        return "raise the ranks of the plan"
    if settings.cost == "latency":  # predictions are for speedups that are counted
        return "lower `speedup`"
    return f"`speedup={largest_within(choose, settings, LARGE_ERROR):g}` is the largest with at most {LARGE_ERROR:g}"


def predicted_error(plan: RankPlan) -> float:
    """Return the relative error that a network is predicted to have with the ranks of a plan."""
    return sqrt(sum(1 - entry.energy for entry in plan))


def estimate_losses(choose: Callable[[Settings], RankPlan], settings: Settings) -> tuple[LossEstimate, ...]:
    """Predict what `COMMON_SPEEDUPS` lose: in multiply-adds, or in parameters where these are what counts.

    Args:
        choose: chooses ranks for settings.
        settings: how to convert; their speedup plays no part.

    Returns:
        One for every speedup; none where ranks are selected by energy, which is no error, or given by a plan, for which
        not all losses are measured.
    """
    if settings.selection == "energy" or settings.plan is not None:
        return ()
    return tuple(_estimate(choose, _counted(settings, speedup)) for speedup in COMMON_SPEEDUPS)


def largest_within(choose: Callable[[Settings], RankPlan], settings: Settings, error: float) -> float:
    """Return the largest speedup that is predicted to lose no more than an error, and at most that of the settings.

    In multiply-adds, or in parameters where these are what counts. The smallest one that is looked at where all lose
    more, with a warning.

    Args:
        choose: chooses ranks for settings.
        settings: how to convert, with the largest speedup to return.
        error: to stay within.

    Raises:
        BudgetError: not even the smallest can be reached.
    """

    def predicted(speedup: float) -> float:
        found = _estimate(choose, _counted(settings, speedup)).error
        return inf if found is None else found

    low, high = min(MIN_SPEEDUP, settings.speedup), settings.speedup
    if predicted(high) <= error:
        return high
    least = predicted_error(choose(_counted(settings, low)))
    if least > error:
        log.warning(
            "even a speedup of %g is predicted to lose much: an error of %.2g, %.2g is wanted at most",
            low,
            least,
            error,
        )
        return low
    while high / low > _RATIO:
        middle = sqrt(low * high)
        low, high = (middle, high) if predicted(middle) <= error else (low, middle)
    return max(floor(100 * low) / 100, min(MIN_SPEEDUP, settings.speedup))


def _counted(settings: Settings, speedup: float) -> Settings:
    """Return the settings for a speedup that is counted, not measured."""
    return replace(
        settings, speedup=speedup, bench=False, cost="params" if settings.cost == "params" else "macs",
        latency_table=None,
    )  # fmt: skip


def _estimate(choose: Callable[[Settings], RankPlan], settings: Settings) -> LossEstimate:
    try:
        plan = choose(settings)
    except BudgetError:
        return LossEstimate(settings.speedup)
    worst = min(plan, key=lambda entry: entry.energy)
    if worst.energy >= 1:
        return LossEstimate(settings.speedup, predicted_error(plan))
    return LossEstimate(settings.speedup, predicted_error(plan), worst.name, sqrt(1 - worst.energy))
