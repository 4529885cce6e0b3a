"""Colours of made-up images, fitted to what the network's first BatchNormalization knows of the real ones.

Its mean and variance of a response are those of the images seen through a known filter. With mu the mean colour and A
the covariance of colours, and with the made-up images for how pixels side by side go together (R, of taps)::

    mean_k     = sum_c mu_c sum_p w_kcp share_p                  share_p: positions where tap p is inside the image
    variance_k = sum_cd A_cd sum_pq w_kcp R_pq w_kdq  +  what the borders do to mu

Both are linear in mu and A: dozens of equations for three and six numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.input_statistics import InputStatistics

_LEAST = 1e-3  # eigenvalue of a covariance of colours, beside the largest
_FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Colours:
    """An affine map of colours.

    Attributes:
        matrix: shape (c, c).
        offset: shape (c,).
        error: mean relative error of the first variances, before and after.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    error: tuple[float, float]

    def __call__(self, images: NDArray[np.floating], *, channels_first: bool) -> NDArray[np.floating]:
        """Images with other colours, shape and type as they were."""
        if not channels_first:
            changed = images @ self.matrix.T + self.offset
        else:
            changed = np.einsum("ij,njhw->nihw", self.matrix, images) + self.offset[:, None, None]
        return changed.astype(images.dtype)


def fit_colours(images: NDArray[np.floating], first: InputStatistics) -> Colours | None:
    """The map of colours after which images have the first responses that the network's training images had.

    Args:
        images: some of them, shape (n, c, h, w).
        first: the convolution that reads them, and the statistics of its responses.

    Returns:
        The map; None where it would bring nothing: too few filters, or the variances fit no better with it.
    """
    channels = images.shape[1]
    filters, taps = len(first.weight), first.weight.reshape(len(first.weight), channels, -1)
    if first.weight.shape[1] != channels or filters < 2 * channels * (channels + 1) // 2:
        return None
    pixels = images.transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
    mean, covariance = pixels.mean(axis=1), np.cov(pixels).reshape(channels, channels)
    together, inside, borders = _neighbours(images - mean[:, None, None], np.diag(covariance), first)
    weights = 1 / np.maximum(first.variance, _FLOOR)
    colour = np.linalg.lstsq(np.sqrt(weights)[:, None] * (taps @ inside), np.sqrt(weights) * first.mean, rcond=None)[0]
    variance = first.variance - np.einsum("kcp,pq,kdq,c,d->k", taps, borders, taps, colour, colour)
    seen = np.einsum("kcp,pq,kdq->kcd", taps, together, taps)
    found = _covariance(seen, variance, weights)
    errors = tuple(_error(seen, each, variance) for each in (covariance, found))
    if not errors[1] < errors[0]:
        return None
    matrix = _root(found) @ np.linalg.inv(_root(covariance))
    return Colours(matrix, colour - matrix @ mean, (errors[0], errors[1]))


def _neighbours(
    centred: NDArray[np.floating], variances: NDArray[np.float64], first: InputStatistics
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """How taps of the kernel go together, how often each is inside of the image, and the covariance of being so."""
    products = []
    for channel, variance in enumerate(variances):
        seen = first.patches(centred[:, channel]).astype(np.float64)
        products.append(seen.T @ seen / (len(seen) * max(variance, _FLOOR)))
    ones = first.patches(np.ones((1, *centred.shape[2:])))
    inside = ones.mean(axis=0)
    return np.mean(products, axis=0), inside, ones.T @ ones / len(ones) - np.outer(inside, inside)


def _covariance(
    seen: NDArray[np.float64], variance: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The covariance of colours that explains the variances best, made positive."""
    channels = seen.shape[1]
    rows, columns = np.triu_indices(channels)
    equations = seen[:, rows, columns] + seen[:, columns, rows] * (rows != columns)
    numbers = np.linalg.lstsq(weights[:, None] * equations, weights * variance, rcond=None)[0]
    found = np.zeros((channels, channels))
    found[rows, columns] = found[columns, rows] = numbers
    values, vectors = np.linalg.eigh(found)
    return np.asarray((vectors * values.clip(_LEAST * max(values.max(), _FLOOR))) @ vectors.T)


def _error(seen: NDArray[np.float64], covariance: NDArray[np.float64], variance: NDArray[np.float64]) -> float:
    explained = np.einsum("kcd,cd->k", seen, covariance)
    return float(np.mean(np.abs(explained - variance) / np.maximum(np.abs(variance), _FLOOR)))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root: of all that give this covariance, the map that moves colours least."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(_FLOOR))) @ vectors.T)
