"""Confidence intervals of a share, a difference of two shares, a relative error and any score, measured on samples."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

CONFIDENCE = 0.95
_RARE = 0.01  # probability of as many hits by chance
_ESTIMATE_MARGIN = 1e-12  # distance from the estimate at which the search for an end of the interval starts

Interval = tuple[float, float]


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's score interval of a share.

    Args:
        hits: number of samples that count, 0 to ``count``.
        count: number of all samples, at least 1.

    Returns:
        Both ends of the range of shares that a two-sided score test at `CONFIDENCE` does not reject.

    References:
        Wilson 1927, Journal of the American Statistical Association 22: 209; Brown, Cai, DasGupta 2001, Statistical
        Science 16: 101, compare intervals of a share and recommend this one.

    >>> [round(end, 4) for end in share_interval(0, 100)]
    [0.0, 0.037]
    """
    from scipy.stats import binomtest  # noqa: PLC0415 - slow to import

    low, high = binomtest(hits, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def is_guessed(hits: int, count: int, classes: int) -> bool:
    """Return whether guessing would be right as often: no more than by chance, and not half way to always either.

    Args:
        hits: number of samples that are right.
        count: number of all samples, at least 1.
        classes: that are guessed among, each as often as the others.

    >>> is_guessed(0, 500, 1000), is_guessed(8, 500, 1000), is_guessed(2, 2, 2)
    (True, False, False)
    """
    from scipy.stats import binom  # noqa: PLC0415 - slow to import

    half_way = (1 + 1 / classes) / 2  # a few samples that are all right are no guesses
    return hits < half_way * count and float(binom.sf(hits - 1, count, 1 / classes)) > _RARE


def paired_interval(lost: int, won: int, count: int) -> Interval:
    """Return Tango's score interval of the difference of two shares measured on the same samples.

    The difference is ``(lost - won) / count``. A candidate difference is tested with the variance of the most likely
    pair of shares that have this difference. The interval therefore stays within -1..1, and has a width even if no
    sample is lost; if none is won either, its ends are those of Wilson's interval.

    Args:
        lost: number of samples that are right in the first model and wrong in the second.
        won: number of samples that are wrong in the first model and right in the second.
        count: number of all samples, at least 1.

    Returns:
        Both ends of the range of differences that a two-sided score test at `CONFIDENCE` does not reject.

    References:
        Tango 1998, Statistics in Medicine 17: 891; Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33: 2850,
        compare intervals of a paired difference and recommend this one.

    >>> [round(end, 3) for end in paired_interval(7, 1, 21)]
    [0.026, 0.517]
    """
    square, estimate = _quantile() ** 2, (lost - won) / count

    def excess(difference: float) -> float:
        """Return the excess of the squared score statistic over its quantile at `CONFIDENCE`, times the variance."""
        linear = -lost - won + (2 * count - lost + won) * difference
        constant = -won * difference * (1 - difference)
        rare = (sqrt(max(0.0, linear**2 - 8 * count * constant)) - linear) / (4 * count)
        variance = count * (2 * rare + difference * (1 - difference))
        return float((lost - won - count * difference) ** 2 - square * max(0.0, variance))

    below, above = estimate - _ESTIMATE_MARGIN, estimate + _ESTIMATE_MARGIN
    low = -1.0 if below <= -1 else brentq(excess, -1, below)
    high = 1.0 if above >= 1 else brentq(excess, above, 1)
    return float(low), float(high)


def ratio_interval(differences: NDArray[Any], sizes: NDArray[Any]) -> Interval | None:
    """Return the interval of a relative error, the root of a ratio of sums over samples.

    Args:
        differences: ``||a - b||^2`` of each sample, shape (n,).
        sizes: ``||a||^2`` of each sample, shape (n,).

    Returns:
        Both ends, by the normal approximation of the ratio estimator at `CONFIDENCE`. None for fewer than two samples,
        a reference of zeros only, or differences that are not finite.

    References:
        Cochran 1977, Sampling Techniques, 3rd edition, chapter 6.
    """
    count, total = len(sizes), float(np.sum(sizes))
    if count < 2 or total == 0 or not np.isfinite(differences).all():
        return None
    ratio = float(np.sum(differences)) / total
    spread = float(np.sum(np.square(differences - ratio * sizes))) * count / (count - 1)
    half = _quantile() * sqrt(spread) / total
    return sqrt(max(0.0, ratio - half)), sqrt(ratio + half)


def bootstrap_interval(statistic: Callable[[NDArray[np.int64]], float], count: int, draws: int) -> Interval:
    """Return the percentile bootstrap interval of a statistic of samples; the same in every call.

    Args:
        statistic: of samples with given indices, which may repeat, shape (count,).
        count: number of all samples, at least 2.
        draws: of as many samples, with replacement.

    References:
        Efron, Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    >>> low, high = bootstrap_interval(lambda drawn: float(drawn.mean()), 101, 500)
    >>> 40 < low < 48 < 52 < high < 60
    True
    """
    from scipy.stats import bootstrap  # noqa: PLC0415 - slow to import

    found = bootstrap(
        (np.arange(count),),
        statistic,
        n_resamples=draws,
        vectorized=False,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _quantile() -> float:
    """Return the quantile of the normal distribution that a two-sided test at `CONFIDENCE` compares with."""
    return float(ndtri((1 + CONFIDENCE) / 2))
