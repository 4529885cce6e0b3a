"""Arrays of NumPy and of PyTorch alike: rows, and all that is computed from them, stay on their device.

Code that works on rows takes its functions from ``namespace(rows)``, by the names of the array API standard, and from
this module what the standard lacks. It also uses what goes beyond the standard but means the same in both libraries:
``x.clip(low, high)``, ``x.reshape(...)``, ``x.swapaxes(one, other)``, ``len(x)``, and assignment to ``x[integers]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import scipy.special
from array_api_compat import array_namespace, to_device
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = Any  # of any library that follows the standard, which has no type for it yet


def namespace(array: Array) -> Any:
    """Return the functions for ``array``: NumPy's own, which follow the standard and are faster without a wrapper."""
    return np if isinstance(array, np.ndarray) else array_namespace(array)


def special(array: Array) -> Any:
    """Return the module that has ``expit`` and ``ndtr`` for ``array``."""
    return scipy.special if isinstance(array, np.ndarray) else namespace(array).special


def like(values: ArrayLike, array: Array) -> Array:
    """Convert numbers of the host to the library, the device and the float type of ``array``."""
    return namespace(array).asarray(values, dtype=array.dtype, device=array.device)


def in_float64(values: Array, template: Array) -> Array:
    """Convert numbers of the host, or an array on the device already, to float64 on the device of ``template``."""
    xp = namespace(template)
    return xp.asarray(values, dtype=xp.float64, device=template.device)


def zeros(shape: tuple[int, ...], array: Array) -> Array:
    """Return zeros in float64 on the device of ``array``, to accumulate in."""
    xp = namespace(array)
    return xp.zeros(shape, dtype=xp.float64, device=array.device)


def on_host(array: Array, dtype: Any = np.float64) -> NDArray[Any]:
    """Return ``array`` in NumPy and in a float type, without a copy where it is that already."""
    return np.asarray(to_device(array, "cpu"), dtype)


def on_cpu(array: Array) -> bool:
    """Tell whether a CPU works on ``array``: temporaries should fit into its cache."""
    return str(array.device) == "cpu"


def eye(rows: int, columns: int, template: Array) -> Array:
    """Return ones along the diagonal, shape (rows, columns), in float64 on the device of ``template``."""
    xp = namespace(template)
    return xp.eye(rows, columns, dtype=xp.float64, device=template.device)


def outer(left: Array, right: Array) -> Array:
    """Return ``a b^T`` of two vectors."""
    return left[:, None] * right


def squares(array: Array) -> Array:
    """Return the sum of the squares of all numbers, as an array without axes."""
    flat = array.reshape(-1)
    return flat @ flat


def select(condition: Array, one: Array, other: Array) -> Array:
    """Return ``one`` where the condition holds and ``other`` elsewhere, whatever their values.

    Does what ``where`` does. NumPy's branches on every element, which takes four times as long on conditions without a
    pattern, so the bits are selected instead; ``one * condition + other * ~condition`` would make NaN of infinity.

    Args:
        condition: booleans, of the shape of the result.
        one: of the shape of the result.
        other: of the shape and the float type of ``one``.
    """
    if not isinstance(one, np.ndarray):
        return namespace(one).where(condition, one, other)
    bits = np.dtype(f"i{one.itemsize}")
    mask = -condition.astype(bits)  # all bits or none
    chosen = other.view(bits) ^ ((other.view(bits) ^ one.view(bits)) & mask)
    return chosen.view(one.dtype)


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows or elements, ``size`` at a time."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
