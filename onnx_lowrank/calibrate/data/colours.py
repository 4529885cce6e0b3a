"""Fit the colours of synthetic images to the statistics of the training images in the first BatchNormalization.

Its mean and variance of a response are those of the training images seen through a known filter. With the mean colour
mu, the covariance A of colours, and the correlation R of neighbouring pixels, which is that of the synthetic images::

    mean_k     = sum_c mu_c sum_p w_kcp share_p
    variance_k = sum_cd A_cd sum_pq w_kcp R_pq w_kdq  +  sum_cd mu_c mu_d sum_pq w_kcp B_pq w_kdq

| symbol  | meaning                                                       | shape    |
|---------|---------------------------------------------------------------|----------|
| k, c, p | filter, channel, point of the kernel                          |          |
| w       | filters                                                       | (d, c, p)|
| share   | share of the positions where kernel point p is in the image   | (p,)     |
| B       | covariance of "kernel point p is in the image"                | (p, p)   |

The mean is linear in mu, and the variance in A once mu is known: dozens of equations for three and six unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.input_statistics import InputStatistics

_MIN_EIGENVALUE_RATIO = 1e-3  # of a covariance of colours, relative to its largest eigenvalue
_MIN_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Colours:
    """An affine map of colours: ``matrix @ colour + offset``.

    Attributes:
        matrix: shape (c, c).
        offset: shape (c,).
        error: mean relative error of the explained variances, before and after the map.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    error: tuple[float, float]

    def __call__(self, images: NDArray[np.floating], *, channels_first: bool) -> NDArray[np.floating]:
        """Map the colours of images; shape and dtype stay.

        Args:
            images: shape (n, c, h, w), or (n, h, w, c) unless ``channels_first``.
            channels_first: which of the two it is.
        """
        mapped: NDArray[np.floating]
        if channels_first:
            mapped = np.einsum("ij,njhw->nihw", self.matrix, images) + self.offset[:, None, None]
        else:
            mapped = images @ self.matrix.T + self.offset
        return mapped.astype(images.dtype)


def fit_colours(images: NDArray[np.floating], first: InputStatistics) -> Colours | None:
    """Fit the map of colours that gives images the first responses of the network's training images.

    Args:
        images: a sample of the synthetic images, shape (n, c, h, w).
        first: the convolution that reads the images, and the statistics of its responses.

    Returns:
        The map; None if there are too few filters to fit it, or if it explains the variances no better.
    """
    channels = images.shape[1]
    filters, taps = len(first.weight), first.weight.reshape(len(first.weight), channels, -1)
    if first.weight.shape[1] != channels or filters < 2 * channels * (channels + 1) // 2:
        return None
    pixels = images.transpose(1, 0, 2, 3).reshape(channels, -1).astype(np.float64)
    mean, covariance = pixels.mean(axis=1), np.cov(pixels).reshape(channels, channels)
    correlation, share, borders = _kernel_statistics(images - mean[:, None, None], np.diag(covariance), first)
    weights = 1 / np.maximum(first.variance, _MIN_VARIANCE)
    colour = np.linalg.lstsq(np.sqrt(weights)[:, None] * (taps @ share), np.sqrt(weights) * first.mean, rcond=None)[0]
    variance = first.variance - np.einsum("kcp,pq,kdq,c,d->k", taps, borders, taps, colour, colour)
    coefficients = np.einsum("kcp,pq,kdq->kcd", taps, correlation, taps)
    fitted = _fit_covariance(coefficients, variance, weights)
    before, after = (_error(coefficients, each, variance) for each in (covariance, fitted))
    if not after < before:
        return None
    matrix = _root(fitted) @ np.linalg.inv(_root(covariance))
    return Colours(matrix, colour - matrix @ mean, (before, after))


def _kernel_statistics(
    centred: NDArray[np.floating], variances: NDArray[np.float64], first: InputStatistics
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return R, share and B of the module's equations: shapes (p, p), (p,) and (p, p)."""
    products = []
    for channel, variance in enumerate(variances):
        patches = first.patches(centred[:, channel]).astype(np.float64)
        products.append(patches.T @ patches / (len(patches) * max(variance, _MIN_VARIANCE)))
    inside = first.patches(np.ones((1, *centred.shape[2:])))
    share = inside.mean(axis=0)
    return np.mean(products, axis=0), share, inside.T @ inside / len(inside) - np.outer(share, share)


def _fit_covariance(
    coefficients: NDArray[np.float64], variance: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit the covariance of colours to the variances by least squares, and make it positive definite.

    Args:
        coefficients: of its entries in each equation, shape (d, c, c).
        variance: right-hand sides, shape (d,).
        weights: of the equations, shape (d,).

    Returns:
        Shape (c, c).
    """
    channels = coefficients.shape[1]
    rows, columns = np.triu_indices(channels)
    equations = coefficients[:, rows, columns] + coefficients[:, columns, rows] * (rows != columns)
    entries = np.linalg.lstsq(weights[:, None] * equations, weights * variance, rcond=None)[0]
    covariance = np.zeros((channels, channels))
    covariance[rows, columns] = covariance[columns, rows] = entries
    values, vectors = np.linalg.eigh(covariance)
    min_value = _MIN_EIGENVALUE_RATIO * max(values.max(), _MIN_VARIANCE)
    return np.asarray((vectors * values.clip(min_value)) @ vectors.T)


def _error(coefficients: NDArray[np.float64], covariance: NDArray[np.float64], variance: NDArray[np.float64]) -> float:
    explained = np.einsum("kcd,cd->k", coefficients, covariance)
    return float(np.mean(np.abs(explained - variance) / np.maximum(np.abs(variance), _MIN_VARIANCE)))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric square root: of all roots, the one whose map changes colours least."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(values.clip(_MIN_VARIANCE))) @ vectors.T)
