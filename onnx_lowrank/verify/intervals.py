"""How sure a share, a difference of shares or an error is that was counted on some samples: confidence intervals."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

CONFIDENCE = 0.95
_INSIDE = 1e-12  # how far from the estimate the search for an end begins

Interval = tuple[float, float]


def share_interval(hits: int, count: int) -> Interval:
    """Wilson's score interval of a share.

    Args:
        hits: samples counted.
        count: samples looked at, at least 1.

    Returns:
        The shares that a two-sided score test at `CONFIDENCE` does not reject.

    References:
        Wilson 1927, JASA 22: 209; Brown, Cai, DasGupta 2001, Statistical Science 16: 101 (recommends it).

    >>> [round(end, 4) for end in share_interval(0, 100)]
    [0.0, 0.037]
    """
    square = _quantile() ** 2
    share, whole = hits / count, 1 + square / count
    centre = (share + square / (2 * count)) / whole
    half = sqrt(square * (share * (1 - share) / count + square / (4 * count**2))) / whole
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == count else centre + half)


def paired_interval(lost: int, won: int, count: int) -> Interval:
    """Tango's score interval of the difference of two shares that were counted on the same samples.

    The difference is (lost - won) / count. The variance it is held against is that of the most likely pair of shares
    with the difference in question, so the interval keeps to -1..1 and is there without a single lost sample too; with
    none won either its ends are Wilson's.

    Args:
        lost: samples right in the first count, wrong in the second.
        won: the other way round.
        count: all samples, at least 1.

    References:
        Tango 1998, Statistics in Medicine 17: 891; Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33: 2850
        (compares intervals, and recommends this one).

    >>> [round(end, 3) for end in paired_interval(7, 1, 21)]
    [0.026, 0.517]
    """
    square, found = _quantile() ** 2, (lost - won) / count

    def excess(difference: float) -> float:
        """Square of the score statistic above that of `CONFIDENCE`, times the variance."""
        linear = -lost - won + (2 * count - lost + won) * difference
        constant = -won * difference * (1 - difference)
        rare = (sqrt(max(0.0, linear**2 - 8 * count * constant)) - linear) / (4 * count)
        variance = count * (2 * rare + difference * (1 - difference))
        return float((lost - won - count * difference) ** 2 - square * max(0.0, variance))

    low = -1.0 if found - _INSIDE <= -1 else brentq(excess, -1, found - _INSIDE)
    high = 1.0 if found + _INSIDE >= 1 else brentq(excess, found + _INSIDE, 1)
    return float(low), float(high)


def ratio_interval(differences: NDArray[Any], sizes: NDArray[Any]) -> Interval | None:
    """Interval of a relative error, the root of a ratio of sums over samples.

    Args:
        differences: ``||a - b||^2`` of each sample, shape (n,).
        sizes: ``||a||^2`` of each, likewise.

    Returns:
        By the normal approximation of the ratio estimator; None of less than two samples, or of nothing.

    References:
        Cochran 1977, Sampling Techniques, 3rd edition, chapter 6.
    """
    count, whole = len(sizes), float(np.sum(sizes))
    if count < 2 or whole == 0 or not np.isfinite(differences).all():
        return None
    ratio = float(np.sum(differences)) / whole
    spread = float(np.sum(np.square(differences - ratio * sizes))) * count / (count - 1)
    half = _quantile() * sqrt(spread) / whole
    return sqrt(max(0.0, ratio - half)), sqrt(ratio + half)


def _quantile() -> float:
    return float(ndtri((1 + CONFIDENCE) / 2))
