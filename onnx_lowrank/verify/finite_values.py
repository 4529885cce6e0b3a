"""The values of two outputs that can be compared with each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def finite_values(
    reference: NDArray[Any], other: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return two arrays in float64, and where they can be compared.

    Values that are NaN or infinite in the reference have no distance from anything and are left out. Those that are so
    in the other array alone are infinitely far off.

    Args:
        reference: of any shape.
        other: of the same shape.

    Returns:
        The reference, the other array with infinity in place of NaN, and a mask of the finite values of the reference;
        all of the same shape.
    """
    x, y = reference.astype(np.float64), other.astype(np.float64)
    return x, np.where(np.isfinite(y), y, np.inf), np.isfinite(x)
