"""Relative error of an approximation, from sums of squares."""

from __future__ import annotations

from math import inf, sqrt


def relative_error(squared_error: float, squared_reference: float) -> float:
    """Return ``||A - B||_F / ||A||_F``.

    An empty reference, without numbers or with zeros only, has no size to relate an error to: the result is 0 where B
    is equal to it, and infinite where it is not.

    Args:
        squared_error: ``||A - B||_F^2``.
        squared_reference: ``||A||_F^2``.

    >>> relative_error(1.0, 4.0), relative_error(0.0, 0.0), relative_error(1.0, 0.0)
    (0.5, 0.0, inf)
    """
    if squared_reference == 0:
        return 0.0 if squared_error == 0 else inf
    return sqrt(squared_error / squared_reference)
