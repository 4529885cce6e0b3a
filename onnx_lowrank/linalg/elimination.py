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

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float64]

_ROUND_SHARE = 1 / 32  # of the channels that are left, taken out between two updates of the whole inverse
_CANDIDATES_PER_CHANNEL = 2  # in a round; among these the choice is exact


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
    factor = cho_factor(gram + ridge * np.eye(len(gram)), overwrite_a=True)
    inverse = cho_solve(factor, np.eye(len(gram)))
    best = cho_solve(factor, cross + ridge * weight)
    left, order = np.arange(count), []
    while len(left):
        channels = np.arange(len(left))
        size = max(1, int(len(left) * _ROUND_SHARE))
        candidates = np.argsort(_costs(inverse, best, channels, block), kind="stable")
        out = _cheapest(inverse, best, candidates[: _CANDIDATES_PER_CHANNEL * size], size, block)
        order.append(left[out])
        stay = np.setdiff1d(channels, out)
        inverse, best = _without(inverse, best, _rows(out, block), _rows(stay, block))
        left = left[stay]
    return np.concatenate(order)


def _without(inverse: Floats, best: Floats, out: NDArray[np.int64], stay: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the inverse and the map of the inputs that stay, once others are out."""
    towards = np.linalg.solve(inverse[np.ix_(out, out)], inverse[np.ix_(out, stay)]).T
    rest: Floats = inverse[np.ix_(stay, stay)]
    rest -= towards @ inverse[np.ix_(out, stay)]
    return rest, best[stay] - towards @ best[out]


def _rows(channels: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """Return the inputs of channels."""
    rows: NDArray[np.int64] = (channels[:, None] * block + np.arange(block)).ravel()
    return rows


def _costs(inverse: Floats, best: Floats, channels: NDArray[np.int64], block: int) -> Floats:
    """Return by how much the squared error rises without each channel, shape (channels,)."""
    rows = _rows(channels, block)
    of_channel = best[rows].reshape(len(channels), block, -1)
    if block == 1:
        squares: Floats = np.einsum("cbd,cbd->c", of_channel, of_channel)
        squares /= np.diag(inverse)[rows].clip(min=np.finfo(float).tiny)
        return squares
    each = rows.reshape(-1, block)
    blocks = inverse[each[:, :, None], each[:, None, :]]
    costs: Floats = np.einsum("cbd,cbd->c", of_channel, np.linalg.solve(blocks, of_channel))
    return costs


def _cheapest(inverse: Floats, best: Floats, candidates: NDArray[np.int64], size: int, block: int) -> NDArray[np.int64]:
    """Return ``size`` of the candidates, one after the other the cheapest given those before it."""
    rows = _rows(candidates, block)
    inverse, best = inverse[np.ix_(rows, rows)], best[rows]
    left, out = np.arange(len(candidates)), []
    for _ in range(size):
        costs = _costs(inverse, best, left, block)
        chosen = int(left[costs.argmin()])
        own = np.arange(chosen * block, (chosen + 1) * block)
        towards = np.linalg.solve(inverse[np.ix_(own, own)], inverse[own]).T
        best = best - towards @ best[own]
        inverse = inverse - towards @ inverse[own]
        left = left[left != chosen]
        out.append(chosen)
    return candidates[out]
