"""Scale the channels between the factors of a chain, so that a quantization to eight bits loses less.

Nothing bends between two factors: a channel may be scaled in the first and scaled back in the second, by a power of two
without any rounding. Whoever quantizes the network has one scale for all channels of a tensor, and often one for all of
a weight. Both lose least where the channels have about the same range, which a scale of channel i cannot give to both::

    s_i = sqrt( max_o |W2_oi| / max |x_i| ),   W1_i: *= s_i,   W2_:i /= s_i

makes the range of a channel the same before the second factor and in it.

| code     | meaning                                                  | shape              |
|----------|----------------------------------------------------------|--------------------|
| made     | W1, the factor that makes the channels                   | (k, c, kh, kw)     |
| read     | W2, the factor that reads them                           | (d, k, kh, kw)     |
| inputs   | of W1, points of its kernel on the last axes             | (n, c, kh, kw)     |
| scale    | s                                                        | (k,)               |

References:
    Nagel, van Baalen, Blankevoort, Welling 2019, arXiv:1906.04721 (equalization of two weights; with the range of the
    channels in the place of that of the first weight it is ours).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.responses import Patches

Floats = NDArray[np.float64]

PIECES, ROWS_PER_PIECE = 8, 64  # of the patches that ranges are measured on, spread over all images


def balanced(chain: FactorChain, patches: Patches) -> FactorChain:
    """Return a chain that computes the same, with channels between its factors of about the same range.

    Args:
        chain: of one group.
        patches: input patches of the layer, shape (n, c, kh, kw).
    """
    convolutions, inputs = list(chain.convolutions), _some(patches)
    for number in range(len(convolutions) - 1):
        made, read = convolutions[number], convolutions[number + 1]
        inputs = _responses(made.weight, inputs)
        scale = _scales(_ranges(inputs), _ranges(read.weight))
        by_channel = scale.reshape(-1, *[1] * (read.weight.ndim - 2))
        convolutions[number] = replace(made, weight=made.weight * by_channel[:, None])
        convolutions[number + 1] = replace(read, weight=read.weight / by_channel)
        inputs = inputs * by_channel
    return replace(chain, convolutions=tuple(convolutions))


def _some(patches: Patches) -> Floats:
    """Return patches of a few places, shape (m, c, kh, kw)."""
    starts = np.linspace(0, max(0, len(patches) - ROWS_PER_PIECE), PIECES).astype(int).tolist()
    return np.concatenate([np.asarray(patches[start : start + ROWS_PER_PIECE], np.float64) for start in starts])


def _responses(weight: Floats, inputs: Floats) -> Floats:
    """Return what a factor makes of patches, (n, k, ...): axes that its kernel covers shrink to one point."""
    axes = range(2, inputs.ndim)
    covered = [axis for axis in axes if weight.shape[axis] == inputs.shape[axis]]
    passed = [axis for axis in axes if axis not in covered]
    filters = np.squeeze(weight, tuple(passed))
    responses = np.tensordot(inputs, filters, axes=([1, *covered], range(1, filters.ndim)))  # (n, passed axes, k)
    return np.expand_dims(np.moveaxis(responses, -1, 1), tuple(covered))


def _ranges(array: Floats) -> Floats:
    """Return the largest magnitude of every entry of the second axis."""
    largest: Floats = np.abs(array).max(axis=(0, *range(2, array.ndim)))
    return largest


def _scales(made: Floats, read: Floats) -> Floats:
    """Return powers of two; 1 for channels that are silent or that nobody reads."""
    used = (made > 0) & (read > 0)
    ratio = np.where(used, read, 1.0) / np.where(used, made, 1.0)
    scales: Floats = np.exp2(np.round(np.log2(ratio) / 2))
    return scales
