"""Order in which the inputs of a linear map can be left out, the others making good for them.

Least squares with one input less has a closed form, as in the Optimal Brain Surgeon, so that all inputs are left out
one after the other, each time the one whose loss raises the error least::

    H = G + l I,   V = H^-1 (R + l W0)
    repeat:  j = argmin  tr(V_j^T [H^-1]_jj^-1 V_j);   V -= H^-1_:j [H^-1]_jj^-1 V_j;
             H^-1 -= H^-1_:j [H^-1]_jj^-1 H^-1_j:

| code    | meaning                                                      | shape    |
|---------|--------------------------------------------------------------|----------|
| gram    | G, centred second moments of the inputs                      | (m, m)   |
| cross   | R, of inputs with targets                                    | (m, d)   |
| weight  | W0, the map that the ridge pulls toward                      | (m, d)   |
| j       | an input, or the ``block`` inputs of one channel             |          |
| inverse | H^-1                                                         | (m, m)   |
| best    | V, the map of the inputs that are left                       | (m, d)   |

Use it to rank inputs; what is left is better solved anew, with a ridge that held-out rows select.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dgemm
from scipy.linalg.lapack import dpotri

Floats = NDArray[np.float64]

_ROUND_SHARE = 1 / 32  # of the channels that are left, taken out between two updates of the whole inverse
_CANDIDATES_PER_CHANNEL = 2  # in a round; among these the choice is exact
_COMPACT_SHARE = 0.75  # of the rows: with fewer left, copying them costs less than going on with zeros


def elimination_order(
    gram: Floats, cross: Floats, weight: Floats, block: int = 1, damping: float = 1e-3
) -> NDArray[np.int64]:
    """Return the channels of an input in the order in which they can best be left out.

    Channels are taken out in rounds: within a round, each is the cheapest one given those before it, among twice as
    many candidates as the round takes; all others are looked at again after it.

    Args:
        gram: centred second moments of the inputs, shape (m, m).
        cross: of inputs with targets, shape (m, d).
        weight: the map that is right where the inputs are what they should be, shape (m, d).
        block: consecutive inputs that make up a channel, and go together; m is a multiple of it.
        damping: l, relative to the mean diagonal of G; more where rows are few.

    Returns:
        All m / block channels, the one that is missed least first.

    References:
        He, Zhang, Sun 2017, arXiv:1707.06168 (the problem); Hassibi, Stork, Wolff 1993, Optimal Brain Surgeon (the
        elimination).
    """
    count = len(gram) // block
    if not gram.any():
        return np.arange(count)
    ridge = damping * float(np.trace(gram)) / len(gram)
    factor = cho_factor(gram + ridge * np.eye(len(gram)), overwrite_a=True, lower=True)
    best = np.ascontiguousarray(cho_solve(factor, cross + ridge * weight))
    half, _ = dpotri(factor[0], lower=True)
    half = np.tril(half)
    inverse = np.asfortranarray(half + np.tril(half, -1).T)
    channels, order = np.arange(count), []  # those that the rows are of: some are out already, with zeros in their rows
    is_left = np.ones(count, bool)
    for taken in _rounds(count):
        costs = np.where(is_left, _costs(inverse, best, block), np.inf)
        candidates = np.argsort(costs, kind="stable")[: min(_CANDIDATES_PER_CHANNEL * taken, is_left.sum())]
        out = _cheapest(inverse, best, candidates, taken, block)
        order.append(channels[out])
        is_left[out] = False
        _take_out(inverse, best, _rows(out, block))
        if is_left.sum() < _COMPACT_SHARE * len(channels):
            stay = np.repeat(is_left, block)
            inverse, best = np.asfortranarray(inverse[stay][:, stay]), best[stay]
            channels, is_left = channels[is_left], np.ones(is_left.sum(), bool)
    return np.concatenate(order)


def _rounds(count: int) -> Iterator[int]:
    """Yield how many channels each round takes out."""
    while count:
        taken = max(1, int(count * _ROUND_SHARE))
        yield taken
        count -= taken


def _take_out(inverse: Floats, best: Floats, out: NDArray[np.int64]) -> None:
    """Update the inverse, in Fortran's order, and the map in place for inputs that go; their rows become zero."""
    rows, maps = inverse[out], best[out]
    towards = np.linalg.solve(rows[:, out], rows)
    dgemm(-1.0, towards.T, rows.T, 1.0, inverse, trans_b=True, overwrite_c=True)
    dgemm(-1.0, maps.T, towards.T, 1.0, best.T, trans_b=True, overwrite_c=True)
    inverse[out], inverse[:, out], best[out] = 0.0, 0.0, 0.0  # but for rounding


def _rows(channels: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Return the inputs of channels."""
    rows: NDArray[np.int64] = (channels[:, None] * block + np.arange(block)).ravel()
    return rows


def _costs(inverse: Floats, best: Floats, block: int) -> Floats:
    """Return by how much the squared error rises without each channel, shape (channels,); zero if it is out already."""
    if block == 1:
        squares: Floats = np.einsum("id,id->i", best, best)
        squares /= inverse.diagonal().clip(min=np.finfo(float).tiny)
        return squares
    each = np.arange(len(best)).reshape(-1, block)
    of_channel = best.reshape(len(each), block, -1)
    blocks = inverse[each[:, :, None], each[:, None, :]]
    blocks[~blocks.any(axis=(1, 2))] = np.eye(block)  # out already
    costs: Floats = np.einsum("cbd,cbd->c", of_channel, np.linalg.solve(blocks, of_channel))
    return costs


def _cheapest(inverse: Floats, best: Floats, candidates: NDArray[np.int64], size: int, block: int) -> NDArray[np.int64]:
    """Return ``size`` of the candidates, one after the other the cheapest given those before it."""
    rows = _rows(candidates, block)
    inverse, best = np.asfortranarray(inverse[np.ix_(rows, rows)]), best[rows]
    is_left, out = np.ones(len(candidates), bool), []
    for _ in range(size):
        chosen = int(np.where(is_left, _costs(inverse, best, block), np.inf).argmin())
        is_left[chosen] = False
        out.append(chosen)
        _take_out(inverse, best, _rows(np.array([chosen]), block))
    return candidates[out]
