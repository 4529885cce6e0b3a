"""The share of a layer's response energy that lies in its leading directions, from the original responses alone.

| code        | paper                        | meaning                                    | shape |
|-------------|------------------------------|--------------------------------------------|-------|
| eigenvalues | sigma_{l,1} >= sigma_{l,2} ..| of the centred response covariance         | (d,)  |
| energy[r]   | sum_{a<=r} sigma / sum sigma | share kept by rank r, 0 to 1               | (d+1,)|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import largest_ranks
from onnx_lowrank.layers.rank_losses import RankLosses, energy_shares
from onnx_lowrank.linalg.blas_threads import one_thread


def energy_curve(responses: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy that each rank keeps of the centred responses.

    Args:
        responses: rows of samples, shape (n, d).

    Returns:
        Shape (d + 1,), entry r the share rank r keeps; all ones for responses that never vary.

    References:
        Zhang et al. 2015, arXiv:1505.06798, rank selection for whole-model acceleration.
    """
    centred = responses.astype(np.float64)
    centred -= centred.mean(axis=0)
    covariance = centred.T @ centred
    with one_thread():
        eigenvalues = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
    return energy_shares(eigenvalues)


def ranks_keeping(energies: NDArray[np.float64], shares: Sequence[float]) -> list[int]:
    """Return the smallest ranks that keep shares of the energy.

    Args:
        energies: shape (d + 1,), entry r the share that rank r keeps, see `energy_curve`.
        shares: each above 0 and below 1.

    Returns:
        A rank from 1 to d for each.

    >>> ranks_keeping(np.array([0.0, 0.5, 0.75, 1.0]), [0.5, 0.9])
    [1, 3]
    """
    return [max(1, min(len(energies) - 1, int(np.searchsorted(energies, share)))) for share in shares]


def response_energies(layer: Layer, responses: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy that each channel rank keeps of a layer's responses; of several groups, all at the same rank.

    Args:
        layer: the layer.
        responses: in the original network, shape (n, d).

    Returns:
        Shape (d / groups + 1,), entry r the share that rank r keeps.
    """
    parts = [responses[:, filters] for _, _, filters in layer.parts]
    variances = [float(np.var(part, axis=0, dtype=np.float64).sum()) for part in parts]
    shares: NDArray[np.float64] = np.average(
        [energy_curve(part) for part in parts], axis=0, weights=variances if any(variances) else None
    )
    return shares


def energy_losses(layer: Layer, responses: NDArray[Any]) -> RankLosses:
    """Return the energy that each channel rank loses, in place of a measured error: what the paper selects ranks by.

    Args:
        layer: the layer.
        responses: its responses in the original network, shape (n, d).

    Returns:
        Losses at every channel rank, and at the largest spatial and input ranks only.

    References:
        Zhang et al. 2015, arXiv:1505.06798, rank selection for whole-model acceleration.
    """
    largest = largest_ranks(layer)
    kept = response_energies(layer, responses)
    ranks = np.arange(1, largest["channel"] + 1)
    spatial, input_ = (np.array([largest[kind]], np.int64) for kind in ("spatial", "input"))
    lost = 1 - kept[1:, None]
    return RankLosses(ranks, spatial, lost, kept, input=input_, input_errors=lost)
