"""Write solved factors in a layer's float type with no more loss than the type's own precision.

float16 ends at 65,504 and loses digits below 6.1e-5, where its subnormal numbers begin. A chain computes the same if a
channel between two factors is scaled by a power of two and scaled back behind it, so channels that would lose digits or
overflow are scaled until both sides have about the same size.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer

Weights = list[NDArray[np.float64]]

_HALF_BYTES = 2  # of a number of float16 and bfloat16
_SWEEPS = 3  # over the pairs of factors, as the middle one of three has two neighbours


def typed_weights(layer: Layer, factors: FactorChain) -> list[NDArray[np.floating]]:
    """Return the weights of a chain in the layer's float type, balanced where half precision needs it.

    Args:
        layer: whose float type they get.
        factors: its chain.

    Raises:
        ModelError: a weight overflows the type.
    """
    return [typed(layer, weight) for weight in _balanced(layer, factors)]


def typed(layer: Layer, values: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return numbers in the layer's float type.

    Subnormal float32 and float64 numbers, which are slow and useless, become zero; those of half precision stay.

    Raises:
        ModelError: a number overflows the type.
    """
    limits = ml_dtypes.finfo(layer.weight.dtype)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > limits.max:
        raise ModelError(
            f"{layer.op} '{layer.name}': a solved weight does not fit {layer.weight.dtype}: "
            "leave the layer out with `exclude`, or convert the float32 model"
        )
    kept = values if _is_half(layer.weight.dtype) else np.where(np.abs(values) < limits.tiny, 0, values)
    rounded: NDArray[np.floating] = kept.astype(layer.weight.dtype)
    return rounded


def rounding_loss(layer: Layer, factors: FactorChain) -> float:
    """Return the largest relative error that the layer's float type adds to a factor, in units of its precision.

    Rounding of normal numbers stays below 0.5.

    Raises:
        ModelError: a weight overflows the type.
    """
    weights = _balanced(layer, factors)
    errors = [_relative_error(weight.reshape(1, -1), layer.weight.dtype)[0] for weight in weights]
    return float(max(errors) / ml_dtypes.finfo(layer.weight.dtype).eps)


def loses_digits(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Return which rows a type with few exponents overflows or rounds to clearly fewer digits than it has.

    Args:
        rows: numbers in a wider type, shape (n, ...).
        dtype: a float type; float32 and wider ones never do.
    """
    if not _is_half(dtype):
        return np.zeros(len(rows), bool)
    return ~(_relative_error(rows.reshape(len(rows), -1), dtype) <= ml_dtypes.finfo(dtype).eps)


def _is_half(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize == _HALF_BYTES


@np.errstate(all="ignore")  # numbers that overflow are infinitely far off
def _relative_error(rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Return the relative error of every row when rounded, shape (n,); 0 for rows of zeros."""
    exact = rows.astype(np.float64)
    lost = np.linalg.norm(exact.astype(dtype).astype(np.float64) - exact, axis=1)
    return np.where(lost == 0, 0, lost / np.linalg.norm(exact, axis=1))


def _balanced(layer: Layer, factors: FactorChain) -> Weights:
    """Return the weights of a chain, channels between two factors scaled where half precision would lose digits."""
    weights = [each.weight for each in factors.convolutions]
    if not _is_half(layer.weight.dtype):
        return weights
    for _ in range(_SWEEPS):
        for first in range(len(weights) - 1):
            groups = factors.convolutions[first + 1].groups
            weights[first : first + 2] = _balance(weights[first], weights[first + 1], groups, layer.weight.dtype)
    return weights


def _balance(
    first: NDArray[np.float64], second: NDArray[np.float64], groups: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two factors with the channels between them scaled by powers of two, those that lose digits only."""
    made = first.reshape(len(first), -1)  # by channel: the filter that makes it, and the weights that read it
    read = np.swapaxes(second.reshape(groups, len(second) // groups, second.shape[1], -1), 1, 2).reshape(len(first), -1)
    lossy = loses_digits(made, dtype) | loses_digits(read, dtype)
    sizes = [np.abs(rows).max(axis=1) for rows in (made, read)]
    lossy &= (sizes[0] > 0) & (sizes[1] > 0)
    exponents = np.zeros(len(first))
    exponents[lossy] = np.round(np.log2(sizes[1][lossy] / sizes[0][lossy]) / 2)
    scale = np.exp2(exponents)
    by_reader = np.repeat(scale.reshape(groups, 1, -1), len(second) // groups, axis=1).reshape(second.shape[:2])
    axes = (1,) * (first.ndim - 2)
    return first * scale.reshape(-1, 1, *axes), second / by_reader.reshape(*second.shape[:2], *axes)
