"""Leading eigenvectors of a symmetric matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.threads import one_thread


def leading_directions(matrix: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Eigenvectors of the largest eigenvalues, leading one first.

    All are computed, by divide and conquer. Asked for some of them LAPACK takes another way (syevr), which is no faster
    and which, where the last one wanted is one of many with the same eigenvalue, fails or finds too few.

    Args:
        matrix: symmetric, shape (n, n).
        count: wanted, at most n.

    Returns:
        Orthonormal columns, shape (n, count).
    """
    with one_thread():
        _, directions = np.linalg.eigh(np.asarray(matrix, np.float64))
    return np.ascontiguousarray(directions[:, ::-1][:, :count])
