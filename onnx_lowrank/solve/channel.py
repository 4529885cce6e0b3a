"""Channel decomposition: kh x kw with fewer filters, then 1 x 1.

    y = W x + b0,   y' = P Q y + offset   ->   first: Q W (no bias),   second: P, bias P Q b0 + offset

| code     | meaning                                      | shape            |
|----------|----------------------------------------------|------------------|
| weight   | W                                            | (d, c, kh, kw)   |
| bias     | b0                                           | (d,)             |
| P, Q     | the map of responses of low rank             | (d, d'), (d', d) |
| offset   | of that map                                  | (d,)             |

Use the spatial-channel decomposition for large kernels: this one keeps all kh x kw of them.
"""

from __future__ import annotations

import numpy as np

from onnx_lowrank.layers.factors import Convolution, FactorChain
from onnx_lowrank.layers.layer import Layer, pointwise
from onnx_lowrank.layers.responses import LayerSamples
from onnx_lowrank.linalg.arrays import Array, blocks, like, namespace
from onnx_lowrank.linalg.row_blocks import over_blocks
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.reconstruct import reconstruct
from onnx_lowrank.solve.reduced_rank import RankFactors
from onnx_lowrank.solve.truncated_svd import truncated_svd

_BLOCK_ROWS = 6144  # patches read at a time: a multiple of the rows that kernels take, lest numbers depend on it


def solve_channel(layer: Layer, responses: LayerSamples, rank: int, *, solver: str = "auto") -> FactorChain:
    """Solve a layer as a kh x kw convolution with ``rank`` filters and a 1 x 1 convolution.

    Args:
        layer: the original layer.
        responses: its sampled rows.
        rank: channel rank d'.
        solver: see `reconstruct`.

    Returns:
        The two convolutions, their errors, and the reason where the data-free factors were taken.

    References:
        Zhang et al. 2015, arXiv:1505.06798.
    """
    rows = Rows.of(responses.targets, input_responses(layer, responses), layer.activation)
    data_free = truncated_svd(layer.weight, layer.bias, rank)
    solved = reconstruct(rows, np.eye(layer.filters), data_free, solver=solver)
    return FactorChain(channel_convolutions(layer, solved.factors.on_host()), solved.errors, solved.reason)


def input_responses(layer: Layer, responses: LayerSamples) -> Array:
    """Apply the original layer to the patches; shape (n, d), on the device of the targets and in their type."""
    patches, template = responses.patches, responses.targets.responses
    xp = namespace(template)
    weight, bias = (np.asarray(array, np.float64) for array in (layer.weight, layer.bias))
    # Kernel column by kernel column, channels last, as patches come: nothing is moved then.
    filters = like(np.swapaxes(weight, 1, -1).reshape(len(weight), -1), template)
    result = xp.empty((len(patches), len(filters)), dtype=template.dtype, device=template.device)

    def fill(rows: slice) -> None:
        columns = like(patches[rows], template).swapaxes(1, -1)
        result[rows] = columns.reshape(-1, filters.shape[1]) @ filters.T

    list(over_blocks(fill, blocks(len(patches), _BLOCK_ROWS), template))
    result += xp.asarray(bias, device=template.device)
    return result


def channel_convolutions(layer: Layer, factors: RankFactors) -> tuple[Convolution, ...]:
    """Return the two convolutions that apply a map of responses; all bias sits in the second."""
    weight = np.asarray(layer.weight, np.float64)
    first = (factors.Q @ weight.reshape(layer.filters, -1)).reshape(-1, *weight.shape[1:])
    axes = len(layer.kernel)
    bias = factors.offset + factors.P @ (factors.Q @ np.asarray(layer.bias, np.float64))
    return (
        Convolution(first, None, layer.geometry),
        Convolution(factors.P.reshape(*factors.P.shape, *[1] * axes), bias, pointwise(axes)),
    )
